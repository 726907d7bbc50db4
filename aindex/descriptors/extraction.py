"""Pictures to descriptors: decoding in threads, whole batches through the extractor, named rows."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from aindex.data.decoding import DecodedBatches
from aindex.data.images import SkippedImages, image_names, read_image
from aindex.descriptors.extractor import Extractor
from aindex.descriptors.files import Matrix
from aindex.descriptors.inference import Precision, fast_extractor
from aindex.descriptors.preprocess import prepare
from aindex.errors import DataError, DescriptorError, ImageReadError
from aindex.terminal import bars_are_off


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
        num_workers: threads that decode; with 0 pictures are decoded when their turn comes.
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
    require: bool = True,
    **options: Any,
) -> Extraction:
    """Describe pictures, in memory; unreadable ones are recorded and left out of the rows.

    Args:
        images: the files, in the order of the rows.
        extractor: what describes them.
        root: the folder that names are relative to; None keeps the paths as given.
        require: False returns no rows, rather than raising an error, where no picture can be read.
        **options: as in ``ExtractionSettings``.

    Raises:
        DataError: there are no pictures, none can be read (unless ``require`` is False), or ``root`` vanished on the
            way.
        DescriptorError: a descriptor with NaN or infinite values.
    """
    settings = ExtractionSettings(**options)
    names = row_names(images, root)
    batches = batch_ranges(len(images), settings.batch_size)
    rows: list[int] = []
    blocks: list[Matrix] = []
    skipped = SkippedImages()
    for batch in describe(images, extractor, batches, root=root, settings=settings):
        rows += batch.readable
        blocks.append(batch.descriptors)
        for position, reason in batch.unreadable:
            skipped.record(names[position], reason)
    if require or not images:
        require_some(len(images), len(rows), skipped)
    return Extraction(np.concatenate(blocks), [names[row] for row in rows], skipped)


def row_names(images: Sequence[Path], root: Path | None) -> list[str]:
    """The pictures' paths relative to a folder, or as they are given."""
    return [Path(image).as_posix() for image in images] if root is None else image_names(images, root)


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
    decoded = DecodedBatches(
        lambda position: _prepared(images[position], extractor.input_size),
        batches,
        threads=settings.num_workers,
    )
    done = len(images) - sum(map(len, batches))
    with tqdm(
        total=len(images), initial=done, desc="extract", unit="img", disable=bars_are_off(settings.progress)
    ) as bar:
        for batch, items in zip(batches, decoded, strict=True):
            pixels = torch.stack([pixels for pixels, _ in items])
            reasons = {slot: reason for slot, (_, reason) in enumerate(items) if reason is not None}
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


def _prepared(path: Path, size: int) -> tuple[Tensor, str | None]:
    """A picture as the extractor's input; a blank one with the reason where it cannot be read."""
    try:
        return prepare(read_image(path), size), None
    except ImageReadError as error:
        return torch.zeros(3, size, size), str(error)
