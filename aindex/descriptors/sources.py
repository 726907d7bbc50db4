"""Descriptors of whatever a user names: pictures, a folder that `extract` made, or a descriptor file."""

import os
from collections.abc import Sequence
from pathlib import Path

from aindex.data.atomic import remove_tree
from aindex.data.images import SkippedImages, image_names, list_images, names_root, read_names
from aindex.descriptors.extraction import Extraction, ExtractionSettings, extract
from aindex.descriptors.extractor import Extractor
from aindex.descriptors.files import DESCRIPTOR_EXTENSIONS
from aindex.descriptors.stored import (
    CONFIGURATION,
    FEATURES,
    SKIPPED,
    descriptors_for,
    extract_to_folder,
    listed,
)
from aindex.errors import ConfigError, DataError
from aindex.paths import user_path

Source = Path | str | Sequence[Path]
"""A folder or list of pictures, the pictures themselves, a folder that `extract` made, or a descriptor file."""


def describe(
    source: Source,
    extractor: Extractor,
    work: Path | None,
    settings: ExtractionSettings,
    *,
    names: Path | str | None = None,
) -> Extraction:
    """Descriptors, names of their rows, and unreadable pictures.

    Pictures are extracted into a folder that survives a kill; if it holds another extraction, that one is dropped.

    Args:
        source: what to describe.
        extractor: what describes it, or made it.
        work: folder for the extraction; None keeps it in memory.
        settings: device, precision and batch size.
        names: file with one name per row; default the pictures' paths relative to their folder, `<file>#<row>` for
            the rows of a descriptor file.

    Raises:
        AindexError: nothing there, nothing readable, another extractor, other numbers of names and rows.
    """
    path = user_path(source) if isinstance(source, str | Path) else None
    if path is not None and (os.path.isfile(path / FEATURES) or path.suffix in DESCRIPTOR_EXTENSIONS):
        descriptors, found = descriptors_for(path, extractor, path)
        found = found or [f"{path.name}#{row}" for row in range(len(descriptors))]
        extraction = Extraction(descriptors, found, SkippedImages.read(path / SKIPPED))
    else:
        extraction = describe_pictures(path or source, extractor, work, settings)
    if names is None:
        return extraction
    given = read_names(user_path(names))
    if len(given) != len(extraction.names):
        raise DataError(
            f"{str(names)!r} holds {len(given)} names for {len(extraction.names)} descriptors: expected one per row"
        )
    return extraction._replace(names=given)


def picture_paths(source: Source) -> dict[str, Path] | None:
    """By name, the pictures that a source names; None if it names descriptors."""
    if isinstance(source, str | Path):
        path = user_path(source)
        if (path / FEATURES).is_file() or path.suffix in DESCRIPTOR_EXTENSIONS:
            return None
        paths = list_images(path)
        return dict(zip(image_names(paths, names_root(path)), paths, strict=True))
    return {Path(one).as_posix(): Path(one) for one in source}


def check_source(source: Source, names: Path | str | None = None) -> dict[str, Path] | None:
    """What `picture_paths` says; raises what `describe` would, as far as it can be known without decoding a picture.

    Raises:
        AindexError: nothing there, or names that cannot be read.
    """
    paths = picture_paths(source)
    if paths is None and isinstance(source, str | Path) and not os.path.exists(user_path(source)):
        raise DataError(f"{str(source)!r} does not exist: give pictures, or descriptors made by extract")
    if names is not None:
        read_names(user_path(names))
    return paths


def describe_pictures(
    pictures: Source,
    extractor: Extractor,
    work: Path | None,
    settings: ExtractionSettings,
    *,
    root: Path | None = None,
) -> Extraction:
    """Descriptors of pictures, extracted into the folder `work`, which survives a kill, or without one in memory.

    They are in fp32: what an index keeps, and what pictures are drawn to, is one thing. `root` is the folder that names
    are relative to, by default the pictures' own.

    Raises:
        DataError: nothing there, or nothing readable.
    """
    settings = settings._replace(precision="fp32")
    if work is None:
        images, root = listed(pictures, root)
        return extract(images, extractor, root=root, **settings._asdict())
    # the folder is this program's own: what an interrupted run of other options left, or half removed, is of no use
    if not (work / CONFIGURATION).is_file():
        remove_tree(work)
    try:
        return extract_to_folder(pictures, extractor, work, settings, root=root)
    except ConfigError:
        remove_tree(work)
        return extract_to_folder(pictures, extractor, work, settings, root=root)
