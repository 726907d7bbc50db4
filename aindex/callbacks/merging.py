"""Rows that the ranks noted batch by batch become one csv file."""

from collections.abc import Sequence
from pathlib import Path

from aindex.data.atomic import replace_when_done
from aindex.data.parts import PartFiles
from aindex.errors import DataError


def merge_rows(
    parts: Sequence[PartFiles], key: str, file: Path, columns: Sequence[str], *, expected: int
) -> None:
    """Write the rows of all finished batches under a header.

    Args:
        parts: series of records, one after the other; the order within one is that of its batches.
        key: under which the records hold their rows, as lines of csv text.
        file: the csv file; it appears whole or not at all.
        columns: the header.
        expected: number of rows; no cell may hold a line break.

    Raises:
        DataError: there are more or fewer.
        OutputError: the file cannot be written.
    """
    written = 0
    with replace_when_done(file) as temporary, open(temporary, "w", encoding="utf-8", newline="") as out:
        out.write(",".join(columns) + "\n")
        for series in parts:
            for record in series.records():
                out.write(record[key])
                written += record[key].count("\n")
        if written != expected:
            raise DataError(
                f"{file.name} would hold {written} rows, expected {expected}: remove {str(parts[0].folder)!r} and "
                "run again"
            )
