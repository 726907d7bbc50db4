"""Alternative texts: what a chart shows, in words."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from aindex.evaluation import figures
from aindex.evaluation.blocks import Chart
from aindex.evaluation.retrieval import AVERAGE, AVERAGE_WITHOUT_SCREENSHOT


def finding(what: str, series: Mapping[str, "pd.Series[Any]"]) -> str:
    """The averages over edits, and the edit with the largest difference (of one series: with the lowest value).

    Args:
        what: name of the values.
        series: per series the values, by the edit's label.
    """
    averages = [f"{label} {values[AVERAGE]:.3f}" for label, values in series.items() if AVERAGE in values]
    text = f"{what}, average over edits: {', '.join(averages)}."
    names = [AVERAGE, AVERAGE_WITHOUT_SCREENSHOT]
    parts = [values.drop(labels=names, errors="ignore").dropna().to_dict() for values in series.values()]
    before, after = parts[0], parts[-1]
    shared = [attack for attack in before if attack in after]
    if not shared:
        return text
    if len(parts) == 1:
        lowest = min(shared, key=lambda attack: before[attack])
        return f"{text} Lowest under {lowest}: {before[lowest]:.3f}."
    most = max(shared, key=lambda attack: abs(after[attack] - before[attack]))
    first, last = next(iter(series)), list(series)[-1]
    return f"{text} Furthest apart under {most}: {first} {before[most]:.3f}, {last} {after[most]:.3f}."


def distribution_chart(
    values: Mapping[str, "pd.Series[float]"], name: str, of: Mapping[str, str] | None = None
) -> Chart:
    """A chart of distributions; its alternative text has their medians and quantiles.

    Args:
        values: per label.
        name: of the quantity, with its unit.
        of: the series of each label, which decides its colour; by default the label itself.
    """
    figure = figures.distribution_figure(values, xlabel=name, series=of)
    known = {label: some[np.isfinite(some)] for label, some in values.items()}
    parts = [
        f"{label} {some.median():.3g} ({some.quantile(0.05):.3g} to {some.quantile(0.95):.3g})"
        for label, some in known.items()
        if len(some)
    ]
    alt = f"{name}, median (5 to 95 % of the values): {', '.join(parts) or 'no finite value'}."
    few = all(len(some) <= figures.MOST_DOTS for some in known.values())
    how = "a dot per value" if few else "line: 5 to 95 %, bar: 25 to 75 %, dot: median"
    return Chart(figures.svg_data_uri(figure), f"{name}: {how}", alt)
