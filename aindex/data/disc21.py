"""DISC21's layout: which references are sources of dev queries, and pictures that match nothing."""

import csv
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from tqdm import tqdm

from aindex.data.images import list_images, one_line
from aindex.errors import DataError, OutputError
from aindex.terminal import bars_are_off

_HEADER = ["query_id", "reference_id"]


class Match(NamedTuple):
    """A line of the ground truth: a query and its reference, None if it has none."""

    query: str
    reference: str | None


def prepare(
    data_dir: Path,
    output_dir: Path,
    groundtruth: Path,
    *,
    seed: int = 0,
    queries: int = 40_000,
    progress: bool = True,
) -> dict[Path, int]:
    """Make references_10k, references_990k and queries_40k as symbolic links.

    ``references_10k``: the references that are sources of dev queries; ``references_990k``: all other ones;
    ``queries_40k``: pictures drawn from ``train``, which match nothing. The names are DISC21's, the sizes are
    those of the data. All is checked before the first link is made; links that are right already are kept.

    Args:
        data_dir: folder with references/ and train/.
        output_dir: where the three folders go.
        groundtruth: csv of the dev queries: query, reference, without header; or with the header
            query_id,reference_id, blank where there is no match.
        seed: of the draw of queries_40k from train.
        queries: images in queries_40k, which match nothing; all of train if it holds fewer.
        progress: show a bar.

    Returns:
        The three folders, in the order above, each with its number of pictures.

    Raises:
        DataError: a folder is missing or empty, or the ground truth is damaged or names an absent reference.
        OutputError: something else is where a link must be, or nothing can be written.
    """
    if queries < 1:
        raise DataError(f"{queries} queries: expected at least 1")
    data_dir, output_dir = Path(data_dir), Path(output_dir)
    references = _by_stem(list_images(data_dir / "references"))
    train = list_images(data_dir / "train")
    sources = _sources(read_groundtruth(groundtruth), references, groundtruth)
    drawn = np.random.default_rng(seed).choice(len(train), size=min(queries, len(train)), replace=False)
    plan = {
        "references_10k": [references[stem] for stem in references if stem in sources],
        "references_990k": [path for stem, path in references.items() if stem not in sources],
        "queries_40k": [train[i] for i in sorted(drawn)],
    }
    folders = {output_dir / name: _links(targets) for name, targets in plan.items()}
    missing = {folder: _missing_links(folder, links) for folder, links in folders.items()}
    total = sum(map(len, missing.values()))
    with tqdm(total=total, desc="prepare", unit="link", disable=bars_are_off(progress)) as bar:
        for folder, links in missing.items():
            _make_links(folder, links, bar)
    return {folder: len(links) for folder, links in folders.items()}


def read_groundtruth(path: Path) -> list[Match]:
    """Read either form of DISC21's ground truth.

    With the header ``query_id,reference_id``, a blank reference means no match; without a header, every line is
    a match.

    Raises:
        DataError: the file is missing, is not such a csv, or holds no line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"ground truth {str(path)!r} cannot be read as a csv: {one_line(error)}; give a file with the columns "
            "query, reference"
        ) from error
    with_header = bool(rows) and [cell.strip().lower() for cell in rows[0]] == _HEADER
    matches = [
        _match(row, path, number, with_header)
        for number, row in enumerate(rows, 1)
        if row and not (with_header and number == 1)
    ]
    if not matches:
        raise DataError(f"ground truth {str(path)!r} holds no line: expected lines query,reference")
    return matches


def _match(row: list[str], path: Path, number: int, with_header: bool) -> Match:
    cells = [cell.strip() for cell in row]
    if len(cells) != 2 or not cells[0] or not (cells[1] or with_header):
        blank = ", the reference blank where there is none" if with_header else ""
        raise DataError(
            f"ground truth {str(path)!r} line {number} is {','.join(row)[:80]!r}: expected query,reference{blank}"
        )
    return Match(cells[0], cells[1] or None)


def _by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    by_stem: dict[str, Path] = {}
    for path in paths:
        if path.stem in by_stem:
            raise DataError(
                f"{str(by_stem[path.stem])!r} and {str(path)!r} have the same name: the ground truth cannot tell "
                "them apart, rename one"
            )
        by_stem[path.stem] = path
    return by_stem


def _sources(matches: Iterable[Match], references: Mapping[str, Path], groundtruth: Path) -> set[str]:
    """The stems of the references that are named; names come with or without the file's ending."""
    named = {match.reference for match in matches if match.reference is not None}
    by_file_name = {path.name: stem for stem, path in references.items()}
    stems = {name: name if name in references else by_file_name.get(name) for name in named}
    absent = sorted(name for name, stem in stems.items() if stem is None)
    if absent:
        raise DataError(
            f"ground truth {str(groundtruth)!r} names {len(absent)} absent reference(s), the first {absent[0]!r}: "
            "give the ground truth of these references, or complete the folder"
        )
    if not named:
        raise DataError(f"ground truth {str(groundtruth)!r} names no reference: expected at least one match")
    return {stem for stem in stems.values() if stem is not None}


def _links(targets: Iterable[Path]) -> dict[str, str]:
    links: dict[str, str] = {}
    for target in map(os.path.abspath, targets):
        name = os.path.basename(target)
        if links.setdefault(name, target) != target:
            raise DataError(f"{links[name]!r} and {target!r} have the same name: rename one")
    return links


def _missing_links(folder: Path, links: Mapping[str, str]) -> dict[str, str]:
    """Those of ``links`` (name → target) that ``folder`` lacks; anything else in it is an error."""
    if not os.path.lexists(folder):
        return dict(links)
    if not folder.is_dir():
        raise OutputError(f"{str(folder)!r} is not a folder: remove it or give another output_dir")
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise OutputError(f"{str(folder)!r} cannot be listed: {error.strerror}; mend or remove it") from error
    for entry in entries:
        _require_right(entry, links.get(entry.name))
    present = {entry.name for entry in entries}
    return {name: target for name, target in links.items() if name not in present}


def _require_right(entry: "os.DirEntry[str]", target: str | None) -> None:
    if target is None:
        reason = "does not belong to this selection"
    elif not entry.is_symlink():
        reason = f"is not a link to {target!r}"
    elif os.readlink(entry.path) != target and os.path.realpath(entry.path) != os.path.realpath(target):
        reason = f"links to {os.readlink(entry.path)!r}, expected {target!r}"
    else:
        return
    raise OutputError(f"{entry.path!r} {reason}: remove the folder it lies in, or give another output_dir")


def _make_links(folder: Path, links: Mapping[str, str], bar: "tqdm[NoReturn]") -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, target in links.items():
            os.symlink(target, folder / name)
            bar.update()
    except OSError as error:
        raise OutputError(
            f"cannot write links into {str(folder)!r}: {error.strerror}; give a writable output_dir, then run again"
        ) from error
