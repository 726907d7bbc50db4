"""What a report is made of: sections of charts and tables, and the table of measures per edit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from aindex.evaluation.measures import COUNT, Cell, Measure
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
        for attack in sorted(attacks, key=lambda attack: attack in Table.sums)
    ]
    source = "; ".join(
        f"{file}: {', '.join(m.columns or m.key for m in shown if m.file == file)}"
        for file in dict.fromkeys(m.file for m in shown)
    )
    header = ["attack", *("n" if once and m is count else label for m, label in columns)]
    groups = [(m.name, len(labels)) for m, labels in shown.items()]
    return Table(header, rows, source, title, groups, len(shown) == 1)
