"""What a batch's activation leaves behind: released pixels, their measures, and statistics per iteration."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aindex.activation.perceptual import linf_grey_levels, psnr_db, unit_range
from aindex.data.source_image import SourceImage


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
        feature_loss: distance to the goal.
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
class Failed:
    """One image that must not be released: its number in the list of images, its name, and why, for people."""

    position: int
    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Statistics per iteration, iterations×B each, on the CPU; image measures where they were asked for."""

    loss: Tensor
    feature_loss: Tensor
    image_loss: Tensor
    psnr_db: Tensor | None = None
    linf_grey_levels: Tensor | None = None

    @classmethod
    def of(cls, losses: Sequence[Tensor], measures: Sequence[Tensor]) -> "Curves | None":
        """From what the loop noted at each iteration: 3×B each, and 2×B or nothing; None without iterations."""
        if not losses:
            return None
        values = torch.cat(
            [torch.stack(list(losses)), *([torch.stack(list(measures))] if measures else [])], dim=1
        )
        return cls(**dict(zip(cls.__dataclass_fields__, values.cpu().unbind(1), strict=False)))

    def only(self, images: Sequence[int]) -> "Curves | None":
        """Those of some images of the batch, by their numbers; None for none of them."""
        if not images:
            return None
        columns = {name: values[:, images] for name, values in vars(self).items() if values is not None}
        return Curves(**columns)

    @property
    def images(self) -> int:
        """Of how many images."""
        return self.loss.shape[1]

    def means(self) -> dict[str, list[float]]:
        """Per statistic the mean over the batch at each iteration."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value.mean(dim=1).tolist() for name, value in values.items() if value is not None}


@torch.no_grad()
def failures(deltas: list[Tensor], losses: Sequence[Tensor]) -> list[str | None]:
    """Per image None, or what of δ and its losses, 3×B an iteration, is not finite.

    Rounded to 8 bits it would be some picture all the same.
    """
    parts = {"δ": torch.stack(torch._foreach_norm(deltas, 2)).isfinite()}
    if losses:
        parts["loss"] = torch.stack(list(losses)).isfinite().all(0).all(0)
    columns = torch.stack(list(parts.values()), dim=1).cpu().tolist()  # in one transfer
    names = [[name for name, finite in zip(parts, column, strict=True) if not finite] for column in columns]
    return [
        f"activation failed: {' and '.join(some)} became infinite or no number; lower the learning rate, compute in "
        "fp32, or take another extractor"
        if some
        else None
        for some in names
    ]


def measured(originals: Sequence[Tensor], released: Sequence[Tensor]) -> Tensor:
    """PSNR (dB) and L∞ (grey levels) of released images: 2×B, no synchronisation.

    Args:
        originals: 3×H×W each.
        released: H×W×3 each.
    """
    originals = [image.permute(1, 2, 0) for image in originals]
    if released[0].device.type == "cpu":
        pairs = list(zip(originals, released, strict=True))
        return torch.stack(
            [torch.stack([measure(*pair) for pair in pairs]) for measure in (psnr_db, linf_grey_levels)]
        )
    return measured_at_once(originals, released)


def measured_at_once(originals: Sequence[Tensor], released: Sequence[Tensor]) -> Tensor:
    """The same of H×W×3 each, in a few kernels for all."""
    if len({image.dtype for image in originals}) > 1:
        originals = [unit_range(image) for image in originals]
    before, after = (torch.cat([image.reshape(-1) for image in some]) for some in (originals, released))
    counts = [image.numel() for image in released]
    differences = torch.split(unit_range(before) - unit_range(after), counts)
    deviations = torch._foreach_mul(torch._foreach_norm(differences), [count**-0.5 for count in counts])
    largest = torch._foreach_norm(differences, math.inf)
    return torch.stack([-20 * torch.log10(torch.stack(deviations)), 255 * torch.stack(largest)])


def to_cpu(images: Sequence[Tensor]) -> list[Tensor]:
    """Images of any shapes, in one transfer."""
    if not images or images[0].device.type == "cpu":
        return list(images)
    flat = torch.cat([image.reshape(-1) for image in images]).cpu()
    parts = torch.split(flat, [image.numel() for image in images])
    return [part.view(image.shape) for part, image in zip(parts, images, strict=True)]
