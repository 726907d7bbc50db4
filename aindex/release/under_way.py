"""A release under way: pictures decoded ahead, activated batch by batch, written and measured behind."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from aindex.activation.goals import GoalMaker
from aindex.collection.equipment import Equipment
from aindex.data.images import SkippedImages
from aindex.descriptors.extraction import Extraction
from aindex.descriptors.extractor import check_gradient
from aindex.descriptors.inference import FastExtractor, fast_extractor
from aindex.errors import ImageReadError
from aindex.index.backend import Rows
from aindex.release.batch import (
    ReleaseSettings,
    batch_changes,
    nearest_distances,
    release,
    released_distances,
)
from aindex.release.pictures import OpenedPicture, ReleaseError, open_picture
from aindex.release.planning import Job, Listing, batches, header_size, released_files, source_state
from aindex.release.records import Records
from aindex.terminal import bars_are_off


class ReleaseRun:
    """The pictures that are still to be released, batch by batch: files are written behind the next batch."""

    def __init__(
        self,
        out: Path,
        listing: Listing,
        originals: Extraction,
        rows: Sequence[Rows],
        equipment: Equipment,
        how: ReleaseSettings,
        records: Records,
    ) -> None:
        self.skipped = SkippedImages()
        self.skipped.rows = list(originals.skipped.rows)
        self._out, self._how, self._records = out, how, records
        self._descriptors, self._rows, self._preset = originals.descriptors, rows, how.preset()
        self._settings = equipment.settings
        self._fast: FastExtractor = fast_extractor(
            equipment.extractor, device=equipment.settings.device, precision=equipment.settings.precision
        )
        extractor = equipment.extractor
        check_gradient(self._fast, extractor.name, extractor.input_size)
        self._make_goal = GoalMaker(
            equipment.index.quantiser,
            loss_f=self._preset.settings.loss_f,
            target=self._preset.target,
            temperature=self._preset.settings.temperature,
            anchor=self._preset.settings.anchor,
            nprobe=equipment.index.nprobe,
            device=equipment.settings.device or "cpu",
        )
        self._jobs = _jobs(listing, originals, how)
        self._paths = dict(zip(listing.names, listing.paths, strict=True))

    def treat(self) -> None:
        """Release what is not released yet."""
        finished = self._records.read()
        open_jobs = [job for job in self._jobs if finished.get(job.name, {}).get("source") != job.state]
        groups = list(batches(open_jobs, self._settings.batch_size))
        threads = max(1, self._settings.num_workers)
        bar = tqdm(
            total=len(open_jobs), desc="activate", unit="img", disable=bars_are_off(self._settings.progress)
        )
        with bar, ThreadPoolExecutor(threads, thread_name_prefix="pictures") as pool:
            waiting: _Written | None = None
            for jobs, pictures in self._decoded(groups, pool):
                try:
                    written = self._activated(jobs, pictures, pool)
                finally:
                    # an interrupted batch does not cost the one before
                    self._settle(waiting, bar)
                waiting = written
            self._settle(waiting, bar)

    def _decoded(
        self, groups: Sequence[list[Job]], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[list[Job], list[OpenedPicture]]]:
        """Batches of decoded pictures, the next one being decoded meanwhile; unreadable ones are recorded."""
        futures = [pool.submit(open_picture, job.path) for job in groups[0]] if groups else []
        for number, jobs in enumerate(groups):
            current = futures
            if number + 1 < len(groups):
                futures = [pool.submit(open_picture, job.path) for job in groups[number + 1]]
            good_jobs, pictures = [], []
            for job, future in zip(jobs, current, strict=True):
                try:
                    pictures.append(future.result())
                    good_jobs.append(job)
                except ImageReadError as error:
                    self.skipped.record(job.name, error)
            if pictures:
                yield good_jobs, pictures

    def _activated(
        self, jobs: list[Job], pictures: list[OpenedPicture], pool: ThreadPoolExecutor
    ) -> "_Written":
        originals = torch.from_numpy(np.array(self._descriptors[[job.position for job in jobs]]))
        goal = self._make_goal([torch.from_numpy(self._rows[job.position]) for job in jobs])
        changes = batch_changes(
            pictures,
            [job.name for job in jobs],
            goal,
            self._fast,
            self._preset,
            seed=self._how.seed,
            batch_size=self._settings.batch_size,
        )
        futures = [
            pool.submit(release, picture, change, job, self._out, self._how)
            for picture, change, job in zip(pictures, changes, jobs, strict=True)
        ]
        targets = goal.targets.cpu()
        before = nearest_distances(originals, targets)
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
            after = released_distances(
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
