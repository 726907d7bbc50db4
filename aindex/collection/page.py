"""Queries and their matches side by side: one HTML file that needs nothing beside itself."""

import base64
import io
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from aindex.collection.calibration import NO_THRESHOLD
from aindex.collection.matches import Matches
from aindex.data.atomic import write_where_told
from aindex.data.images import read_image
from aindex.data.released import released_names
from aindex.errors import ImageReadError
from aindex.paths import user_path

THUMBNAIL_PIXELS = 180


def write_page(matches: Matches, path: Path | str, *, pictures: Sequence[Path | str] = ()) -> None:
    """Write the page of a search.

    Args:
        matches: of `search`.
        path: the file.
        pictures: folders in which the indexed pictures are looked up by their names; those not found are shown by
            name alone.

    Raises:
        OutputError: it cannot be written.
    """
    folders = [user_path(folder) for folder in pictures]
    cards = [
        _card(query, file, matches, folders)
        for query, file in zip(matches.queries, matches.files, strict=True)
    ]
    environment = Environment(
        loader=PackageLoader("aindex.collection"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    text = environment.get_template("matches.html.j2").render(
        summary=matches.summary().split("\n"),
        cards=cards,
        skipped=matches.skipped.rows,
        judged=matches.threshold is not NO_THRESHOLD,
    )
    read = [file for file in matches.files if file is not None]
    write_where_told(path, text.encode("utf-8", "replace"), sources=read)


def _card(query: str, file: Path | None, matches: Matches, folders: Sequence[Path]) -> dict[str, Any]:
    found = matches.table[matches.table["query"] == query]
    return {
        "name": query,
        "thumbnail": None if file is None else thumbnail(file),
        "matches": [
            {
                "name": line["name"],
                "distance": f"{line['distance']:.3f}",
                "score": "" if pd.isna(line["score"]) else f"{line['score']:.3f}",
                "verdict": None if pd.isna(line["match"]) else bool(line["match"]),
                "thumbnail": _indexed_thumbnail(str(line["name"]), folders),
            }
            for line in found.to_dict(orient="records")
        ],
    }


def thumbnail(path: Path) -> str | None:
    """A picture as a small data URI; None if it cannot be read."""
    try:
        image = read_image(path)
    except ImageReadError:
        return None
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def _indexed_thumbnail(name: str, folders: Sequence[Path]) -> str | None:
    path = find_picture(name, folders)
    return None if path is None else thumbnail(path)


def find_picture(name: str, folders: Sequence[Path]) -> Path | None:
    """An indexed picture's file, or its released form's, below one of the folders; None if it is in none.

    A name that leads out of its folder is not followed, because an index can come from anybody.
    """
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\0" in name:
        return None
    for folder in folders:
        below = [name, *(["/".join(parts[1:])] if len(parts) > 1 and parts[0] == folder.name else [])]
        for candidate in [folder / n for n in below] + [folder / released_names([n])[0] for n in below]:
            if os.path.isfile(candidate):
                return candidate
    return None
