"""One batch of pictures activated, and one picture cut to its budget, written and measured."""

import errno
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aindex.activation.goals import Goal
from aindex.activation.loop import activate_images
from aindex.activation.perceptual import ssim
from aindex.activation.presets import Preset
from aindex.data.atomic import replace_when_done
from aindex.descriptors.inference import FastExtractor
from aindex.errors import OutputError
from aindex.release.budget import largest_scale
from aindex.release.pictures import (
    FileSettings,
    OpenedPicture,
    PictureError,
    as_seen,
    changed_colours,
    decode,
    encode,
    strips,
)
from aindex.release.planning import Job
from aindex.seeding import derive_seed

_SSIM_WINDOW = 11


def batch_changes(
    pictures: Sequence[OpenedPicture],
    names: Sequence[str],
    goal: Goal,
    extractor: FastExtractor,
    loop: Preset,
    *,
    seed: int,
    batch_size: int,
) -> list[Tensor | PictureError]:
    """The change x' − x of each picture, normalised space, 3×H×W, on the CPU; an error for one that failed.

    Args:
        pictures: at most `batch_size`.
        names: theirs; random numbers derive from them and the seed.
        goal: of these pictures.
        extractor: sees batches of `batch_size`, however few pictures there are.
        loop: settings, optimiser and scheduler.
        seed: of all pictures.
        batch_size: rows of the extractor's batch.
    """
    activation = activate_images(
        [picture.seen.permute(2, 0, 1).contiguous().to(extractor.device) for picture in pictures],
        goal,
        extractor,
        loop.settings,
        seeds=[derive_seed(seed, name, "delta") for name in names],
        batch_size=batch_size,
        optimizer=loop.optimizer,
        scheduler=loop.scheduler,
    )
    pairs = zip(activation.changes(), activation.failures, strict=True)
    return [PictureError(str(why)) if change is None else change.cpu() for change, why in pairs]


def save_activated(
    picture: OpenedPicture, change: Tensor | PictureError, job: Job, out: Path, settings: FileSettings
) -> tuple[dict[str, Any], Tensor]:
    """Cut a change to the budget, write the picture, measure what was written.

    Returns:
        The picture's record, and its pixels as the file holds them, H×W×3 uint8.

    Raises:
        PictureError: this picture cannot be released so.
        OutputError: nothing can be written.
    """
    if isinstance(change, PictureError):
        raise change
    scale: float | None = 1.0
    if settings.min_psnr is not None:
        scale = largest_scale(
            lambda s: _psnr(_scaled(picture, change, s, settings), picture), settings.min_psnr
        )
    if scale is None:
        raise PictureError(
            f"{settings.format} alone brings {job.name!r} below min_psnr {settings.min_psnr} dB: raise "
            "jpeg_quality, take format png, or lower min_psnr"
        )
    content = encode(picture, changed_colours(picture, change, scale), settings)
    seen = decode(content)
    _write(out / job.file, content)
    height, width, _ = seen.shape
    record = {
        "name": job.name,
        "file": job.file,
        "bytes": len(content),
        "source": job.state,
        "psnr_db": _psnr(seen, picture),
        "ssim": _ssim(picture.seen, seen),
        "linf_grey_levels": _linf(picture.seen, seen),
        "scale": scale,
        "width": width,
        "height": height,
        "notes": "; ".join(picture.notes),
    }
    return record, seen


def nearest_distances(descriptors: Tensor, targets: Tensor) -> list[float]:
    """Squared distance of each descriptor, B×d, to the nearest of its targets, B×r×d."""
    distances: list[float] = (descriptors[:, None] - targets).square().sum(dim=2).amin(dim=1).tolist()
    return distances


def _scaled(picture: OpenedPicture, change: Tensor, scale: float, settings: FileSettings) -> Tensor:
    """The pixels of the file that a share of the change would give."""
    colours = changed_colours(picture, change, scale)
    if settings.format == "jpeg":
        return decode(encode(picture, colours, settings))
    return as_seen(picture, colours)


def _psnr(seen: Tensor, picture: OpenedPicture) -> float:
    # In integers, because float32 sums over many million pixels would round; in strips, to spare memory.
    total = 0
    for rows in strips(seen.shape[0], seen.shape[1]):
        difference = seen[rows].to(torch.int32) - picture.seen[rows].to(torch.int32)
        total += int(difference.square_().sum(dtype=torch.int64))
    return math.inf if total == 0 else 10 * math.log10(255**2 * seen.numel() / total)


def _linf(a: Tensor, b: Tensor) -> int:
    """Largest difference in grey levels of H×W×3 pictures."""
    parts = [(a[rows].to(torch.int16) - b[rows]).abs().max() for rows in strips(*a.shape[:2])]
    return int(torch.stack(parts).max())


def _ssim(a: Tensor, b: Tensor) -> float:
    """SSIM of H×W×3 pictures, strip by strip: the mean over all windows, without their maps in memory at once."""
    height, width, _ = a.shape
    # An image narrower than the window gets a smaller one, which only the whole of it tells.
    overlap = _SSIM_WINDOW - 1
    if min(height, width) <= overlap:
        return ssim(a.permute(2, 0, 1), b.permute(2, 0, 1))
    parts = [(rows, rows.stop - rows.start - overlap) for rows in strips(height, width, overlap=overlap)]
    windows = sum(count for _, count in parts)
    total = math.fsum(n * ssim(a[r].permute(2, 0, 1), b[r].permute(2, 0, 1)) for r, n in parts)
    return float(total / windows)


def _write(path: Path, content: bytes) -> None:
    try:
        with replace_when_done(path) as temporary:
            temporary.write_bytes(content)
    except OutputError as error:
        # A name that the file system cannot take is this picture's own trouble.
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in (
            errno.ENAMETOOLONG,
            errno.EILSEQ,
        ):
            raise PictureError(f"{error}") from error
        raise
