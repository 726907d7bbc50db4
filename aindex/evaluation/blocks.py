"""What a report is made of: sections of tables and charts, cells that know where their number comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from aindex.evaluation.intervals import wilson
from aindex.evaluation.retrieval import AVERAGE, AVERAGE_WITHOUT_SCREENSHOT
from aindex.evaluation.summary import Measure, number_text


@dataclass(frozen=True)
class Number:
    """A cell with a number.

    Attributes:
        text: as shown.
        key: `series|csv file|row|column`: what it was computed from; empty where there is nothing.
        interval: of a share, where it lies with 95 % confidence, as text.
    """

    text: str
    key: str
    interval: str = ""


Cell = Number | str
UNKNOWN = Number("–", "")


@dataclass(frozen=True)
class Table:
    """A table of a report.

    Attributes:
        groups: names over neighbouring columns and how many each spans; the first column stands outside.
        header: column names, the first one of the row names.
        rows: cells.
        source: the csv columns that the numbers come from.
        title: shown above.
        emphasised: row names drawn as sums are.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    source: str
    title: str = ""
    groups: Sequence[tuple[str, int]] = ()
    emphasised: Sequence[str] = (AVERAGE, AVERAGE_WITHOUT_SCREENSHOT)


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


def number(value: float, decimals: int, key: str, *, n: float | None = None) -> Number:
    """A cell for a number; with `n` it is a share of so many, and its interval is shown."""
    known = n is not None and value == value
    return Number(number_text(value, decimals), key, wilson(value, n or 0).text if known else "")


def measure_cell(measure: Measure | None, series: str) -> Number:
    """A cell for a summary number of a series; `UNKNOWN` where there is none."""
    if measure is None:
        return UNKNOWN
    interval = measure.interval
    return Number(measure.text, f"{series}|measure|{measure.key}|value", interval.text if interval else "")


@dataclass(frozen=True)
class AttackColumn:
    """A column of a table per attack.

    Attributes:
        group: the heading it shares with its neighbours.
        series: its own heading.
        values: by the attack's label.
        file: the csv file they are computed from.
        column: what they are called in keys.
        source: the csv column, where it has another name.
        decimals: how many to show.
        n: for shares, of how many, by the attack's label.
        heading: shown in place of the series.
    """

    group: str
    series: str
    values: "pd.Series[float]"
    file: str
    column: str
    source: str = ""
    decimals: int = 3
    n: "pd.Series[float] | None" = None
    heading: str = ""

    def cell(self, attack: str) -> Number:
        """The value of an attack."""
        key = f"{self.series}|{self.file}|{attack}|{self.column}"
        n = None if self.n is None else float(self.n.get(attack, 0))
        return number(float(self.values.get(attack, np.nan)), self.decimals, key, n=n)


def count_columns(counts: Mapping[str, "pd.Series[float]"], file: str) -> list[AttackColumn]:
    """How many copies each attack has: a column, or one per series where they differ."""
    first = next(iter(counts.values()))
    if all(one.equals(first) for one in counts.values()):
        label = next(iter(counts))
        return [AttackColumn("copies", label, first, file, "images", "attack", 0, heading="n")]
    return [
        AttackColumn("copies (n)", label, one, file, "images", "attack", 0) for label, one in counts.items()
    ]


def attack_table(columns: Sequence[AttackColumn]) -> Table:
    """A row per attack, averages last; neighbouring columns of one group under a common heading."""
    labels = list(dict.fromkeys(attack for column in columns for attack in column.values.index))
    averages = [label for label in labels if label in (AVERAGE, AVERAGE_WITHOUT_SCREENSHOT)]
    rows: list[list[Cell]] = []
    for label in [label for label in labels if label not in averages] + averages:
        rows.append([label.replace("_", " "), *(column.cell(label) for column in columns)])
    groups: list[tuple[str, int]] = []
    sources: dict[str, dict[str, None]] = {}
    for column in columns:
        same = groups and groups[-1][0] == column.group
        groups[-1:] = [(column.group, groups[-1][1] + 1)] if same else [*groups[-1:], (column.group, 1)]
        sources.setdefault(column.file, {})[column.source or column.column] = None
    source = "; ".join(f"{file}: {', '.join(names)}" for file, names in sources.items())
    header = ["attack", *(column.heading or column.series for column in columns)]
    return Table(header, rows, source, groups=groups)
