"""`aindex search` and `aindex calibrate`."""

import sys
from typing import Literal

from aindex.commands.functions import FunctionCommand, Needs
from aindex.data.atomic import write_where_told
from aindex.errors import DataError
from aindex.matching.calibrating import Calibration, calibrate
from aindex.matching.matches import Matches, printable
from aindex.matching.page import write_page
from aindex.matching.searching import search
from aindex.terminal import note

STANDARD_INPUT = "-"


def _tell_matches(
    found: Matches,
    format: Literal["table", "csv", "jsonl"] = "table",
    output: str | None = None,
    html: str | None = None,
    pictures: str | None = None,
) -> None:
    """Print or write what was found.

    Args:
        found: the matches.
        format: table for people; csv; jsonl, one JSON object per picture.
        output: file for the matches (default: the standard output).
        html: file for a page with thumbnails side by side.
        pictures: folder where the page finds the indexed pictures by their names.
    """
    text = {"table": found.to_text, "csv": found.to_csv, "jsonl": found.to_jsonl}[format]()
    if output is None:
        sys.stdout.write(_without_surrogates(text if text.endswith("\n") else text + "\n"))
    else:
        read = [path for path in found.files if path is not None]
        write_where_told(output, text.encode("utf-8", "surrogateescape"), sources=read)
    if html is not None:
        write_page(found, html, pictures=[] if pictures is None else [pictures])
    # Where other programs read the matches, people's lines go elsewhere.
    tell = print if format == "table" and output is None else note
    tell(_without_surrogates(found.summary()))
    if not found.queries:
        raise DataError(f"none of the {found.skipped.count} pictures can be read: {found.skipped.rows[0][1]}")


def _expanded(queries: list[str]) -> list[str]:
    names: list[str] = []
    for query in queries:
        names += (
            [line for line in _standard_input().split("\n") if line] if query == STANDARD_INPUT else [query]
        )
    if not names:
        raise DataError(
            "no pictures to search: give files or folders, or their paths on the standard input after -"
        )
    return names


def _standard_input() -> str:
    """The text on the standard input, line ends as on this system; bytes that are no text stay what they are."""
    data = getattr(sys.stdin, "buffer", None)
    text = sys.stdin.read() if data is None else data.read().decode("utf-8", "surrogateescape")
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def _without_surrogates(text: str) -> str:
    """Bytes of file names that are no text, in a form that every terminal takes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _tell_threshold(found: Calibration, index: str) -> None:
    print(f"{index}: {found.summary()}")
    print("nearest of them, to check that they are not in the index after all:")
    for line in found.nearest.to_dict(orient="records"):
        print(f"  {printable(line['query'])} · {printable(line['name'])} · {line['distance']:.4f}")


main = FunctionCommand(
    name="search",
    function=search,
    tell=_tell_matches,
    example="copies --index mine --html found.html --pictures holiday",
    positional="queries",
    defaults={"batch_size": 32, "progress": False},
    read={"queries": _expanded},
    needs={"pictures": Needs("html")},
)

calibrate_main = FunctionCommand(
    name="calibrate",
    function=calibrate,
    tell=_tell_threshold,
    example="--index mine --negatives others --false_positive_rate 0.01",
    defaults={"batch_size": 32},
)
