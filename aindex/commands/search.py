"""`aindex search` and `aindex calibrate`."""

import sys
from typing import Literal

from aindex.collection.calibrating import calibrate
from aindex.collection.calibration import ScoreKind
from aindex.collection.equipment import Arithmetic, Visits, describing
from aindex.collection.matches import printable
from aindex.collection.page import write_page
from aindex.collection.searching import search
from aindex.commands.parsing import Needs, run_function
from aindex.data.atomic import write_where_told
from aindex.errors import DataError
from aindex.paths import user_path
from aindex.terminal import note

STANDARD_INPUT = "-"


def main(args: list[str]) -> None:
    """Parse and run a search."""
    queries = "picture files, folders of them, or - for a list of paths on the standard input, one per line"
    run_function(
        search_pictures,
        args,
        prog="aindex search",
        positional=("queries", queries),
        example="aindex search copies --index mine --html found.html --pictures holiday",
        needs={"pictures": Needs("html")},
    )


def calibrate_main(args: list[str]) -> None:
    """Parse and calibrate."""
    run_function(
        calibrate_threshold,
        args,
        prog="aindex calibrate",
        example="aindex calibrate --index mine --negatives others --false_positive_rate 0.01",
    )


def search_pictures(
    queries: list[str],
    index: str,
    k: int | None = None,
    nprobe: Visits | None = "auto",
    threshold: float | None = None,
    format: Literal["table", "csv", "jsonl"] = "table",
    output: str | None = None,
    html: str | None = None,
    pictures: str | None = None,
    extractor: str | None = None,
    resize_size: int | None = None,
    batch_size: int = 32,
    num_workers: int = 2,
    device: str = "auto",
    precision: Arithmetic = "auto",
    progress: bool = False,
) -> None:
    """Find the originals of pictures in an index.

    Ranked matches with the squared distance (metric IP: the similarity), the score (how much nearer than the next
    match) and the verdict against the index's threshold (see `aindex calibrate`).

    Args:
        queries: picture files, folders of them, or - for a list of paths on the standard input, one per line.
        index: the folder of the index; `shipped` is the one that comes with aindex.
        k: matches per picture (default: 5, or all rows of a smaller index).
        nprobe: coarse cells to visit: a number, null for the index's own, or auto: as many as were calibrated, else as
            many as hold some twenty thousand rows. More find more and take longer.
        threshold: distance up to which a row is a match (default: what the index was calibrated to).
        format: table for people; csv; jsonl, one JSON object per picture.
        output: file for the matches (default: the standard output).
        html: file for a page with thumbnails side by side.
        pictures: folder where the page finds the indexed pictures by their names.
        extractor: name or path (default: the one that the index names).
        resize_size: side of the extractor's square input, pixels (default: the index's).
        batch_size: pictures per call of the extractor.
        num_workers: threads that decode images; 0 decodes each when its turn comes.
        device: cpu, cuda, cuda:<number>; auto takes the GPU where there is one.
        precision: arithmetic of the extractor; auto takes bf16 where the hardware has it.
        progress: show a bar.
    """
    found = search(
        index,
        _expanded(queries),
        k=k,
        nprobe=nprobe,
        threshold=threshold,
        extractor=extractor,
        resize_size=resize_size,
        settings=describing(
            device=device,
            precision=precision,
            batch_size=batch_size,
            num_workers=num_workers,
            progress=progress,
        ),
    )
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


def calibrate_threshold(
    index: str,
    negatives: str,
    false_positive_rate: float = 0.01,
    score: ScoreKind = "distance",
    nprobe: Visits | None = "auto",
    extractor: str | None = None,
    resize_size: int | None = None,
    batch_size: int = 32,
    num_workers: int = 2,
    device: str = "auto",
    precision: Arithmetic = "auto",
    progress: bool = True,
) -> None:
    """Set the threshold of a match from pictures that match nothing, and keep it in the index folder.

    Args:
        index: the index folder.
        negatives: pictures without an original in the index, as queries will look: a folder, a list file, a folder
            that `aindex extract` made, or a descriptor file. As many as 1 / false_positive_rate, better ten times that.
        false_positive_rate: share of such pictures that may be taken for matches.
        score: what is compared: `distance` to the best match, or `normalised`, how much nearer it is than the next.
        nprobe: coarse cells that searches will visit: a number, null for the index's own, or auto: as many as hold some
            twenty thousand rows.
        extractor: name or path (default: the one that the index names).
        resize_size: side of the extractor's square input, pixels (default: the index's).
        batch_size: pictures per call of the extractor.
        num_workers: threads that decode images; 0 decodes each when its turn comes.
        device: cpu, cuda, cuda:<number>; auto takes the GPU where there is one.
        precision: arithmetic of the extractor; auto takes bf16 where the hardware has it.
        progress: show a bar.
    """
    found = calibrate(
        index,
        user_path(negatives),
        false_positive_rate=false_positive_rate,
        score=score,
        nprobe=nprobe,
        extractor=extractor,
        resize_size=resize_size,
        settings=describing(
            device=device,
            precision=precision,
            batch_size=batch_size,
            num_workers=num_workers,
            progress=progress,
        ),
    )
    print(f"{index}: {found.summary()}")
    print("nearest of them, to check that they are not in the index after all:")
    for line in found.nearest.to_dict(orient="records"):
        print(f"  {printable(line['query'])} · {printable(line['name'])} · {line['distance']:.4f}")
