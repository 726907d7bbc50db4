"""Charts of an evaluation as matplotlib figures, made without pyplot so that nothing global is touched."""

import base64
import io
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from aindex.evaluation.copy_detection import PrecisionRecallCurve, Score
from aindex.evaluation.retrieval import AVERAGE, AVERAGE_WITHOUT_SCREENSHOT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PASSIVE = "passive"
_INK = "#1f2937"
_PALE = "#d1d5db"
_GREYS = ("#9ca3af", "#6b7280", "#c3c8d0", "#4b5563")
# told apart by the colour-blind as well (after Okabe and Ito)
_COLOURS = ("#0b62a8", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a4fbf", "#5b5b1f")
# narrow enough that the letters stay readable at the width of a phone
_WIDTH = 4.5
_MOST_POINTS = 800
_LONGEST_LABEL = 36
_LEGEND_LINE = 0.19  # inches
_FEWEST_PARAMS_OF_A_CURVE = 4


def colours(labels: Sequence[str]) -> dict[str, str]:
    """A colour per series; greys for the passive ones."""
    bright, grey = iter(_COLOURS * len(labels)), iter(_GREYS * len(labels))
    return {label: next(grey if label.endswith(PASSIVE) else bright) for label in labels}


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _plain(text: str) -> str:
    """Text that matplotlib does not take for a formula, in its middle shortened if it is very long."""
    short = text if len(text) <= _LONGEST_LABEL else f"{text[:20]}…{text[-15:]}"
    return short.replace("$", r"\$")


def _style(axes: "Axes", *, grid: Literal["x", "y", "both"]) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_PALE)
    axes.tick_params(labelsize=9, colors=_INK, length=0)
    axes.grid(axis=grid, color=_PALE, linewidth=0.6)
    axes.set_axisbelow(True)


def _legend_columns(labels: Sequence[str], width: float) -> int:
    """How many columns of a legend fit into a width in inches, up to three."""
    longest = max(map(len, labels), default=1)
    return max(1, min(3, int(width / (0.55 + 0.073 * longest))))


def _legend(figure: "Figure", axes: "Axes") -> None:
    """A legend above everything, for which the figure grows."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = _legend_columns(labels, figure.get_figwidth())
        figure.set_figheight(figure.get_figheight() + _LEGEND_LINE * (-(-len(labels) // columns) - 1))
        style: dict[str, Any] = {"frameon": False, "fontsize": 9, "labelcolor": _INK, "columnspacing": 1.4}
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, **style)


def bars_figure(
    series: Mapping[str, "pd.Series[Any]"],
    *,
    xlabel: str,
    ceiling: "pd.Series[Any] | None" = None,
    ceiling_label: str = "exhaustive search",
) -> "Figure":
    """A group of horizontal bars per attack, a bar per series: for R@1, or the share in the same cell.

    Args:
        series: per label the values between 0 and 1, indexed by the attack's label.
        xlabel: what the values are.
        ceiling: values drawn as a tick across each group.
        ceiling_label: their name.
    """
    figure = _figure(_WIDTH, 0.9)
    axes = figure.add_subplot()
    draw_bars(axes, series, xlabel=xlabel, ceiling=ceiling, ceiling_label=ceiling_label)
    rows = len(axes.get_yticks())
    figure.set_figheight(1.0 + rows * max(0.28, 0.1 + 0.11 * len(series)))
    _legend(figure, axes)
    return figure


def draw_bars(
    axes: "Axes",
    series: Mapping[str, "pd.Series[Any]"],
    *,
    xlabel: str,
    ceiling: "pd.Series[Any] | None" = None,
    ceiling_label: str = "exhaustive search",
) -> None:
    """Draw what `bars_figure` shows into axes."""
    attacks = list(dict.fromkeys(attack for values in series.values() for attack in values.index))
    averages = [attack for attack in attacks if attack in (AVERAGE, AVERAGE_WITHOUT_SCREENSHOT)]
    attacks = [attack for attack in attacks if attack not in averages] + averages
    places = np.arange(len(attacks), dtype=float)
    places[len(attacks) - len(averages) :] += 0.35
    bar = 0.76 / max(len(series), 1)
    for number, (label, colour) in enumerate(colours(list(series)).items()):
        values = series[label].reindex(attacks).to_numpy(dtype=float)
        offset = (number - (len(series) - 1) / 2) * bar
        axes.barh(places + offset, np.nan_to_num(values), height=bar, color=colour, label=_plain(label))
    if ceiling is not None and ceiling.notna().any():
        known = ceiling.reindex(attacks).to_numpy(dtype=float)
        axes.vlines(known, places - 0.42, places + 0.42, color=_INK, linewidth=1.4, label=ceiling_label)
    axes.set_yticks(places, ["\n".join(wrap(_plain(attack).replace("_", " "), 18)) for attack in attacks])
    axes.set_ylim(places[-1] + 0.6, -0.6)
    # a hair beyond 1, or half of a tick at 1 would be cut off
    axes.set_xlim(0, 1.004)
    axes.set_xlabel(xlabel, fontsize=9, color=_INK)
    _style(axes, grid="x")


def curve_families(retrieval: pd.DataFrame) -> list[str]:
    """The attacks that were run with enough parameters to draw R@1 against the parameter."""
    numeric = pd.to_numeric(retrieval["attack_param"], errors="coerce")
    counts = numeric.groupby(retrieval["attack"].to_numpy(), sort=False).nunique()
    return [str(name) for name in counts.index[counts >= _FEWEST_PARAMS_OF_A_CURVE]]


def recall_curves_figure(retrievals: Mapping[str, pd.DataFrame]) -> "Figure":
    """R@1 against the parameter of each attack that has at least four; a line per series.

    Args:
        retrievals: rows of `retr_df.csv` per label.
    """
    families = list(dict.fromkeys(f for rows in retrievals.values() for f in curve_families(rows)))
    lines = -(-len(families) // 2)
    figure = _figure(_WIDTH, 0.5 + 1.75 * max(lines, 1))
    palette = colours(list(retrievals))
    axes: Axes | None = None
    for number, family in enumerate(families):
        axes = figure.add_subplot(lines, 2, number + 1)
        for label, rows in retrievals.items():
            part = rows[rows["attack"] == family]
            params = pd.to_numeric(part["attack_param"], errors="coerce").to_numpy()
            means = part.groupby(params)["r@1"].mean()
            axes.plot(means.index, means, ".-", color=palette[label], label=_plain(label), linewidth=1.5)
        axes.set_title(family.replace("_", " "), fontsize=9, color=_INK, loc="left")
        axes.set_ylim(-0.03, 1.03)
        _style(axes, grid="both")
    if axes is not None:
        _legend(figure, axes)
    return figure


def precision_recall_figure(
    curves: Mapping[str, Mapping[Score, PrecisionRecallCurve]],
) -> "Figure":
    """Precision against recall: a colour per series, dashed for the normalised score, a dot at 90 %.

    Args:
        curves: per label and score.
    """
    figure = _figure(_WIDTH, 3.6)
    axes = figure.add_subplot()
    draw_precision_recall(axes, curves)
    _legend(figure, axes)
    return figure


def draw_precision_recall(axes: "Axes", curves: Mapping[str, Mapping[Score, PrecisionRecallCurve]]) -> None:
    """Draw what `precision_recall_figure` shows into axes."""
    axes.axhline(0.9, color=_INK, linewidth=0.8, linestyle=":")
    for label, colour in colours(list(curves)).items():
        for score, curve in curves[label].items():
            if not curve.recall.size:
                continue
            kept = _points_to_draw(curve)
            line = "-" if score == "plain" else "--"
            name = f"{_plain(label)}, {score}"
            axes.plot(
                curve.recall[kept], curve.precision[kept], line, color=colour, label=name, linewidth=1.6
            )
            precise = np.flatnonzero(curve.precision >= 0.9)
            if precise.size:
                axes.plot(
                    curve.recall[precise[-1]], curve.precision[precise[-1]], "o", color=colour, markersize=5
                )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("recall", fontsize=9, color=_INK)
    axes.set_ylabel("precision", fontsize=9, color=_INK)
    _style(axes, grid="both")


def _points_to_draw(curve: PrecisionRecallCurve) -> npt.NDArray[np.int64]:
    """The points where recall grows: the many false pairs between them would take the places of the few."""
    grows = np.flatnonzero(np.diff(curve.recall, prepend=0) > 0)
    grows = np.union1d(grows, [curve.recall.size - 1])
    return grows[np.unique(np.linspace(0, grows.size - 1, _MOST_POINTS).round().astype(np.int64))]


def histogram_figure(values: Mapping[str, npt.ArrayLike], *, xlabel: str) -> "Figure":
    """The distribution of one quantity, a filled outline per series, as shares of each series.

    Args:
        values: per label; what is not finite is left out.
        xlabel: the quantity and its unit.
    """
    figure = _figure(_WIDTH, 2.1)
    axes = figure.add_subplot()
    finite = {label: _finite(series) for label, series in values.items()}
    together = np.concatenate([np.empty(0), *finite.values()])
    bins = _bins(together)
    for (label, series), colour in zip(finite.items(), colours(list(finite)).values(), strict=True):
        if series.size:
            share = np.full(series.size, 1 / series.size)
            style: dict[str, Any] = {"weights": share, "histtype": "stepfilled", "edgecolor": colour}
            axes.hist(
                series, bins.tolist(), facecolor=(colour, 0.25), linewidth=1.4, label=_plain(label), **style
            )
    axes.set_xlabel(xlabel, fontsize=9, color=_INK)
    axes.set_ylabel("share", fontsize=9, color=_INK)
    _style(axes, grid="y")
    if len(finite) > 1:
        _legend(figure, axes)
    return figure


def _bins(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Edges of about forty bins; around whole numbers where all values are whole, so that no bin is empty."""
    if not values.size:
        return np.array([0.0, 1.0])
    if np.array_equal(values, values.round()):
        low, high = values.min(), values.max()
        step = max(1.0, np.ceil((high - low + 1) / 40))
        return np.arange(low, high + step + 0.5, step) - 0.5
    return np.histogram_bin_edges(values, bins=40)


def _finite(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    return array[np.isfinite(array)]


def comparison_figure(
    recall: Mapping[str, "pd.Series[Any]"], curves: Mapping[str, Mapping[Score, PrecisionRecallCurve]]
) -> "Figure":
    """R@1 per attack beside the precision-recall curves (those only where there are any), for a paper."""
    attacks = max((len(values) for values in recall.values()), default=1)
    height = max(4.2, 1.1 + attacks * max(0.28, 0.1 + 0.11 * len(recall)))
    figure = _figure(11.0 if curves else 5.5, height)
    panels = [figure.add_subplot(1, 2 if curves else 1, 1)]
    draw_bars(panels[0], recall, xlabel="R@1")
    if curves:
        panels.append(figure.add_subplot(1, 2, 2))
        draw_precision_recall(panels[1], curves)
    for panel in panels:
        labels = panel.get_legend_handles_labels()[1]
        columns = _legend_columns(labels, 4.5)
        lines = -(-len(labels) // columns)
        figure.set_figheight(max(figure.get_figheight(), height + _LEGEND_LINE * lines))
        panel.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, fontsize=9)
    return figure


def figure_bytes(figure: "Figure", kind: Literal["svg", "png", "pdf"] = "svg") -> bytes:
    """A figure as a file's content, the same for the same figure."""
    import matplotlib

    buffer = io.BytesIO()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
    with matplotlib.rc_context({"svg.hashsalt": "aindex"}):
        figure.savefig(buffer, format=kind, dpi=160, metadata=metadata)
    return buffer.getvalue()


def svg_data_uri(figure: "Figure") -> str:
    """A figure as a picture address that needs no file."""
    return "data:image/svg+xml;base64," + base64.b64encode(figure_bytes(figure)).decode()
