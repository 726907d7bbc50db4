"""Charts of an evaluation as matplotlib figures, without pyplot, whose state is global."""

import base64
import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from aindex.evaluation.copy_detection import PrecisionRecallCurve, Score
from aindex.evaluation.intervals import wilson
from aindex.evaluation.measures import Number
from aindex.evaluation.retrieval import AVERAGES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = Mapping[str, "pd.Series[Any]"]
Curves = Mapping[str, Mapping[Score, PrecisionRecallCurve]]

PASSIVE = "passive"
MOST_DOTS = 60
"""Up to so many values each is drawn; of more only quantiles."""
_INK = "#1f2937"
_PALE = "#d1d5db"
# colours, and what takes their places on a dark page, where they would not stand out
_GREYS = {"#6b7280": "#a3acb9", "#8a8178": "#b8aea3", "#4b5563": "#cbd2db", "#7d8a99": "#9fb0c2"}
# told apart by the colour-blind as well (after Okabe and Ito)
_COLOURS = {
    "#0b62a8": "#60a5fa",
    "#d55e00": "#fb923c",
    "#009e73": "#34d399",
    "#cc79a7": "#f0a6cf",
    "#e69f00": "#fbbf24",
    "#56b4e9": "#7dd3fc",
    "#7a4fbf": "#c4b5fd",
    "#5b5b1f": "#d9d97a",
}
_DARK = {_INK: "#e5e7eb", _PALE: "#3b4657", **_GREYS, **_COLOURS}
# narrow enough that the letters stay readable at the width of a phone
_WIDTH = 4.5
_MOST_POINTS = 800
_LONGEST_LABEL = 36
_LEGEND_LINE = 0.19  # inches
_FEWEST_PARAMS_OF_A_CURVE = 4


def colours(labels: Sequence[str]) -> dict[str, str]:
    """A colour per series; greys for the passive ones."""
    bright, grey = cycle(_COLOURS), cycle(_GREYS)
    return {label: next(grey if label.endswith(PASSIVE) else bright) for label in labels}


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _plain(text: str) -> str:
    """A label without formulas, shortened in the middle if it is very long."""
    short = text if len(text) <= _LONGEST_LABEL else f"{text[:20]}…{text[-15:]}"
    return short.replace("$", r"\$")


def _style(axes: "Axes", *, grid: Literal["x", "both"] = "both", xlabel: str = "", ylabel: str = "") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_PALE)
    axes.tick_params(labelsize=9, colors=_INK, length=0)
    axes.grid(axis=grid, color=_PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel, fontsize=9, color=_INK)
    axes.set_ylabel(ylabel, fontsize=9, color=_INK)


def _legend_columns(labels: Sequence[str], width: float) -> int:
    """How many columns of a legend fit into a width in inches, up to three."""
    longest = max(map(len, labels), default=1)
    return max(1, min(3, int(width / (0.55 + 0.073 * longest))))


def _legend(figure: "Figure", axes: "Axes") -> None:
    """Add a legend at the top and make the figure taller by its height."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = _legend_columns(labels, figure.get_figwidth())
        figure.set_figheight(figure.get_figheight() + _LEGEND_LINE * (-(-len(labels) // columns) - 1))
        style: dict[str, Any] = {"frameon": False, "fontsize": 9, "labelcolor": _INK, "columnspacing": 1.4}
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, **style)


def dots_figure(
    series: Values, *, xlabel: str, n: Values | None = None, ceiling: "pd.Series[Any] | None" = None
) -> "Figure":
    """A line per edit with a dot per series: for R@1, or the share in the same cell.

    Args:
        series: per label the values between 0 and 1, indexed by the edit's label.
        xlabel: what the values are.
        n: per label how many copies each value is the share of, for 95 % intervals.
        ceiling: values of an exhaustive search, drawn as a tick across each line.
    """
    figure = _figure(_WIDTH, 0.9)
    axes = figure.add_subplot()
    _draw_dots(axes, series, xlabel, n, ceiling)
    figure.set_figheight(1.0 + len(axes.get_yticks()) * _line_height(len(series)))
    _legend(figure, axes)
    return figure


def _line_height(series: int) -> float:
    return max(0.3, 0.14 + 0.09 * series)  # inches


def _draw_dots(
    axes: "Axes", series: Values, xlabel: str, n: Values | None, ceiling: "pd.Series[Any] | None" = None
) -> None:
    attacks = list(dict.fromkeys(attack for values in series.values() for attack in values.index))
    # false comes first
    attacks.sort(key=lambda attack: attack in AVERAGES)
    places = np.arange(len(attacks)) + [0.35 * (attack in AVERAGES) for attack in attacks]
    step = 0.66 / max(len(series), 2)
    for number, (label, colour) in enumerate(colours(list(series)).items()):
        values = series[label].reindex(attacks).to_numpy(dtype=float)
        offset = (number - (len(series) - 1) / 2) * step
        if n is not None:
            counts = n[label].reindex(attacks).to_numpy(dtype=float)
            bounds = np.array([wilson(v, c) for v, c in zip(values, np.nan_to_num(counts), strict=True)])
            axes.hlines(places + offset, bounds[:, 0], bounds[:, 1], color=colour, linewidth=1.2, alpha=0.6)
        axes.plot(values, places + offset, "o", color=colour, markersize=4.5, label=_plain(label))
    if ceiling is not None and ceiling.notna().any():
        known = ceiling.reindex(attacks).to_numpy(dtype=float)
        axes.vlines(known, places - 0.42, places + 0.42, color=_INK, linewidth=1.4, label="exhaustive search")
    axes.set_yticks(places, ["\n".join(wrap(_plain(attack).replace("_", " "), 18)) for attack in attacks])
    axes.set_ylim(places[-1] + 0.6, -0.6)
    # beyond 0 and 1, or half of a dot there would be cut off
    axes.set_xlim(-0.02, 1.02)
    _style(axes, xlabel=xlabel)


def cost_figure(series: Mapping[str, Mapping[str, Number]]) -> "Figure":
    """R@1 against rows scanned per query, a dot with its 95 % interval per series; numbers are rows per picture."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    figure = _figure(_WIDTH, 3.4)
    axes = figure.add_subplot()
    palette = colours(list(series))
    scanned = {label: max(known["scanned_rows"].value, 1) for label, known in series.items()}
    for label, known in series.items():
        colour, x, recall = palette[label], scanned[label], known["r@1"]
        if recall.interval is not None:
            axes.vlines(x, *recall.interval, color=colour, linewidth=1.2, alpha=0.6)
        axes.plot(x, recall.value, "o", color=colour, markersize=6, label=_plain(label))
        if "rows_per_picture" in known:
            text, place = f"{known['rows_per_picture'].value:.3g}", (x, recall.value)
            axes.annotate(text, place, (6, 4), textcoords="offset points", fontsize=8, color=_INK)
    axes.set_xscale("log")
    axes.set_xlim(min(scanned.values()) / 2, max(scanned.values()) * 2)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rows, _: f"{rows:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(-0.02, 1.02)
    _style(axes, xlabel="rows scanned per query", ylabel="R@1, average over edits")
    _legend(figure, axes)
    return figure


def curve_families(retrieval: pd.DataFrame) -> list[str]:
    """The edits that were run with enough parameters to draw R@1 against the parameter."""
    numeric = pd.to_numeric(retrieval["attack_param"], errors="coerce")
    counts = numeric.groupby(retrieval["attack"].to_numpy(), sort=False).nunique()
    return [str(name) for name in counts.index[counts >= _FEWEST_PARAMS_OF_A_CURVE]]


def recall_curves_figure(retrievals: Mapping[str, pd.DataFrame]) -> "Figure":
    """R@1 against the parameter of each of the `curve_families`, at least one, in rows of `retr_df.csv` per label."""
    families = list(dict.fromkeys(f for rows in retrievals.values() for f in curve_families(rows)))
    lines = -(-len(families) // 2)
    figure = _figure(_WIDTH, 0.5 + 1.75 * lines)
    palette = colours(list(retrievals))
    for number, family in enumerate(families):
        axes = figure.add_subplot(lines, 2, number + 1)
        for label, rows in retrievals.items():
            part = rows[rows["attack"] == family]
            params = pd.to_numeric(part["attack_param"], errors="coerce").to_numpy()
            means = part.groupby(params)["r@1"].mean()
            axes.plot(means.index, means, ".-", color=palette[label], label=_plain(label), linewidth=1.5)
        axes.set_title(family.replace("_", " "), fontsize=9, color=_INK, loc="left")
        axes.set_ylim(-0.03, 1.03)
        _style(axes)
    _legend(figure, axes)
    return figure


def precision_recall_figure(curves: Curves) -> "Figure":
    """Precision against recall: a colour per series, dashed for the normalised score, a dot at 90 %."""
    figure = _figure(_WIDTH, 3.6)
    axes = figure.add_subplot()
    _draw_precision_recall(axes, curves)
    _legend(figure, axes)
    return figure


def _draw_precision_recall(axes: "Axes", curves: Curves) -> None:
    axes.axhline(0.9, color=_INK, linewidth=0.8, linestyle=":")
    for label, colour in colours(list(curves)).items():
        for score, curve in curves[label].items():
            if not curve.recall.size:
                continue
            kept = _points_to_draw(curve)
            line, name = "-" if score == "plain" else "--", f"{_plain(label)}, {score}"
            recall, precision = curve.recall, curve.precision
            axes.plot(recall[kept], precision[kept], line, color=colour, label=name, linewidth=1.6)
            precise = np.flatnonzero(precision >= 0.9)
            if precise.size:
                axes.plot(recall[precise[-1]], precision[precise[-1]], "o", color=colour, markersize=5)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.03)
    _style(axes, xlabel="recall", ylabel="precision")


def _points_to_draw(curve: PrecisionRecallCurve) -> npt.NDArray[np.int64]:
    """The points where recall grows; of all points evenly chosen ones would miss them."""
    grows = np.flatnonzero(np.diff(curve.recall, prepend=0) > 0)
    grows = np.union1d(grows, [curve.recall.size - 1])
    return grows[np.unique(np.linspace(0, grows.size - 1, _MOST_POINTS).round().astype(np.int64))]


def distribution_figure(
    values: Mapping[str, npt.ArrayLike], *, xlabel: str, series: Mapping[str, str] | None = None
) -> "Figure":
    """The distribution of one quantity, a line each: every value as a dot, or five quantiles of many.

    Of many the thin line goes from 5 to 95 %, the thick one from 25 to 75 %, the dot is the median.

    Args:
        values: per label; what is not finite is left out.
        xlabel: the quantity and its unit.
        series: the series of each label, which decides its colour; by default the label itself.
    """
    figure = _figure(_WIDTH, 0.9 + 0.42 * max(len(values), 1))
    axes = figure.add_subplot()
    of = series or {label: label for label in values}
    palette = colours(list(dict.fromkeys(of[label] for label in values)))
    finite = {label: _finite(some) for label, some in values.items()}
    for place, (label, some) in enumerate(finite.items()):
        if 0 < some.size <= MOST_DOTS:
            heights = _stacked(some, np.concatenate(list(finite.values())))
            axes.plot(some, place - heights, "o", color=palette[of[label]], markersize=3.2, alpha=0.8)
        elif some.size:
            low, first, middle, last, high = np.quantile(some, [0.05, 0.25, 0.5, 0.75, 0.95])
            axes.hlines(place, low, high, color=palette[of[label]], linewidth=1.2)
            axes.hlines(place, first, last, color=palette[of[label]], linewidth=5)
            axes.plot(middle, place, "o", color=_INK, markersize=4)
    axes.set_yticks(range(len(finite)), ["\n".join(wrap(_plain(label), 18)) for label in finite])
    axes.set_ylim(len(finite) - 0.4, -0.6)
    _style(axes, grid="x", xlabel=xlabel)
    return figure


def _stacked(values: npt.NDArray[np.float64], everything: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Heights of dots, 0 to 0.42: those of about the same value lie above each other."""
    low, high = everything.min(), everything.max()
    columns = np.floor((values - low) / ((high - low) or 1.0) * 60).astype(int)
    order = np.argsort(values, kind="stable")
    height = np.zeros(len(values))
    for column in np.unique(columns):
        there = order[columns[order] == column]
        height[there] = np.arange(len(there))
    height *= min(0.11, 0.42 / max(height.max(), 1.0))
    return height


def _finite(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    return array[np.isfinite(array)]


def comparison_figure(recall: Values, curves: Curves, n: Values | None = None) -> "Figure":
    """R@1 per edit beside the precision-recall curves (those only where there are any), for a paper."""
    attacks = max((len(values) for values in recall.values()), default=1)
    height = max(4.2, 1.1 + attacks * _line_height(len(recall)))
    figure = _figure(11.0 if curves else 5.5, height)
    panels = [figure.add_subplot(1, 2 if curves else 1, 1)]
    _draw_dots(panels[0], recall, "R@1", n)
    if curves:
        panels.append(figure.add_subplot(1, 2, 2))
        _draw_precision_recall(panels[1], curves)
    for panel in panels:
        labels = panel.get_legend_handles_labels()[1]
        columns = _legend_columns(labels, 4.5)
        lines = -(-len(labels) // columns)
        figure.set_figheight(max(figure.get_figheight(), height + _LEGEND_LINE * lines))
        panel.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, fontsize=9)
    return figure


def figure_bytes(figure: "Figure", kind: Literal["svg", "png", "pdf"] = "svg") -> bytes:
    """A figure as the content of a file; SVG is transparent and follows the dark mode of a page."""
    import matplotlib

    buffer = io.BytesIO()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
    with matplotlib.rc_context({"svg.hashsalt": "aindex"}):
        figure.savefig(buffer, format=kind, dpi=160, metadata=metadata, transparent=kind == "svg")
    return _with_dark_mode(buffer.getvalue()) if kind == "svg" else buffer.getvalue()


def _with_dark_mode(svg: bytes) -> bytes:
    """The SVG with colours that change in dark mode."""
    text = svg.decode()
    for number, colour in enumerate(_DARK):
        text = text.replace(f": {colour}", f": var(--c{number})")
    light, dark = (
        "".join(f"--c{number}:{colour};" for number, colour in enumerate(some))
        for some in (_DARK, _DARK.values())
    )
    style = f":root{{{light}}}@media (prefers-color-scheme: dark){{:root{{{dark}}}}}</style>"
    return text.replace("</style>", style, 1).encode()


def svg_data_uri(figure: "Figure") -> str:
    """A figure as a data URI."""
    return "data:image/svg+xml;base64," + base64.b64encode(figure_bytes(figure)).decode()
