"""What a report is made of: sections of charts with their texts and tables, and the table of measures per edit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from aindex.evaluation import figures
from aindex.evaluation.measures import COUNT, Cell, Measure
from aindex.evaluation.retrieval import AVERAGE, AVERAGES
from aindex.evaluation.summary import attack_number
from aindex.evaluation.table import Table


@dataclass(frozen=True)
class Chart:
    """A picture of a report: its address with the data in it, what it shows, and what is seen there, in words."""

    uri: str
    caption: str
    alt: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a report; empty ones are not shown."""

    title: str
    text: str
    charts: list[Chart] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


def attack_table(
    means: Mapping[str, pd.DataFrame], measures: Sequence[Measure], *, title: str = "", counted_in: str = ""
) -> Table:
    """A row per edit, averages last; under each measure a column per series.

    Args:
        means: of the results of each series.
        measures: of them.
        title: the caption.
        counted_in: the csv file with a row per copy; the number of copies stands in front then, once where all
            series have the same.
    """
    first, *others = means.values()
    once = bool(counted_in) and all(one["images"].equals(first["images"]) for one in others)
    count = replace(COUNT, file=counted_in, name="copies", columns="attack")
    shown = {count: list(means)[: 1 if once else None]} if counted_in else {}
    shown |= {measure: list(means) for measure in measures}
    columns = [(measure, label) for measure, labels in shown.items() for label in labels]
    attacks = list(dict.fromkeys(attack for table in means.values() for attack in table.index))
    rows: list[list[Cell]] = [
        [attack.replace("_", " "), *(attack_number(means[label], attack, m, label) for m, label in columns)]
        # false comes first
        for attack in sorted(attacks, key=lambda attack: attack in AVERAGES)
    ]
    source = "; ".join(
        f"{file}: {', '.join(m.columns or m.key for m in shown if m.file == file)}"
        for file in dict.fromkeys(m.file for m in shown)
    )
    header = ["attack", *("n" if once and m is count else label for m, label in columns)]
    groups = [(m.name, len(labels)) for m, labels in shown.items()]
    return Table(header, rows, source, title, groups, len(shown) == 1)


def finding(what: str, series: Mapping[str, "pd.Series[Any]"]) -> str:
    """The averages over edits, and the edit with the largest difference (of one series: with the lowest value).

    Args:
        what: name of the values.
        series: per series the values, by the edit's label.
    """
    averages = [f"{label} {values[AVERAGE]:.3f}" for label, values in series.items() if AVERAGE in values]
    text = f"{what}, average over edits: {', '.join(averages)}."
    parts = [
        values.drop(labels=list(AVERAGES), errors="ignore").dropna().to_dict() for values in series.values()
    ]
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
    """A chart of distributions (see `distribution_figure`); its alternative text has their medians and quantiles."""
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
