"""Queries and their matches side by side: one HTML file that needs nothing beside itself."""

import base64
import hashlib
import io
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from aindex.data.atomic import write_where_told
from aindex.data.images import read_image
from aindex.data.source_image import png_names
from aindex.errors import ImageReadError
from aindex.matching.matches import Matches
from aindex.matching.threshold import NO_THRESHOLD
from aindex.paths import user_path

THUMBNAIL_PIXELS = 132
# class of a row: what is said of it
_VERDICTS = {"match": "match", "found": "", "none": "no match", "empty": "no row", "unreadable": "unreadable"}
# what can be shown by itself: the classes of its rows
_FILTERS = {
    "match": ("match",),
    "with an answer": ("found",),
    "no match": ("none", "empty"),
    "unreadable": ("unreadable",),
}


def write_page(matches: Matches, path: Path | str, *, pictures: Sequence[Path | str] = ()) -> None:
    """Write the page of a search: a row per query, to sort and to filter, in one file that loads nothing.

    Args:
        matches: of `search`.
        path: the file.
        pictures: folders in which the indexed pictures are looked up by their names; those not found are shown by
            name alone.

    Raises:
        OutputError: it cannot be written.
    """
    rows = _rows(matches, [user_path(folder) for folder in pictures])
    shown = [match["thumbnail"] is not None for row in rows for match in row["matches"]]
    loader = PackageLoader("aindex.matching")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    script = loader.get_source(environment, "matches.js")[0]
    text = environment.get_template("matches.html.j2").render(
        summary=matches.summary().split("\n"),
        rows=rows,
        kinds=_kinds(rows),
        unseen=bool(shown) and not any(shown),
        style=Markup(loader.get_source(environment, "matches.css")[0]),
        script=Markup(script),
        # the page runs this script and no other, whatever a file is called
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    read = [file for file in matches.files if file is not None]
    write_where_told(path, text.encode("utf-8", "replace"), sources=read)


def _rows(matches: Matches, folders: Sequence[Path]) -> list[dict[str, Any]]:
    """A row of the page per query, in the order of the search; those that cannot be read come last."""
    found = dict(list(matches.table.groupby("query", sort=False)))

    @cache
    def indexed(name: str) -> str | None:
        path = find_picture(name, folders)
        return None if path is None else thumbnail(path)

    judged, errors = matches.threshold is not NO_THRESHOLD, matches.errors
    rows = []
    for query, file in zip(matches.queries, matches.files, strict=True):
        lines = found[query].to_dict("records") if query in found else []
        answers = [_answer(line, indexed) for line in lines]
        picture = None if file is None else thumbnail(file)
        rows.append(_row(query, _kind(answers, judged), picture, answers, errors.get(query)))
    return rows + [_row(query, "unreadable", None, [], reason) for query, reason in matches.skipped.rows]


def _kind(answers: Sequence[Mapping[str, Any]], judged: bool) -> str:
    if not answers:
        return "empty"
    if not judged:
        return "found"
    # whatever the threshold is of, no later row is a match where the first is none
    return "match" if answers[0]["verdict"] else "none"


def _row(
    query: str, kind: str, picture: str | None, answers: list[dict[str, Any]], reason: str | None
) -> dict[str, Any]:
    said = {"found": "nearest", "none": "no match; nearest"}.get(kind, _VERDICTS[kind])
    nearest = f" {answers[0]['name']}, distance {answers[0]['distance']}" if answers else ""
    return {
        "name": query,
        "kind": kind,
        "order": list(_VERDICTS).index(kind),
        "verdict": _VERDICTS[kind],
        "thumbnail": picture,
        "finding": f"{query.rpartition('/')[2]}: {said}{nearest}",
        "matches": answers,
        "reason": reason,
    }


def _answer(line: Mapping[Hashable, Any], indexed: Callable[[str], str | None]) -> dict[str, Any]:
    scored = not pd.isna(line["score"])
    return {
        "name": str(line["name"]),
        "distance": f"{line['distance']:.3f}",
        "exact_distance": f"{line['distance']:.9g}",
        "score": f"{line['score']:.3f}" if scored else "",
        "exact_score": f"{line['score']:.9g}" if scored else "",
        "verdict": not pd.isna(line["match"]) and bool(line["match"]),
        "thumbnail": indexed(str(line["name"])),
    }


def _kinds(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The filters that are offered: those that would show a row."""
    counts = {label: sum(row["kind"] in kinds for row in rows) for label, kinds in _FILTERS.items()}
    return [
        {"classes": " ".join(kinds), "label": label, "count": counts[label]}
        for label, kinds in _FILTERS.items()
        if counts[label]
    ]


def thumbnail(path: Path) -> str | None:
    """A picture as a small data URI; None if it cannot be read."""
    try:
        image = read_image(path)
    except ImageReadError:
        return None
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def find_picture(name: str, folders: Sequence[Path]) -> Path | None:
    """An indexed picture's file, or its released form's, below one of the folders; None if it is in none.

    A name that leads out of its folder is not followed, because an index can come from anybody.
    """
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\0" in name:
        return None
    for folder in folders:
        below = [name, *(["/".join(parts[1:])] if len(parts) > 1 and parts[0] == folder.name else [])]
        for candidate in [folder / n for n in below] + [folder / png_names([n])[0] for n in below]:
            if os.path.isfile(candidate):
                return candidate
    return None
