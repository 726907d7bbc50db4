"""Extraction into a folder that survives a kill.

A folder of ``extract_to_folder`` holds ``fts.pth`` (float32 n×d), ``filenames.txt`` (the rows' names),
``skipped.csv`` and ``extract.json`` (what decided the content). Until it is whole, finished batches lie in
``shards/``; the same call again goes on after them, and ends in the same bytes.
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aindex.data.atomic import (
    exclusive,
    remove_leftovers,
    remove_leftovers_of,
    remove_tree,
    replace_when_done,
)
from aindex.data.images import SkippedImages, list_images, names_root, read_names, write_names
from aindex.descriptors.extraction import (
    DEFAULTS,
    DescribedBatch,
    Extraction,
    ExtractionSettings,
    batch_ranges,
    describe,
    require_some,
    row_names,
)
from aindex.descriptors.extractor import Extractor
from aindex.descriptors.files import DESCRIPTOR_EXTENSIONS, Matrix, read_descriptors, write_descriptors
from aindex.descriptors.shards import finished_until, read_shards, write_shard
from aindex.errors import ConfigError, DescriptorError, OutputError

FEATURES, NAMES, SKIPPED = "fts.pth", "filenames.txt", "skipped.csv"
CONFIGURATION, SHARDS = "extract.json", "shards"


def extract_to_folder(
    source: Path | str | Sequence[Path],
    extractor: Extractor,
    output_dir: Path,
    settings: ExtractionSettings = DEFAULTS,
    *,
    root: Path | None = None,
    overwrite: bool = False,
    flush_seconds: float = 30.0,
) -> Extraction:
    """Describe pictures into a folder; killed, the same call goes on; finished, it only reads.

    Args:
        source: a folder, a list file, or the pictures themselves.
        extractor: what describes them.
        output_dir: where the files of the extraction go.
        settings: device, precision and batch size.
        root: the folder that names are relative to; default the source's own.
        overwrite: drop what an earlier extraction left in ``output_dir``.
        flush_seconds: finished batches are written at least this often; a kill loses no more.

    Returns:
        The descriptors (mapped into memory), the names of their rows, and the pictures left out.

    Raises:
        DataError: no pictures, none readable, or the folder vanished.
        ConfigError: ``output_dir`` holds an extraction that was configured differently.
        OutputError: ``output_dir`` holds other descriptors, or cannot be written.
    """
    images, root = listed(source, root)
    output, names = Path(output_dir), row_names(images, root)
    with exclusive(output):
        remove_leftovers_of([output / name for name in (FEATURES, NAMES, SKIPPED, CONFIGURATION)])
        if overwrite:
            _clear(output)
        if not _claim(output, _configuration(images, names, extractor, settings)):
            remove_leftovers(output / SHARDS)
            _extract_shards(images, extractor, output / SHARDS, root, settings, flush_seconds)
            _finish(output, names, extractor.dim)
        remove_tree(output / SHARDS)
    descriptors, names = read_extraction(output)
    return Extraction(descriptors, names, SkippedImages.read(output / SKIPPED))


def read_extraction(folder: Path, *, extractor: Extractor | None = None) -> tuple[Matrix, list[str]]:
    """Descriptors (mapped) and names of a folder that ``extract_to_folder`` made.

    Args:
        extractor: if given, the one that must have made them.

    Raises:
        DescriptorError: files are missing or damaged, rows and names disagree, or another extractor made them.
    """
    stored = _stored_configuration(folder)
    if extractor is not None and stored is not None and stored["fingerprint"] != extractor.fingerprint:
        raise DescriptorError(
            f"{str(folder)!r} holds descriptors of {stored['extractor']!r} at {stored['input_size']} pixels, not "
            f"of {extractor.name!r} at {extractor.input_size}: extract them again, or use that extractor"
        )
    descriptors = read_descriptors(folder / FEATURES, dim=None if extractor is None else extractor.dim)
    names = read_names(folder / NAMES)
    if len(names) != len(descriptors):
        raise DescriptorError(
            f"{str(folder)!r} holds {len(descriptors)} descriptors and {len(names)} names: extract again"
        )
    return descriptors, names


def descriptors_for(
    source: Path | str | Sequence[Path],
    extractor: Extractor,
    cache_dir: Path,
    settings: ExtractionSettings = DEFAULTS,
) -> tuple[Matrix, list[str] | None]:
    """The descriptors of a descriptor file, of a folder of ``extract``, or of pictures, extracted and cached.

    The cache's key is a hash of extractor, input size, precision, batch size, and the pictures' names, sizes and
    times of change, so a picture that was replaced is described again.

    Args:
        source: a descriptor file; a folder with ``fts.pth``; a folder of pictures; a list file; or pictures.
        extractor: what describes pictures, and what decides the dimension of files.
        cache_dir: where extractions go, each into its own folder.
        settings: device, precision and batch size.

    Returns:
        The matrix n×d, and the names of its rows; None for a descriptor file, which has none.

    Raises:
        AindexError: as ``read_descriptors`` and ``extract_to_folder``.
    """
    if isinstance(source, str | Path):
        source = Path(source)
        if os.path.isfile(source / FEATURES):
            return read_extraction(source, extractor=extractor)
        if source.suffix in DESCRIPTOR_EXTENSIONS:
            if source.name == FEATURES and os.path.isfile(source.parent / NAMES):
                return read_extraction(source.parent, extractor=extractor)
            return read_descriptors(source, dim=extractor.dim), None
    images, root = listed(source, None)
    configuration = _configuration(images, row_names(images, root), extractor, settings)
    key = hashlib.sha256(json.dumps(configuration).encode()).hexdigest()
    folder = Path(cache_dir) / f"descriptors_{key[:20]}"
    extraction = extract_to_folder(images, extractor, folder, settings, root=root)
    return extraction.descriptors, extraction.names


def listed(source: Path | str | Sequence[Path], root: Path | None) -> tuple[list[Path], Path | None]:
    """The pictures that a source names, and the folder that their names are relative to."""
    if isinstance(source, str | Path):
        return list_images(Path(source)), names_root(Path(source)) if root is None else root
    return [Path(image) for image in source], root


def _configuration(
    images: Sequence[Path], names: Sequence[str], extractor: Extractor, settings: ExtractionSettings
) -> dict[str, Any]:
    digest = hashlib.sha256()
    for image, name in zip(images, names, strict=True):
        try:
            status = os.stat(image)
            state = f"{status.st_size} {status.st_mtime_ns} {os.access(image, os.R_OK)}"
        except OSError:
            state = "absent"
        digest.update(f"{name}\0{state}\0".encode(errors="surrogateescape"))
    return {
        "format": 1,
        "extractor": extractor.name,
        "fingerprint": extractor.fingerprint,
        "input_size": extractor.input_size,
        "dim": extractor.dim,
        "precision": settings.precision,
        "batch_size": settings.batch_size,
        "device": torch.device(settings.device or extractor.device).type,
        "images": len(images),
        "images_hash": digest.hexdigest(),
    }


def _claim(output: Path, configuration: dict[str, Any]) -> bool:
    """Whether the extraction is finished; writes its configuration if the folder is new."""
    stored = _stored_configuration(output)
    if stored is None:
        for name in (FEATURES, NAMES, SKIPPED, SHARDS):
            if os.path.lexists(output / name):
                raise OutputError(
                    f"{str(output)!r} holds a {name} that no extraction here made: give another folder"
                )
        with replace_when_done(output / CONFIGURATION) as temporary:
            temporary.write_text(json.dumps(configuration, indent=1) + "\n")
        return False
    # The same weights under another name are the same extractor.
    keys = [key for key in configuration if key != "extractor" and stored.get(key) != configuration[key]]
    if keys:
        if "fingerprint" in keys:
            keys.insert(0, "extractor")
        difference = ", ".join(f"{key} {stored.get(key)} → {configuration[key]}" for key in keys)
        raise ConfigError(
            f"{str(output)!r} holds an extraction of another configuration (stored → given: {difference}): give "
            "the stored values, another folder, or overwrite"
        )
    return (output / FEATURES).is_file()


def _stored_configuration(output: Path) -> dict[str, Any] | None:
    path = output / CONFIGURATION
    if not path.is_file():
        return None
    try:
        stored: dict[str, Any] = json.loads(path.read_text())
        if "images_hash" not in stored:
            raise ValueError("no extraction wrote it")
        return {"fingerprint": None, "extractor": None, "input_size": None} | stored
    except (ValueError, TypeError, OSError) as error:
        raise ConfigError(
            f"{str(path)!r} is damaged: remove {str(output)!r} or give another folder, and extract again"
        ) from error


def _extract_shards(
    images: Sequence[Path],
    extractor: Extractor,
    shards: Path,
    root: Path | None,
    settings: ExtractionSettings,
    flush_seconds: float,
) -> None:
    start = finished_until(shards)
    batches = [batch for batch in batch_ranges(len(images), settings.batch_size) if batch.start >= start]
    waiting: list[DescribedBatch] = []
    flushed = time.monotonic()
    if not batches:
        return
    for batch, described in zip(
        batches, describe(images, extractor, batches, root=root, settings=settings), strict=True
    ):
        waiting.append(described)
        if time.monotonic() - flushed >= flush_seconds or batch.stop == len(images):
            write_shard(shards, start, batch.stop, waiting)
            start, waiting, flushed = batch.stop, [], time.monotonic()


def _finish(output: Path, names: Sequence[str], dim: int) -> None:
    """Shards to final files; ``fts.pth`` comes last, because its presence says that all is there."""
    kept: list[str] = []
    skipped = SkippedImages()
    merged = output / SHARDS / "merged.f32"
    # Written as a stream and mapped afterwards: a full disk is then an error, not a bus error.
    with replace_when_done(merged) as temporary, open(temporary, "wb") as file:
        for shard in read_shards(output / SHARDS):
            file.write(shard.descriptors.astype(np.float32, copy=False).tobytes())
            kept += [names[position] for position in shard.readable]
            for position, reason in shard.unreadable:
                skipped.record(names[position], reason)
    if not kept:
        # Whatever made all pictures unreadable may be mended before the next try.
        remove_tree(output / SHARDS)
    require_some(len(names), len(kept), skipped)
    if len(kept) + skipped.count != len(names):
        raise DescriptorError(
            f"{str(output / SHARDS)!r} covers {len(kept) + skipped.count} of {len(names)} pictures: remove it "
            "and run again"
        )
    write_names(output / NAMES, kept)
    skipped.write(output / SKIPPED)
    write_descriptors(
        output / FEATURES, np.memmap(merged, dtype=np.float32, mode="c", shape=(len(kept), dim))
    )


def _clear(output: Path) -> None:
    """Remove an extraction; last the file by which it is known as one, so that a kill leaves nothing foreign."""
    if _stored_configuration(output) is None:
        return
    (output / FEATURES).unlink(missing_ok=True)
    remove_tree(output / SHARDS)
    for name in (NAMES, SKIPPED, CONFIGURATION):
        (output / name).unlink(missing_ok=True)
