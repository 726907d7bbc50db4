"""R@1 against what is visible and against what a look-up costs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Record = dict[str, Any]

COLOURS = {
    "hash": "tab:green", "mark": "tab:purple", "descriptor": "tab:gray", "aindex": "tab:blue", "both": "tab:red",
}  # fmt: skip
UNCHANGED_DB = 48.0
LABELS = {
    "psnr_db": "PSNR of what is released (dB)",
    "look_up_ms": "ms of a core per look-up, measured here",
    "billion_ms": "ms of a core per look-up among a billion, reckoned\n(R@1 as here: not measured among a billion)",
}


def figure_of(
    records: Sequence[Record], keys: Sequence[str] = tuple(LABELS), *, legend: bool = True
) -> "Figure":
    """Panels over one axis of R@1; points carry the numbers of the table's rows.

    Args:
        records: the table's rows, with `name`, `family`, `pictures`, `recall`, and the keys.
        keys: of the panels, among those of `LABELS`.
        legend: numbers and names beside the panels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(keys) + 2.6 * legend, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(keys), sharey=True, squeeze=False)[0]
    most = max(one["pictures"] for one in records)
    for axes, key in zip(panels, keys, strict=True):
        _panel(axes, records, key, most)
    panels[0].set_ylabel("R@1, average of fourteen default edits")
    if legend:
        handles = [
            panels[0].plot([], [], "o", **_look(one, most), label=f"{number}  {one['name']}")[0]
            for number, one in enumerate(records, 1)
        ]
        hollow = "hollow: on fewer pictures" if any(one["pictures"] < most for one in records) else None
        figure.legend(handles=handles, loc="outside right upper", fontsize=8, frameon=False, title=hollow)
    return figure


def _panel(axes: Any, records: Sequence[Record], key: str, most: int) -> None:
    """Number labels step aside where points lie on each other."""
    placed: list[tuple[float, float]] = []
    # from the highest down, so that of two labels the upper one is the upper point's
    for number, record in sorted(enumerate(records, 1), key=lambda pair: -pair[1]["recall"]["default"]):
        x = record[key] if np.isfinite(record[key]) else UNCHANGED_DB
        y = record["recall"]["default"]
        axes.plot(x, y, "o", **_look(record, most))
        across = x / 2 if key == "psnr_db" else 2 * np.log10(x)
        near = sum(abs(across - a) < 0.5 and abs(y - b) < 0.03 for a, b in placed)
        offset = [(6, 4), (6, -11), (-16, 4), (-16, -11)][near % 4]
        axes.annotate(str(number), (x, y), textcoords="offset points", xytext=offset, fontsize=9)
        placed.append((across, y))
    axes.set_xlabel(LABELS[key])
    axes.margins(x=0.12)
    axes.grid(alpha=0.25)
    if key == "psnr_db":
        ticks = [36, 38, 40, 42, 44, 46]
        axes.set_xticks([*ticks, UNCHANGED_DB], [*map(str, ticks), "nothing\nchanged"])
    else:
        axes.set_xscale("log")


def _look(record: Record, most: int) -> dict[str, Any]:
    """Colour of the family; hollow where fewer pictures were seen than others saw."""
    colour = COLOURS[record["family"]]
    return {"color": colour, "markerfacecolor": colour if record["pictures"] == most else "none"}
