"""Release pictures activated: the same tree, imperceptibly changed, found again after edits."""

import hashlib
import shutil
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from aindex.activation.distortion import DeltaSize
from aindex.collection.equipment import SHIPPED, Equipment, describing, open_equipment
from aindex.collection.manifest import Release, manifest_table, planned_table, write_manifest
from aindex.collection.pictures import Format, OpenedPicture, ReleaseError, open_picture
from aindex.collection.planning import (
    DeltaChoice,
    Job,
    Listing,
    batches,
    header_size,
    list_source,
    released_files,
    source_state,
    without_output,
)
from aindex.collection.records import Records
from aindex.collection.release import ReleaseSettings, batch_changes, release, squared_distances
from aindex.collection.sources import Source, describe_pictures
from aindex.data.images import SkippedImages
from aindex.descriptors.extract import Extraction, ExtractionSettings
from aindex.descriptors.extractor import Extractor
from aindex.descriptors.inference import FastExtractor, fast_extractor
from aindex.errors import ConfigError, ImageReadError
from aindex.index.backend import Ids
from aindex.index.originals import add_originals, own_rows
from aindex.index.quantiser import Target
from aindex.index.reference_index import ReferenceIndex

BATCH_SIZE = 8
_PROBES = 64


def activate(
    images: Source,
    out: Path | str,
    *,
    index: ReferenceIndex | Path | str = SHIPPED,
    add: bool = False,
    prefix: str = "",
    min_psnr: float | None = None,
    scaling: float = 3.0,
    iterations: int = 10,
    target: Target = "pq_recons",
    delta_size: DeltaChoice = "auto",
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
    """Write activated forms of pictures, in the same tree, and a manifest.

    The pictures themselves stay as they are. Interrupted, the same call goes on; pictures that were added or replaced
    since are treated then. Pictures that cannot be read or released are recorded, the others do not notice.

    Args:
        images: a folder (with its subfolders), a list file, one picture, or paths.
        out: folder of the released pictures; new, empty, or of an earlier call with the same settings.
        index: an open index, a folder, or `shipped`.
        add: put the originals' descriptors into the index first; an index that was opened gets the rows and is not
            saved.
        prefix: put before the names of the rows.
        min_psnr: dB that every released picture keeps, measured on the saved file; None for no budget.
        scaling: strength of the change, in just-noticeable differences.
        iterations: gradient steps per picture.
        target: where descriptors are drawn (see `Quantiser.targets`).
        delta_size: size at which the change is optimised: `image` the picture's own, `input` the extractor's (the cost
            does not grow with the picture), `auto` `input` from a megapixel on.
        format: png, webp and tiff keep every pixel; jpeg does not.
        jpeg_quality: 1 to 100.
        compress_level: of PNG, 0 (fast) to 9 (small).
        seed: of the start of the optimisation.
        extractor: one in use, a name or a path; default the one that the index names.
        resize_size: side of the extractor's input, pixels; default the index's.
        settings: device, precision and batch size; default `describing(batch_size=8)`.
        overwrite: drop an earlier release in `out`.
        dry_run: write nothing, say what would be done.

    Returns:
        The folder, the manifest as a table, and the pictures that were left out.

    Raises:
        AindexError: the index, the pictures, the folder or the settings are not possible.
    """
    how = ReleaseSettings(
        target=target,
        iterations=iterations,
        scaling=scaling,
        min_psnr=min_psnr,
        delta_size=delta_size,
        format=format,
        jpeg_quality=jpeg_quality,
        compress_level=compress_level,
        seed=seed,
    )
    if add and str(index) == SHIPPED:
        raise ConfigError(
            "the index that comes with aindex is not added to: make one of your own with aindex index build --like "
            "shipped, or leave add out"
        )
    if format == "jpeg":
        warnings.warn(JPEG_WARNING, stacklevel=2)
    equipment = open_equipment(
        index,
        extractor,
        resize_size=resize_size,
        settings=settings or describing(batch_size=BATCH_SIZE),
        read_only=not add,
    )
    out = Path(out).expanduser()
    listing = without_output(list_source(images), out)
    if dry_run:
        return planned_table(out, listing, how, equipment.index, [prefix + name for name in listing.names])
    records = Records(out)
    records.claim(_configuration(equipment, how), overwrite=overwrite)
    originals = describe_pictures(
        listing.paths, equipment.extractor, records.work, equipment.settings, root=listing.root
    )
    rows = _rows(
        equipment.index,
        originals,
        prefix,
        add=add,
        folder=None if isinstance(index, ReferenceIndex) else index,
    )
    run = _Run(out, listing, originals, equipment, how, records)
    try:
        run.treat()
    finally:
        # What is finished counts, also when the rest is not.
        table = manifest_table(
            records.read(), listing.names, dict(zip(originals.names, rows.tolist(), strict=True))
        )
        write_manifest(out, table, run.skipped)
    shutil.rmtree(records.work, ignore_errors=True)
    return Release(out, table, run.skipped)


JPEG_WARNING = "format jpeg changes the released pixels once more: use png, webp or tiff where you can"


def _configuration(equipment: Equipment, how: ReleaseSettings) -> dict[str, Any]:
    """What decides the pixels: a release goes on only if all of it is the same."""
    index = equipment.index
    # Rows may be added to the index on the way; what its quantiser makes of some points says which it is.
    points = np.random.default_rng(0).normal(scale=index.dim**-0.5, size=(_PROBES, index.dim))
    targets = index.quantiser.targets(points.astype(np.float32), how.target)
    return {
        "format_version": 1,
        "quantiser": hashlib.sha256(targets.tobytes()).hexdigest(),
        "extractor": equipment.extractor.fingerprint,
        "precision": equipment.settings.precision,
        **asdict(how),
    }


def _rows(
    index: ReferenceIndex, originals: Extraction, prefix: str, *, add: bool, folder: Path | str | None
) -> Ids:
    """The pictures' rows in the index, −1 for those without; put there first if wanted."""
    names = [prefix + name for name in originals.names]
    if not add:
        return own_rows(index, originals.descriptors, names)
    before = index.ntotal
    rows = add_originals(index, originals.descriptors, names)
    if folder is not None and index.ntotal > before:
        index.save(Path(folder).expanduser())
    return rows


class _Run:
    """The pictures that are still to be released, batch by batch: files are written behind the next batch."""

    def __init__(
        self,
        out: Path,
        listing: Listing,
        originals: Extraction,
        equipment: Equipment,
        how: ReleaseSettings,
        records: Records,
    ) -> None:
        self.skipped = SkippedImages()
        self.skipped.rows = list(originals.skipped.rows)
        self._out, self._how, self._records = out, how, records
        self._descriptors, self._quantiser = originals.descriptors, equipment.index.quantiser
        self._settings = equipment.settings
        self._fast: FastExtractor = fast_extractor(
            equipment.extractor, device=equipment.settings.device, precision=equipment.settings.precision
        )
        self._jobs = _jobs(listing, originals, how)
        self._paths = dict(zip(listing.names, listing.paths, strict=True))

    def treat(self) -> None:
        """Release what is not released yet."""
        finished = self._records.read()
        open_jobs = [job for job in self._jobs if finished.get(job.name, {}).get("source") != job.state]
        groups = list(batches(open_jobs, self._settings.batch_size, self._how.delta_size))
        threads = max(1, self._settings.num_workers)
        bar = tqdm(total=len(open_jobs), desc="activate", unit="img", disable=not self._settings.progress)
        with bar, ThreadPoolExecutor(threads, thread_name_prefix="pictures") as pool:
            waiting: _Written | None = None
            for kind, jobs, pictures in self._decoded(groups, pool):
                try:
                    written = self._activated(kind, jobs, pictures, pool)
                finally:
                    # an interrupted batch does not cost the one before
                    self._settle(waiting, bar)
                waiting = written
            self._settle(waiting, bar)

    def _decoded(
        self, groups: Sequence[tuple[DeltaSize, list[Job]]], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[DeltaSize, list[Job], list[OpenedPicture]]]:
        """Batches of decoded pictures, the next one being decoded meanwhile; unreadable ones are recorded."""
        futures = [pool.submit(open_picture, job.path) for job in groups[0][1]] if groups else []
        for number, (kind, jobs) in enumerate(groups):
            current = futures
            if number + 1 < len(groups):
                futures = [pool.submit(open_picture, job.path) for job in groups[number + 1][1]]
            good_jobs, pictures = [], []
            for job, future in zip(jobs, current, strict=True):
                try:
                    pictures.append(future.result())
                    good_jobs.append(job)
                except ImageReadError as error:
                    self.skipped.record(job.name, error)
            if pictures:
                yield kind, good_jobs, pictures

    def _activated(
        self, kind: DeltaSize, jobs: list[Job], pictures: list[OpenedPicture], pool: ThreadPoolExecutor
    ) -> "_Written":
        originals = torch.from_numpy(np.array(self._descriptors[[job.position for job in jobs]]))
        targets = self._quantiser.targets(originals, self._how.target)
        changes = batch_changes(
            pictures,
            [job.name for job in jobs],
            targets,
            self._fast,
            self._how,
            delta_size=kind,
            batch_size=self._settings.batch_size,
        )
        futures = [
            pool.submit(release, picture, change, job, self._out, self._how)
            for picture, change, job in zip(pictures, changes, jobs, strict=True)
        ]
        before = (originals - targets).square().sum(dim=1).tolist()
        return _Written(jobs, futures, targets, before)

    def _settle(self, written: "_Written | None", bar: "tqdm[Any]") -> None:
        """Wait for a batch's files, measure them, note them as finished."""
        if written is None:
            return
        kept: list[tuple[int, dict[str, Any], Tensor]] = []
        for number, (job, future) in enumerate(zip(written.jobs, written.futures, strict=True)):
            try:
                kept.append((number, *future.result()))
            except ReleaseError as error:
                self.skipped.record(job.name, error)
        if kept:
            numbers = [number for number, _, _ in kept]
            after = squared_distances(
                [seen for _, _, seen in kept], written.targets[numbers], self._fast, self._settings.batch_size
            )
            for (number, record, _), distance in zip(kept, after, strict=True):
                self._records.append(
                    {**record, "distance_before": written.before[number], "distance_after": distance}
                )
        bar.update(len(written.jobs))


@dataclass(frozen=True)
class _Written:
    jobs: list[Job]
    futures: list["Future[tuple[dict[str, Any], Tensor]]"]
    targets: Tensor
    before: list[float]


def _jobs(listing: Listing, originals: Extraction, how: ReleaseSettings) -> list[Job]:
    described = {name: position for position, name in enumerate(originals.names)}
    files = released_files(listing.names, how.format)
    jobs = []
    for name, path, file in zip(listing.names, listing.paths, files, strict=True):
        if name in described:
            width, height = header_size(path)
            jobs.append(
                Job(
                    name=name,
                    path=path,
                    file=file,
                    position=described[name],
                    state=source_state(path),
                    pixels=width * height,
                )
            )
    return jobs
