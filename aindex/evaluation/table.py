"""A table, and how it looks in a terminal, in Markdown and in LaTeX; the page's template draws it as HTML."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from aindex.evaluation.measures import Cell, best
from aindex.evaluation.retrieval import AVERAGE, AVERAGES

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{character: "\\" + character for character in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "µ": r"$\mu$",
        "∞": r"$\infty$",
        "–": "--",
        "−": "$-$",
    }
)
_MARKDOWN = str.maketrans({character: "\\" + character for character in "\\`*_|<>[]"})


@dataclass(frozen=True)
class Table:
    """A row name and a cell per column.

    Attributes:
        header: column names, the first one of the row names.
        rows: cells, the first of each the row's name.
        source: the csv columns that the numbers come from.
        title: the caption.
        groups: names over neighbouring columns and how many each spans; the first column stands outside.
        compared: the numbers of a row are of the same kind; the best stands out in Markdown and LaTeX.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    source: str = ""
    title: str = ""
    groups: Sequence[tuple[str, int]] = ()
    compared: bool = False
    sums: ClassVar = AVERAGES

    def best(self, row: Sequence[Cell]) -> list[int]:
        """Places in a row that stand out."""
        return best(row) if self.compared else []


def plain(table: Table) -> str:
    """A table for a terminal: the first column to the left, the others to the right, a rule above the averages."""
    lines = [list(table.header), *([str(cell) for cell in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = "  ".join("-" * width for width in widths)
    text = []
    for cells in lines:
        text += [rule] if cells[0] == AVERAGE else []
        padded = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
        text.append("  ".join([cells[0].ljust(widths[0]), *padded]))
    return "\n".join([text[0], rule, *text[1:]])


def markdown(table: Table) -> str:
    """A table in Markdown (GitHub's form)."""
    lines = [map(markdown_text, table.header), ["---", *["---:"] * (len(table.header) - 1)]]
    for row in table.rows:
        cells = [markdown_text(str(cell)) for cell in row]
        for place in table.best(row):
            cells[place] = f"**{cells[place]}**"
        lines.append(cells)
    title = f"### {markdown_text(table.title)}\n\n" if table.title else ""
    return title + "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def markdown_text(text: str) -> str:
    """Text in which nothing is taken for Markdown, on one line."""
    return " ".join(text.translate(_MARKDOWN).split())


def latex(table: Table) -> str:
    """A table in LaTeX, for the package `booktabs`."""
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex_text(table.title)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
        r"\toprule",
        " & ".join(map(_latex_text, table.header)) + r" \\",
        r"\midrule",
    ]
    for row in table.rows:
        cells = [_latex_text(str(cell)) for cell in row]
        for place in table.best(row):
            cells[place] = rf"\textbf{{{cells[place]}}}"
        lines += [r"\midrule"] if row[0] == AVERAGE else []
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _latex_text(text: str) -> str:
    return " ".join(text.translate(_LATEX).split())
