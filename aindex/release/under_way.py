"""Activation under way: pictures decoded ahead, activated batch by batch, written and measured behind."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from aindex.activation.goals import GoalMaker
from aindex.activation.presets import Preset
from aindex.collection.equipment import Equipment
from aindex.data.images import SkippedImages
from aindex.descriptors.extraction import Extraction
from aindex.descriptors.extractor import check_gradient
from aindex.descriptors.preprocess import prepare
from aindex.errors import ImageReadError
from aindex.index.backend import Rows
from aindex.release.batch import batch_changes, nearest_distances, save_activated
from aindex.release.manifest import LEFT_OUT
from aindex.release.pictures import FileSettings, OpenedPicture, PictureError, open_picture
from aindex.release.planning import Job, Listing, batches, header_pixels, output_files, source_state
from aindex.release.records import Records
from aindex.terminal import bars_are_off


class Activator:
    """Activates the pictures that are still to be released, batch by batch: files are written behind the next batch."""

    def __init__(
        self,
        out: Path,
        listing: Listing,
        originals: Extraction,
        rows: Sequence[Rows],
        equipment: Equipment,
        loop: Preset,
        files: FileSettings,
        seed: int,
        records: Records,
    ) -> None:
        self.skipped = SkippedImages(LEFT_OUT, list(originals.skipped.rows))
        self._out, self._loop, self._files, self._seed, self._records = out, loop, files, seed, records
        self._descriptors, self._rows = originals.descriptors, rows
        self._equipment, self._settings = equipment, equipment.settings
        check_gradient(equipment.fast, equipment.extractor.name, equipment.extractor.input_size)
        self._make_goal = GoalMaker(
            equipment.index.quantiser,
            loss_f=loop.settings.loss_f,
            target=loop.target,
            temperature=loop.settings.temperature,
            anchor=loop.settings.anchor,
            nprobe=equipment.index.nprobe,
            device=equipment.settings.device or "cpu",
        )
        self._jobs = _jobs(listing, originals, output_files(listing.names, files.format))

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
            waiting = _Written([], [], torch.empty(0), [])
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
            self._equipment.fast,
            self._loop,
            seed=self._seed,
            batch_size=self._settings.batch_size,
        )
        futures = [
            pool.submit(save_activated, picture, change, job, self._out, self._files)
            for picture, change, job in zip(pictures, changes, jobs, strict=True)
        ]
        targets = goal.targets.cpu()
        before = nearest_distances(originals, targets)
        return _Written(jobs, futures, targets, before)

    def _settle(self, written: "_Written", bar: "tqdm[Any]") -> None:
        """Wait for a batch's files, measure them, note them as finished."""
        kept: list[tuple[int, dict[str, Any], Tensor]] = []
        for number, (job, future) in enumerate(zip(written.jobs, written.futures, strict=True)):
            try:
                kept.append((number, *future.result()))
            except PictureError as error:
                self.skipped.record(job.name, error)
        if kept:
            targets = written.targets[[number for number, _, _ in kept]]
            size = self._equipment.extractor.input_size
            inputs = [prepare(Image.fromarray(seen.numpy()), size) for _, _, seen in kept]
            after = nearest_distances(self._equipment.describe(inputs), targets)
            for (number, record, _), distance in zip(kept, after, strict=True):
                before = written.before[number]
                self._records.append({**record, "distance_before": before, "distance_after": distance})
        bar.update(len(written.jobs))


class _Written(NamedTuple):
    jobs: list[Job]
    futures: list["Future[tuple[dict[str, Any], Tensor]]"]
    targets: Tensor
    before: list[float]


def _jobs(listing: Listing, originals: Extraction, files: Sequence[str]) -> list[Job]:
    positions = {name: position for position, name in enumerate(originals.names)}
    return [
        Job(
            name=name,
            path=path,
            file=file,
            position=positions[name],
            state=source_state(path),
            pixels=header_pixels(path),
        )
        for name, path, file in zip(listing.names, listing.paths, files, strict=True)
        if name in positions
    ]
