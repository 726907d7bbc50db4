"""One batch of pictures activated, and one picture cut to its budget, written and measured."""

import errno
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from aindex.activation.goals import Goal
from aindex.activation.loop import activate_images
from aindex.activation.perceptual import ssim
from aindex.activation.presets import Effort, Preset, preset
from aindex.activation.settings import DeltaSize
from aindex.data.atomic import replace_when_done
from aindex.descriptors.inference import FastExtractor
from aindex.descriptors.preprocess import prepare
from aindex.errors import ConfigError, OutputError
from aindex.index.quantiser import Target
from aindex.release.budget import largest_scale
from aindex.release.pictures import (
    Format,
    OpenedPicture,
    ReleaseError,
    as_seen,
    changed_colours,
    decode,
    encode,
    strips,
)
from aindex.release.planning import Job
from aindex.seeding import derive_seed

_SSIM_WINDOW = 11


@dataclass(frozen=True, kw_only=True)
class ReleaseSettings:
    """All that decides the pixels of released pictures beside the index.

    Attributes:
        effort: which settings of the loop; None of the next five keeps theirs.
        target: where descriptors are drawn.
        iterations: gradient steps per picture.
        scaling: strength of the change, in just-noticeable differences.
        min_psnr: PSNR in dB that every released picture keeps.
        delta_size: size at which the change is optimised.
        format: of the released files.
        jpeg_quality: 1 to 100.
        compress_level: of PNG, 0 to 9; pixels are the same at all.
        seed: of the run.
    """

    effort: Effort = "robust"
    target: Target | None = None
    iterations: int | None = None
    scaling: float | None = None
    min_psnr: float | None = None
    delta_size: DeltaSize | None = None
    format: Format = "png"
    jpeg_quality: int = 95
    compress_level: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.jpeg_quality <= 100:
            raise ConfigError(f"jpeg_quality {self.jpeg_quality}: expected 1 to 100; the default is 95")
        if not 0 <= self.compress_level <= 9:
            raise ConfigError(f"compress_level {self.compress_level}: expected 0 to 9; the default is 6")

    def preset(self) -> Preset:
        """The settings of the loop, faithful to greys, black and white, which the published method does not ask.

        Raises:
            ConfigError: they are not possible.
        """
        loop = preset(
            self.effort,
            target=self.target,
            iterations=self.iterations,
            scaling=self.scaling,
            min_psnr=self.min_psnr,
            delta_size=self.delta_size,
        )
        return replace(loop, settings=replace(loop.settings, faithful=True))


def batch_changes(
    pictures: Sequence[OpenedPicture],
    names: Sequence[str],
    goal: Goal,
    extractor: FastExtractor,
    how: Preset,
    *,
    seed: int,
    batch_size: int,
) -> list[Tensor | ReleaseError]:
    """The change x' − x of each picture, normalised space, 3×H×W, on the CPU; an error for one that failed.

    Args:
        pictures: at most `batch_size`.
        names: of the pictures; their random numbers derive from them.
        goal: of these pictures.
        extractor: prepared.
        how: settings of the loop.
        seed: of the run.
        batch_size: rows of the extractor's batch, however few pictures there are.
    """
    activation = activate_images(
        [picture.seen.permute(2, 0, 1).contiguous().to(extractor.device) for picture in pictures],
        goal,
        extractor,
        how.settings,
        seeds=[derive_seed(seed, name, "delta") for name in names],
        batch_size=batch_size,
        optimizer=how.optimizer,
        scheduler=how.scheduler,
    )
    pairs = zip(activation.changes(), activation.failures, strict=True)
    return [ReleaseError(str(why)) if change is None else change.cpu() for change, why in pairs]


def release(
    picture: OpenedPicture, change: Tensor | ReleaseError, job: Job, out: Path, settings: ReleaseSettings
) -> tuple[dict[str, Any], Tensor]:
    """Cut a change to the budget, write the picture, measure what was written.

    Returns:
        The picture's record, and its pixels as the file holds them, H×W×3 uint8.

    Raises:
        ReleaseError: this picture cannot be released so.
        OutputError: nothing can be written.
    """
    if isinstance(change, ReleaseError):
        raise change
    if settings.min_psnr is None:
        scale = 1.0
    else:
        found = largest_scale(
            lambda s: _psnr(_scaled(picture, change, s, settings), picture), settings.min_psnr
        )
        if found is None:
            raise ReleaseError(
                f"{settings.format} alone brings {job.name!r} below min_psnr {settings.min_psnr} dB: raise "
                "jpeg_quality, take format png, or lower min_psnr"
            )
        scale = found
    colours = changed_colours(picture, change, scale)
    content = _encoded(picture, colours, settings)
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


def released_distances(
    seen: Sequence[Tensor], targets: Tensor, extractor: FastExtractor, batch_size: int
) -> list[float]:
    """Squared distance of each picture's descriptor to the nearest of its targets.

    Args:
        seen: B pictures H×W×3 uint8.
        targets: B×r×d.
        extractor: prepared.
        batch_size: rows of the extractor's batch.
    """
    size = extractor.input_size
    rows = torch.zeros(batch_size, 3, size, size)
    for row, pixels in enumerate(seen):
        rows[row] = prepare(Image.fromarray(pixels.numpy()), size)
    with torch.no_grad():
        descriptors = extractor(rows.to(extractor.device))[: len(seen)].cpu()
    return nearest_distances(descriptors, targets.cpu())


def _encoded(picture: OpenedPicture, colours: Tensor, settings: ReleaseSettings) -> bytes:
    return encode(
        picture,
        colours,
        settings.format,
        jpeg_quality=settings.jpeg_quality,
        compress_level=settings.compress_level,
    )


def _scaled(picture: OpenedPicture, change: Tensor, scale: float, settings: ReleaseSettings) -> Tensor:
    """The pixels of the file that a share of the change would give."""
    colours = changed_colours(picture, change, scale)
    if settings.format == "jpeg":
        return decode(_encoded(picture, colours, settings))
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
    mean: float = total / windows
    return mean


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
            raise ReleaseError(f"{error}") from error
        raise
