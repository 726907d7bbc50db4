"""Tables of a comparison as Markdown and LaTeX, the best value of each row in bold.

The best is only what lies beyond the 95 % intervals of all others; what has no interval (a time, µAP) is never it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import pandas as pd

from aindex.evaluation.intervals import Interval, wilson
from aindex.evaluation.retrieval import (
    AVERAGE,
    AVERAGE_WITHOUT_SCREENSHOT,
    SHARES,
    known_measures,
    retrieval_table,
)
from aindex.evaluation.run_files import Results
from aindex.evaluation.summary import Measure, measures, number_text

_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: "\\" + character for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "µ": r"$\mu$",
    "∞": r"$\infty$",
    "–": "--",
    "−": "$-$",
}


@dataclass(frozen=True)
class TextTable:
    """Row names and texts.

    Attributes:
        title: the caption.
        header: names of the columns, the first one of the row names.
        rows: a row name and a text per column.
        best: (row, column) places of the best values.
        ruled: row names with a line above.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: frozenset[tuple[int, int]] = frozenset()
    ruled: Sequence[str] = (AVERAGE,)


@dataclass(frozen=True)
class _Row:
    """A row before it is text; with `n` its values are shares of so many, other values may have bounds."""

    name: str
    values: Sequence[float | None]
    decimals: int
    higher_is_better: bool | None
    n: Sequence[int | None]
    bounds: Sequence[Interval | None] = ()

    def texts(self) -> list[str]:
        texts = []
        for interval, value in zip(self.intervals(), self.values, strict=True):
            text = number_text(float("nan") if value is None else value, self.decimals)
            texts.append(text if interval is None else f"{text} ({interval.text})")
        return [self.name, *texts]

    def intervals(self) -> list[Interval | None]:
        known = zip(self.values, self.n, strict=True)
        return [
            None if value is None or n is None or pd.isna(value) else wilson(value, n) for value, n in known
        ]

    def best(self) -> list[int]:
        """Places of the best values, where their intervals lie beyond those of all others."""
        places = _best(self.values, self.decimals, self.higher_is_better)
        known = [one or other for one, other in zip_longest(self.intervals(), self.bounds)]
        own = [known[place] for place in places]
        others = [known[p] for p, v in enumerate(self.values) if p not in places and not _missing(v)]
        sign = 1 if self.higher_is_better else -1
        is_clear = all(
            one is not None and other is not None and _clear(one, other, sign)
            for one in own
            for other in others
        )
        return places if is_clear else []


def _missing(value: float | None) -> bool:
    return value is None or bool(pd.isna(value))


def _clear(one: Interval, other: Interval, sign: int) -> bool:
    return one.low > other.high if sign > 0 else one.high < other.low


def _best(values: Sequence[float | None], decimals: int, higher_is_better: bool | None) -> list[int]:
    """Places of the best of at least two values, equal ones together, as far as the shown decimals tell."""
    rounded = {
        place: round(v, decimals) for place, v in enumerate(values) if v is not None and not pd.isna(v)
    }
    if len(rounded) < 2 or higher_is_better is None:
        return []
    best = max(rounded.values()) if higher_is_better else min(rounded.values())
    places = [place for place, value in rounded.items() if value == best]
    return places if len(places) < len(rounded) else []


def _table(title: str, header: Sequence[str], rows: Sequence[_Row]) -> TextTable:
    best = frozenset((number, place + 1) for number, row in enumerate(rows) for place in row.best())
    return TextTable(title, header, [row.texts() for row in rows], best)


def attack_tables(series: Mapping[str, Results]) -> list[TextTable]:
    """R@1, R@10, R@100 and AP, as far as they are known: a row per attack, a column per series; first the counts."""
    known = {label: retrieval_table(r.retrieval).set_index("attack") for label, r in series.items()}
    attacks = list(dict.fromkeys(attack for table in known.values() for attack in table.index))
    averages = [attack for attack in attacks if attack in (AVERAGE, AVERAGE_WITHOUT_SCREENSHOT)]
    ordered = [attack for attack in attacks if attack not in averages] + averages
    counts = [table["images"].to_dict() for table in known.values()]
    rows = [
        _Row(attack.replace("_", " "), [c.get(attack) for c in counts], 0, None, [None] * len(counts))
        for attack in ordered
    ]
    tables = [_table("Copies per attack (n)", ["attack", *known], rows)]
    for measure, title in (("r@1", "R@1"), ("r@10", "R@10"), ("r@100", "R@100"), ("ap", "AP")):
        if not any(measure in known_measures(table) for table in known.values()):
            continue
        columns = [table[measure].to_dict() for table in known.values()]
        rows = [
            _Row(
                attack.replace("_", " "),
                [column.get(attack) for column in columns],
                3,
                True,
                [count.get(attack) if measure in SHARES else None for count in counts],
            )
            for attack in ordered
        ]
        tables.append(_table(f"{title} per attack", ["attack", *known], rows))
    return tables


def measure_table(series: Mapping[str, Results]) -> TextTable:
    """All summary numbers: a row per measure, a column per series."""
    known = {label: {m.key: m for m in measures(results)} for label, results in series.items()}
    first: dict[str, Measure] = {}
    for found in known.values():
        for key, measure in found.items():
            first.setdefault(key, measure)
    rows = [
        _Row(
            measure.label,
            [found[key].value if key in found else None for found in known.values()],
            measure.decimals,
            measure.higher_is_better,
            [found[key].n if key in found else None for found in known.values()],
            [found[key].bounds if key in found else None for found in known.values()],
        )
        for key, measure in first.items()
    ]
    return _table("All measures", ["measure", *known], rows)


def markdown(table: TextTable) -> str:
    """A table in Markdown (GitHub's form)."""
    lines = [
        "| " + " | ".join(markdown_text(name) for name in table.header) + " |",
        "|---|" + "---:|" * (len(table.header) - 1),
    ]
    for number, row in enumerate(table.rows):
        cells = [markdown_text(text) for text in row]
        cells = [f"**{c}**" if (number, place) in table.best else c for place, c in enumerate(cells)]
        lines.append("| " + " | ".join(cells) + " |")
    return f"### {markdown_text(table.title)}\n\n" + "\n".join(lines) + "\n"


def markdown_text(text: str) -> str:
    """Text in which nothing is taken for Markdown, on one line."""
    escaped = "".join("\\" + c if c in "\\`*_|<>[]" else c for c in text)
    return " ".join(escaped.split())


def latex(table: TextTable) -> str:
    """A table in LaTeX, for the package `booktabs`."""
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex_text(table.title)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
        r"\toprule",
        " & ".join(_latex_text(name) for name in table.header) + r" \\",
        r"\midrule",
    ]
    for number, row in enumerate(table.rows):
        if row[0] in table.ruled:
            lines.append(r"\midrule")
        cells = [_latex_text(text) for text in row]
        cells = [rf"\textbf{{{c}}}" if (number, place) in table.best else c for place, c in enumerate(cells)]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _latex_text(text: str) -> str:
    return " ".join("".join(_LATEX.get(character, character) for character in text).split())
