"""Sampling and blurring whose gradients a GPU adds in one order, so that two runs give the same pixels.

Torch's own kernels add them in no fixed order (the list stands at `torch.use_deterministic_algorithms`); matrix
products have one, and whole numbers need none.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_PLACES = 40
"""Binary places of a gradient that is added as a whole number."""

_LEAST = 1e-24
"""What counts as a picture's largest gradient where all are smaller."""


def grid_sample(pictures: Tensor, grid: Tensor) -> Tensor:
    """As `torch.nn.functional.grid_sample`: bilinear, zeros beyond the picture, `align_corners=False`.

    Args:
        pictures: B×C×H×W.
        grid: B×h×w×2, x and y from −1 to 1; gets no gradient.

    Returns:
        B×C×h×w.
    """
    sampled: Tensor = _Sampled.apply(pictures, grid)
    return sampled


class _Sampled(torch.autograd.Function):
    """Whose gradient is added as whole numbers: their sum is the same in any order."""

    @staticmethod
    def forward(ctx: Any, pictures: Tensor, grid: Tensor) -> Tensor:
        """B×C×H×W → B×C×h×w."""
        ctx.save_for_backward(grid)
        ctx.shape = pictures.shape
        return F.grid_sample(pictures, grid, padding_mode="zeros", align_corners=False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """B×C×h×w → B×C×H×W."""
        (grid,) = ctx.saved_tensors
        count, channels, height, width = ctx.shape
        # a picture's largest gets forty binary places: a sum of 2²² of them does not overflow
        unit = gradient.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=_LEAST) / 2**_PLACES
        scaled = (gradient / unit).permute(0, 2, 3, 1).contiguous()  # B×h×w×C
        x, y = (((grid[..., i] + 1) * length - 1) / 2 for i, length in enumerate((width, height)))
        left, top = x.floor(), y.floor()
        first = torch.arange(count, device=grid.device)[:, None, None] * (height * width)
        sums = torch.zeros(count * height * width, channels, dtype=torch.int64, device=grid.device)
        for column, across in ((left, 1 - (x - left)), (left + 1, x - left)):
            for row, down in ((top, 1 - (y - top)), (top + 1, y - top)):
                inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
                share = (across * down * inside)[..., None]
                place = first + row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
                sums.index_add_(0, place.flatten(), (scaled * share).long().view(-1, channels))
        # no number stays none: so does the unit
        return sums.view(count, height, width, channels).permute(0, 3, 1, 2) * unit, None


def gaussian_blur(pictures: Tensor, radii: Tensor, deviations: Tensor) -> Tensor:
    """As torchvision's of each picture, mirrored at the borders.

    Args:
        pictures: B×C×H×W.
        radii: B; half the windows, less than H and W.
        deviations: B standard deviations in pixels.
    """
    # as products: a convolution of cuDNN would round to ten bits (TF32)
    down, across = (_weighting(length, radii, deviations)[:, None] for length in pictures.shape[2:])
    return down @ pictures @ across.mT


def _weighting(length: int, radii: Tensor, deviations: Tensor) -> Tensor:
    """The matrices B×length×length that weigh neighbours; one beyond an end counts for its mirror image."""
    place = torch.arange(length, dtype=deviations.dtype, device=deviations.device)
    here, there = place[:, None], place

    def weight(distance: Tensor) -> Tensor:
        close = distance.abs() <= radii[:, None, None]
        return torch.exp(-0.5 * (distance / deviations[:, None, None]).square()) * close

    before, after = here + there, 2 * (length - 1) - here - there
    weights = weight(here - there) + weight(before) * (there > 0) + weight(after) * (there < length - 1)
    return weights / weights.sum(dim=2, keepdim=True)
