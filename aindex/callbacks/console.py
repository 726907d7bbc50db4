"""A run's results as text for a terminal."""

from collections.abc import Mapping, Sequence

import pandas as pd

from aindex.evaluation.retrieval import (
    MEASURES,
    SHARES,
    format_table,
    known_measures,
    retrieval_table,
    share_texts,
)
from aindex.evaluation.run_files import Results
from aindex.evaluation.summary import Measure, measures

_IN_THE_ATTACK_TABLE = (*MEASURES, "r@1_without_screenshot")


def results_text(series: Mapping[str, Results]) -> str:
    """The table per edit, then every other number; passive and active beside each other where both are known."""
    tables = [retrieval_table(results.retrieval) for results in series.values()]
    first = format_table(tables[0]) if len(tables) == 1 else compare(*tables)
    return f"{first}\n\n{measures_text(series)}"


def compare(passive: pd.DataFrame, active: pd.DataFrame) -> str:
    """Two tables of `retrieval_table` over the same edits as one text: passive → active per measure.

    Beside each share stand the 95 % intervals.
    """
    known = known_measures(active)
    header = ["attack", "n"]
    for name in known:
        header += [f"{name.upper()} passive → active", *(["95 %"] if name in SHARES else [])]
    rows = []
    for before, row in zip(passive.to_dict("records"), active.to_dict("records"), strict=True):
        cells = [str(row["attack"]), str(row["images"])]
        for name in known:
            texts = [share_texts(one[name], one["images"], name) for one in (before, row)]
            cells += [" → ".join(parts) for parts in zip(*texts, strict=True)]
        rows.append(cells)
    averages = next((number for number, row in enumerate(rows) if row[0].startswith("average")), len(rows))
    lines = aligned([header, *rows])
    return "\n".join([*lines[: averages + 2], lines[1], *lines[averages + 2 :]])


def measures_text(series: Mapping[str, Results]) -> str:
    """The numbers of `measures` that are not in the table per edit, a column per series."""
    known = {label: {one.key: one for one in measures(results)} for label, results in series.items()}
    shown: dict[str, Measure] = {}
    for found in known.values():
        shown |= {
            key: one for key, one in found.items() if key not in _IN_THE_ATTACK_TABLE and key not in shown
        }
    rows = [
        [one.label, *(_text(found[key]) if key in found else "–" for found in known.values())]
        for key, one in shown.items()
    ]
    return "\n".join(aligned([["measure", *known], *rows]))


def _text(measure: Measure) -> str:
    interval = measure.interval
    return measure.text if interval is None else f"{measure.text} ({interval.text})"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the header, a rule, the rows; the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def text(cells: Sequence[str]) -> str:
        padded = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "  ".join([cells[0].ljust(widths[0]), *padded])

    header, *others = rows
    return [text(header), "  ".join("-" * width for width in widths), *(text(row) for row in others)]
