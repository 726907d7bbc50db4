"""Pictures to descriptors: decoding in worker processes, whole batches through the extractor, named rows."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from aindex.data.images import SkippedImages, image_names, one_line, read_image
from aindex.data.loading import loader_processes
from aindex.descriptors.extractor import Extractor
from aindex.descriptors.files import Matrix
from aindex.descriptors.inference import Precision, fast_extractor
from aindex.descriptors.preprocess import prepare
from aindex.errors import DataError, DescriptorError, ImageReadError


class Extraction(NamedTuple):
    """Descriptors n×d, the names of their rows, and the pictures that could not be read."""

    descriptors: Matrix
    names: list[str]
    skipped: SkippedImages


class ExtractionSettings(NamedTuple):
    """How an extraction runs; the defaults of all functions that extract.

    Attributes:
        batch_size: pictures per call of the extractor; short batches are filled up, so that a picture's
            descriptor does not depend on how many others there are.
        num_workers: processes that decode; 0 decodes in this one.
        device: where the extractor runs; None leaves it where it is.
        precision: of the extractor's arithmetic; descriptors are float32 in any case.
        progress: show a bar.
    """

    batch_size: int = 32
    num_workers: int = 2
    device: torch.device | str | None = None
    precision: Precision = "fp32"
    progress: bool = True


DEFAULTS = ExtractionSettings()


class DescribedBatch(NamedTuple):
    """Positions of the readable pictures of a batch, their descriptors, and reasons for the other ones."""

    readable: list[int]
    descriptors: Matrix
    unreadable: list[tuple[int, str]]


def extract(
    images: Sequence[Path],
    extractor: Extractor,
    *,
    root: Path | None = None,
    batch_size: int = DEFAULTS.batch_size,
    num_workers: int = DEFAULTS.num_workers,
    device: torch.device | str | None = DEFAULTS.device,
    precision: Precision = DEFAULTS.precision,
    progress: bool = DEFAULTS.progress,
) -> Extraction:
    """Describe pictures, in memory; unreadable ones are recorded and left out of the rows.

    Args:
        images: the files, in the order of the rows.
        extractor: what describes them.
        root: the folder that names are relative to; None keeps the paths as given.
        batch_size, num_workers, device, precision, progress: as in ``ExtractionSettings``.

    Raises:
        DataError: there are no pictures, none can be read, or ``root`` vanished on the way.
        DescriptorError: a descriptor with NaN or infinite values.
    """
    settings = ExtractionSettings(batch_size, num_workers, device, precision, progress)
    names = image_names(images, root) if root is not None else [Path(image).as_posix() for image in images]
    batches = batch_ranges(len(images), settings.batch_size)
    rows: list[int] = []
    blocks: list[Matrix] = []
    skipped = SkippedImages()
    for batch in describe(images, extractor, batches, root=root, settings=settings):
        rows += batch.readable
        blocks.append(batch.descriptors)
        for position, reason in batch.unreadable:
            skipped.record(names[position], reason)
    require_some(len(images), len(rows), skipped)
    return Extraction(np.concatenate(blocks), [names[row] for row in rows], skipped)


def batch_ranges(count: int, batch_size: int) -> list[range]:
    """Consecutive positions 0…count−1 in batches."""
    if batch_size < 1:
        raise DataError(f"batch size {batch_size}: expected at least 1")
    return [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]


def require_some(count: int, readable: int, skipped: SkippedImages) -> None:
    """Raise a DataError unless at least one picture of those given could be read."""
    if count == 0:
        raise DataError("no pictures are given: expected at least one")
    if readable == 0:
        raise DataError(f"none of the {count} pictures can be read: {skipped.summary()}")


@torch.no_grad()
def describe(
    images: Sequence[Path],
    extractor: Extractor,
    batches: Sequence[range],
    *,
    root: Path | None,
    settings: ExtractionSettings,
) -> Iterator[DescribedBatch]:
    """Describe batches of positions in ``images``, in order, each batch with its own unreadable ones.

    An unreadable picture leaves a blank slot in its batch, so that all other pictures keep theirs.
    """
    if settings.device is not None:
        extractor = extractor.to(settings.device)
    device = extractor.device
    run = fast_extractor(extractor, device=device, precision=settings.precision)
    # also for a handful of pictures: kernels round by the shape of their batch
    slots = settings.batch_size
    loader = DataLoader(
        _Pictures(images, extractor.input_size),
        batch_sampler=[list(batch) for batch in batches],
        num_workers=settings.num_workers,
        collate_fn=_collate,
        multiprocessing_context=loader_processes(settings.num_workers),
        pin_memory=device.type == "cuda",
    )
    done = len(images) - sum(map(len, batches))
    with tqdm(
        total=len(images), initial=done, desc="extract", unit="img", disable=not settings.progress
    ) as bar:
        for batch, (pixels, reasons) in zip(batches, _guarded(loader), strict=True):
            _require_folder(root, reasons)
            # filled up there: a copy made here would not lie in pinned memory
            pixels = pixels.to(device, non_blocking=True)
            rows = run(F.pad(pixels, (0, 0) * 3 + (0, slots - len(pixels))))[: len(batch)]
            yield _described(batch, rows.cpu().numpy(), reasons, images)
            bar.update(len(batch))


def _described(batch: range, rows: Matrix, reasons: dict[int, str], images: Sequence[Path]) -> DescribedBatch:
    readable = [i for i in range(len(batch)) if i not in reasons]
    descriptors = rows[readable]
    finite = np.isfinite(descriptors).all(axis=1)
    if not finite.all():
        image = images[batch[readable[int(np.argmin(finite))]]]
        raise DescriptorError(
            f"the descriptor of {str(image)!r} has NaN or infinite values: use precision fp32, or an extractor "
            "whose weights are whole"
        )
    unreadable = [(batch[i], reason) for i, reason in sorted(reasons.items())]
    return DescribedBatch([batch[i] for i in readable], descriptors, unreadable)


def _require_folder(root: Path | None, reasons: dict[int, str]) -> None:
    if reasons and root is not None and not os.path.isdir(root):
        raise DataError(
            f"folder {str(root)!r} vanished while its pictures were read: bring it back, run again"
        )


class _Pictures(Dataset[tuple[Tensor, str | None]]):
    """Extractor inputs; a blank one with the reason for a picture that cannot be read."""

    def __init__(self, images: Sequence[Path], size: int) -> None:
        # One array of bytes: a list of a million objects would be copied into each worker, count by count.
        self._paths = np.array([os.fsencode(image) for image in images])
        self._size = size

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, position: int) -> tuple[Tensor, str | None]:
        try:
            return prepare(read_image(os.fsdecode(bytes(self._paths[position]))), self._size), None
        except ImageReadError as error:
            return torch.zeros(3, self._size, self._size), str(error)


def _collate(items: list[tuple[Tensor, str | None]]) -> tuple[Tensor, dict[int, str]]:
    reasons = {slot: reason for slot, (_, reason) in enumerate(items) if reason is not None}
    return torch.stack([pixels for pixels, _ in items]), reasons


def _guarded(
    loader: "DataLoader[tuple[Tensor, str | None]]",
) -> Iterator[tuple[Tensor, dict[int, str]]]:
    batches = iter(loader)
    while True:
        try:
            batch = next(batches, None)
        except RuntimeError as error:
            raise DataError(
                f"a worker that decodes pictures ended ({one_line(error)[:200]}): give fewer workers or more "
                "memory and run again"
            ) from error
        if batch is None:
            return
        yield batch
