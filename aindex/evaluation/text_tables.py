"""Tables of a comparison as Markdown and LaTeX, the best value of each row in bold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from aindex.evaluation.retrieval import AVERAGE, AVERAGE_WITHOUT_SCREENSHOT, retrieval_table
from aindex.evaluation.run_folder import Results
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


def _table(
    title: str, header: Sequence[str], rows: Sequence[tuple[str, Sequence[float | None], int, bool | None]]
) -> TextTable:
    """From rows of name, values, decimals, and whether higher is better."""
    best = frozenset(
        (number, place + 1)
        for number, (_, values, decimals, higher) in enumerate(rows)
        for place in _best(values, decimals, higher)
    )
    texts = [
        [name, *(number_text(float("nan") if v is None else v, decimals) for v in values)]
        for name, values, decimals, _ in rows
    ]
    return TextTable(title, header, texts, best)


def attack_tables(series: Mapping[str, Results]) -> list[TextTable]:
    """R@1, R@10, R@100 and AP: a row per attack, a column per series."""
    known = {label: retrieval_table(r.retrieval).set_index("attack") for label, r in series.items()}
    attacks = list(dict.fromkeys(attack for table in known.values() for attack in table.index))
    averages = [attack for attack in attacks if attack in (AVERAGE, AVERAGE_WITHOUT_SCREENSHOT)]
    ordered = [attack for attack in attacks if attack not in averages] + averages
    tables = []
    for measure, title in (("r@1", "R@1"), ("r@10", "R@10"), ("r@100", "R@100"), ("ap", "AP")):
        columns = [table[measure].to_dict() for table in known.values()]
        rows = [
            (attack.replace("_", " "), [column.get(attack) for column in columns], 3, True)
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
        (
            measure.label,
            [found[key].value if key in found else None for found in known.values()],
            measure.decimals,
            measure.higher_is_better,
        )
        for key, measure in first.items()
    ]
    return _table("All measures", ["measure", *known], rows)


def markdown(table: TextTable) -> str:
    """A table in Markdown (GitHub's form)."""
    lines = [
        "| " + " | ".join(_markdown_text(name) for name in table.header) + " |",
        "|---|" + "---:|" * (len(table.header) - 1),
    ]
    for number, row in enumerate(table.rows):
        cells = [_markdown_text(text) for text in row]
        cells = [f"**{c}**" if (number, place) in table.best else c for place, c in enumerate(cells)]
        lines.append("| " + " | ".join(cells) + " |")
    return f"### {_markdown_text(table.title)}\n\n" + "\n".join(lines) + "\n"


def _markdown_text(text: str) -> str:
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
