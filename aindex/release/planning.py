"""Which pictures a release treats, where each goes, and which ones together."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from aindex.data.images import image_names, is_path, list_images, names_root, open_image
from aindex.data.source_image import png_names
from aindex.descriptors.sources import Source
from aindex.errors import DataError, ImageReadError, OutputError
from aindex.paths import user_path
from aindex.release.pictures import SUFFIXES, Format

_BATCH_PIXELS = 24_000_000
"""Of the pictures that are activated together; some 50 bytes each, and the next batch is decoded meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Pictures, their names, and the folder that the names are relative to."""

    paths: list[Path]
    names: list[str]
    root: Path


@dataclass(frozen=True, kw_only=True)
class Job:
    """One picture to release.

    Attributes:
        name: its name; its random numbers derive from it.
        path: where it is read.
        file: its released file, relative to the output folder.
        position: among the described pictures.
        state: size in bytes and time of change, in ns, of its file.
        pixels: width times height, by its header.
    """

    name: str
    path: Path
    file: str
    position: int
    state: list[int]
    pixels: int


def list_source(source: Source) -> Listing:
    """The pictures that a user names.

    Raises:
        DataError: nothing there, or two of the same name.
    """
    if isinstance(source, str | Path):
        folder = user_path(source)
        paths, root = list_images(folder), names_root(folder)
    else:
        paths = [Path(path).absolute() for path in source]
        if not paths:
            raise DataError("no pictures are given: expected at least one")
        root = Path(os.path.commonpath([path.parent for path in paths]))
        wrong = next((path for path in paths if not is_path(str(path))), None)
        if wrong is not None:
            raise DataError(f"{str(wrong)!r}: expected the path of a file")
    names = image_names(paths, root)
    if len(set(names)) < len(names):
        twice = next(name for position, name in enumerate(names) if name in names[:position])
        raise DataError(f"picture {twice!r} is listed twice in {str(source)[:80]!r}: list it once")
    return Listing(paths=paths, names=names, root=root)


def without_output(listing: Listing, out: Path) -> Listing:
    """The listing without what an earlier call left in the output folder, should that lie among the pictures.

    Raises:
        OutputError: the output folder is the pictures' own.
    """
    inside, root = Path(os.path.realpath(out)), Path(os.path.realpath(listing.root))
    if inside == root:
        raise OutputError(
            f"out {str(out)!r} is the folder of the pictures: give another folder, originals are never overwritten"
        )
    if not inside.is_relative_to(root):
        return listing
    kept = [path for path in listing.paths if not Path(os.path.realpath(path)).is_relative_to(inside)]
    if not kept:
        raise OutputError(f"all pictures lie in out {str(out)!r}: give another folder for the released ones")
    return Listing(paths=kept, names=image_names(kept, listing.root), root=listing.root)


def output_files(names: Sequence[str], format: Format) -> list[str]:
    """The released files of pictures, relative to the output folder, all different."""
    return [file.removesuffix(".png") + SUFFIXES[format] for file in png_names(names)]


def source_state(path: Path) -> list[int]:
    """Size and time of change by which a replaced picture is noticed; empty where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def header_pixels(path: Path) -> int:
    """Width times height; 0 where the header cannot be read, which reading will report."""
    try:
        with open_image(path) as image:
            return math.prod(image.size)
    except ImageReadError:
        return 0


def batches(jobs: Sequence[Job], batch_size: int) -> Iterator[list[Job]]:
    """Jobs together, at most `batch_size` and as many as memory bears."""
    group: list[Job] = []
    for job in jobs:
        if group and (len(group) == batch_size or sum(j.pixels for j in group) + job.pixels > _BATCH_PIXELS):
            yield group
            group = []
        group.append(job)
    if group:
        yield group
