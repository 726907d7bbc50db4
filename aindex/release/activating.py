"""Release pictures activated: the same tree, imperceptibly changed, found again after edits."""

import hashlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from aindex.activation.presets import Effort, Preset, preset
from aindex.activation.settings import DeltaSize
from aindex.collection.building import chosen_rows
from aindex.collection.equipment import SHIPPED, Equipment, describing, index_folder, open_equipment
from aindex.data.atomic import exclusive, remove_tree
from aindex.descriptors.extraction import Extraction, ExtractionSettings
from aindex.descriptors.extractor import Extractor
from aindex.descriptors.sources import Source, describe_pictures
from aindex.errors import ConfigError
from aindex.index.backend import Ids, Rows
from aindex.index.folder import YAML_NAME
from aindex.index.originals import add_originals, own_rows
from aindex.index.quantiser import Target
from aindex.index.reference_index import ReferenceIndex
from aindex.index.row_choice import check_row_count
from aindex.paths import possible_path, user_path
from aindex.release.manifest import Release, manifest_table, planned_table, write_manifest
from aindex.release.pictures import FileSettings, Format
from aindex.release.planning import Listing, list_source, output_files, without_output
from aindex.release.records import Records
from aindex.release.under_way import Activator

BATCH_SIZE = 8
_PROBES = 64


def activate(
    images: Source,
    out: Path | str,
    *,
    index: ReferenceIndex | Path | str | None = None,
    add: bool = False,
    prefix: str = "",
    rows: int = 1,
    effort: Effort = "robust",
    min_psnr: float | None = None,
    scaling: float | None = None,
    iterations: int | None = None,
    target: Target | None = None,
    delta_size: DeltaSize | None = None,
    format: Format = "png",
    jpeg_quality: int = 95,
    compress_level: int = 6,
    seed: int = 0,
    extractor: Extractor | Path | str | None = None,
    resize_size: int | None = None,
    settings: ExtractionSettings | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> Release:
    """Write activated forms of pictures into another folder, in the same tree, with a manifest.

    The pictures themselves stay as they are. Interrupted, the same call goes on; pictures that were added or replaced
    since are treated then. Pictures that cannot be read or released are recorded, the others do not notice.

    Args:
        images: a folder of pictures (with its subfolders), a list file (a path per line), one picture, or paths.
        out: folder of the released pictures and of manifest.csv: new, empty, or of an earlier call with the same
            settings.
        index: folder of the index that copies will be searched in (`aindex index build` makes one), or an open one;
            `shipped` is the one that comes with aindex. Copies of a picture are found in it if it holds the original; a
            warning says how many it does not hold. Default: one of its own, beside `out` with `.index` at the end, to
            which the originals are added.
        add: put the originals into the index too, as the released pictures' rows; an index that was opened gets them
            and is not saved.
        prefix: put before the names of the rows.
        rows: with add, most rows of each picture, in the cells that simulated edits of it fall into. A picture that is
            in the index is drawn to the cells of all its rows.
        effort: robust against many edits; fast, which takes a fraction of its time; or paper, the published settings.
        min_psnr: PSNR in dB that every saved file keeps, what its format loses included; by default the pixels keep
            the effort's, if it has one, before they are saved. The defaults of the next four are the effort's, too.
        scaling: strength of the change, in just-noticeable differences.
        iterations: gradient steps per picture.
        target: with effort paper, where the descriptor is drawn: `pq_recons` what the index stores for it,
            `ivf_cluster` the centroid of its coarse cell, `ivf_cluster_half` midway there, `ori_ft` the descriptor.
        delta_size: size at which the change is optimised: `image` the picture's own; `input` the extractor's, or a
            number, so many times that, so that the cost does not grow with the picture.
        format: png, webp, tiff (all lossless), or jpeg (loses some of the activation).
        jpeg_quality: 1 to 100.
        compress_level: of PNG, 0 (fast) to 9 (small); the pixels are the same.
        seed: of the start of the optimisation.
        extractor: name or path, or one in use (default: the one that the index names).
        resize_size: side of the extractor's square input, pixels (default: the index's).
        settings: device, precision and batch size; default `describing(batch_size=8)`.
        overwrite: remove an earlier release in out, by its own list; other files in it stay.
        dry_run: write nothing, say what would be done.

    Returns:
        The folder, the manifest as a table, and the pictures that were left out.

    Raises:
        AindexError: the index, the pictures, the folder or the settings are not possible.
    """
    files = FileSettings(
        format=format, jpeg_quality=jpeg_quality, compress_level=compress_level, min_psnr=min_psnr
    )
    loop = preset(
        effort,
        target=target,
        iterations=iterations,
        scaling=scaling,
        min_psnr=min_psnr,
        delta_size=delta_size,
    )
    # which the published method does not ask
    loop = replace(loop, settings=replace(loop.settings, faithful=True))
    if add and str(index) == SHIPPED:
        raise ConfigError(
            "the index that comes with aindex is not added to: make one of your own with aindex index build --like "
            "shipped, or leave add out"
        )
    if format == "jpeg":
        warnings.warn(
            "format jpeg loses some of the activation: of the R@1 that it gains, a twentieth at quality 95 and a "
            "seventh at 75 (docs/usage.md); png, webp and tiff keep all of it",
            stacklevel=2,
        )
    out = possible_path(out)
    listing = without_output(list_source(images), out)
    if index is None:
        index, add = _own_index(out, dry_run=dry_run), True
    equipment = open_equipment(
        index,
        extractor,
        resize_size=resize_size,
        settings=settings or describing(batch_size=BATCH_SIZE),
        read_only=not add,
    )
    if add:
        check_row_count(rows, equipment.index.quantiser)
    if dry_run:
        return planned_table(out, listing, format, equipment.index, [prefix + name for name in listing.names])
    records = Records(out)
    records.check()
    with exclusive(records.state, wait=False):
        configuration = {"effort": effort, **_configuration(equipment, loop, files, seed)}
        records.claim(configuration, overwrite=overwrite, sources=listing.paths)
        records.reserve(output_files(listing.names, format), listing.paths)
        originals = describe_pictures(
            listing.paths, equipment.extractor, records.work, equipment.settings, root=listing.root
        )
        folder = None if isinstance(index, ReferenceIndex) else user_path(index)
        ids = _ids(equipment, originals, listing, prefix, rows if add else None, seed, folder)
        warn_of_strangers(ids, folder)
        own = own_rows_of(equipment.index, originals, ids)
        activator = Activator(out, listing, originals, own, equipment, loop, files, seed, records)
        try:
            activator.treat()
        finally:
            # What is finished counts, also when the rest is not.
            numbers = dict(zip(originals.names, ids.tolist(), strict=True))
            table = manifest_table(records.read(), listing.names, numbers)
            write_manifest(out, table, activator.skipped)
        remove_tree(records.work)
    return Release(out, table, activator.skipped)


def own_index_folder(out: Path) -> Path:
    """Where the index of a release's originals lies if no other is named: beside it, never in what is published."""
    out = out if out.name not in ("", "..") else Path(os.path.abspath(out))
    return out.with_name(f"{out.name}.index")


def _own_index(out: Path, *, dry_run: bool) -> ReferenceIndex | Path:
    """An index for the originals, with the cells and codes of the one that comes with aindex; made once."""
    folder = own_index_folder(out)
    if (folder / YAML_NAME).is_file():
        return folder
    empty = ReferenceIndex.open(index_folder(SHIPPED)).empty_copy()
    if dry_run:
        return empty
    empty.save(folder)
    return folder


def _configuration(equipment: Equipment, loop: Preset, files: FileSettings, seed: int) -> dict[str, Any]:
    """What decides the pixels: an earlier call is gone on with only if all of it is the same."""
    index = equipment.index
    # Rows may be added to the index on the way; what its quantiser makes of some points says which it is.
    points = np.random.default_rng(0).normal(scale=index.dim**-0.5, size=(_PROBES, index.dim))
    stored = index.quantiser.stored(points.astype(np.float32))
    cells = index.quantiser.cells(points.astype(np.float32))
    probe = hashlib.sha256(stored.tobytes() + (b"" if cells is None else cells.tobytes()))
    return {
        "format_version": 3,
        "quantiser": probe.hexdigest(),
        "extractor": equipment.extractor.fingerprint,
        "precision": equipment.settings.precision,
        **asdict(files),
        "seed": seed,
        **{
            name: getattr(loop.settings, name) for name in ("iterations", "scaling", "min_psnr", "delta_size")
        },
        "target": loop.target,
        "loop": loop.model,
    }


def _ids(
    equipment: Equipment,
    originals: Extraction,
    listing: Listing,
    prefix: str,
    rows: int | None,
    seed: int,
    folder: Path | None,
) -> Ids:
    """The pictures' ids in the index, −1 for those without; put there first with so many `rows` each, if not None."""
    index, names = equipment.index, [prefix + name for name in originals.names]
    if rows is None:
        return own_rows(index, originals.descriptors, names)
    paths = dict(zip(listing.names, listing.paths, strict=True))

    def append(descriptors: Rows, new: Sequence[str]) -> Ids:
        described = Extraction(descriptors, [name.removeprefix(prefix) for name in new], originals.skipped)
        batch = chosen_rows(described, paths, equipment, rows, seed)
        return index.add(batch.descriptors, new, batch.counts)

    before = index.pictures
    ids = add_originals(index, originals.descriptors, names, append)
    if folder is not None and index.pictures > before:
        index.save(folder)
    return ids


def warn_of_strangers(ids: Ids, folder: Path | None) -> None:
    """Say, before the work, of how many pictures no copy will be found in the index, and what to do about it."""
    absent = int((ids < 0).sum())
    if not absent:
        return
    way_out = (
        "make an index of your own with aindex index build --like shipped, and activate against that"
        if str(folder) == SHIPPED
        else "give --add true, or put them there with aindex index add"
    )
    where = "the index" if folder is None else f"the index {str(folder)!r}"
    warnings.warn(
        f"{absent} of {len(ids)} pictures are not in {where}: no search of it finds a copy of them; {way_out}",
        stacklevel=3,
    )


def own_rows_of(index: ReferenceIndex, originals: Extraction, ids: Ids) -> list[Rows]:
    """Per picture r×d, what its rows in the index are made of: where there are several, what is stored for them."""
    rows = [np.array(own)[None] for own in originals.descriptors]
    if not index.owners.is_one_to_one:
        there = np.flatnonzero(ids >= 0)
        for position, stored in zip(there.tolist(), index.stored_rows(ids[there]), strict=True):
            if len(stored) > 1:
                rows[position] = stored
    return rows
