"""What a batch's activation leaves behind: released pixels, their measures, and statistics per iteration."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aindex.activation.perceptual import linf_grey_levels, psnr_db
from aindex.data.released import SourceImage


@dataclass(frozen=True, kw_only=True)
class Released:
    """One image after activation.

    Attributes:
        image: which one.
        position: its number in the list of images.
        original: H×W×3 uint8, on the CPU.
        pixels: H×W×3 uint8, on the CPU.
        psnr_db: of the released pixels against the original's, infinite where nothing changed.
        linf_grey_levels: largest change of a channel value.
        loss: at the last iteration, before its step; so are the next two. NaN without iterations.
        feature_loss: distance to the target.
        image_loss: mean squared change, normalised space.
        seconds: its share of its batch's time.
    """

    image: SourceImage
    position: int
    original: Tensor
    pixels: Tensor
    psnr_db: float
    linf_grey_levels: float
    loss: float
    feature_loss: float
    image_loss: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Statistics per iteration, iterations×B each, on the CPU; image measures only where they were asked for."""

    loss: Tensor
    feature_loss: Tensor
    image_loss: Tensor
    psnr_db: Tensor | None = None
    linf_grey_levels: Tensor | None = None

    def means(self) -> dict[str, list[float]]:
        """Per statistic the mean over the batch at each iteration; the image loss where all of it is known."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        known = {name: value.mean(dim=1) for name, value in values.items() if value is not None}
        return {name: mean.tolist() for name, mean in known.items() if not mean.isnan().any()}


def measured(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """PSNR (dB) and L∞ (grey levels) of pairs of images (original, released): 2×B, no synchronisation."""
    return torch.stack(
        [
            torch.stack([psnr_db(before, after) for before, after in pairs]),
            torch.stack([linf_grey_levels(before, after) for before, after in pairs]),
        ]
    )


def to_cpu(images: Sequence[Tensor]) -> list[Tensor]:
    """Images of any shapes, in one transfer."""
    if not images or images[0].device.type == "cpu":
        return list(images)
    flat = torch.cat([image.reshape(-1) for image in images]).cpu()
    parts = torch.split(flat, [image.numel() for image in images])
    return [part.view(image.shape) for part, image in zip(parts, images, strict=True)]
