"""Sampling and blurring whose gradients a GPU adds in one order, so that two runs give the same pixels.

Torch's own kernels add them in no fixed order (the list stands at `torch.use_deterministic_algorithms`); those of
indexing and of matrix products are ordered.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def grid_sample(pictures: Tensor, grid: Tensor) -> Tensor:
    """As `torch.nn.functional.grid_sample`: bilinear, zeros beyond the picture, `align_corners=False`.

    Args:
        pictures: B×C×H×W.
        grid: B×h×w×2, x and y from −1 to 1.

    Returns:
        B×C×h×w.
    """
    count, _, height, width = pictures.shape
    # one pixel of zeros around, to which all that lies beyond is moved; places count from there
    padded = F.pad(pictures, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    x = (((grid[..., 0] + 1) * width + 1) / 2).clamp(0, width + 1)  # B×h×w
    y = (((grid[..., 1] + 1) * height + 1) / 2).clamp(0, height + 1)
    left, top = x.floor().clamp(max=width), y.floor().clamp(max=height)
    right_share, lower_share = x - left, y - top
    column, row = left.long(), top.long()
    which = torch.arange(count, device=pictures.device)[:, None, None]

    def corner(down: int, across: int) -> Tensor:
        weight = (lower_share if down else 1 - lower_share) * (right_share if across else 1 - right_share)
        return padded[which, row + down, column + across] * weight[..., None]

    sampled = corner(0, 0) + corner(0, 1) + corner(1, 0) + corner(1, 1)  # B×h×w×C
    return sampled.permute(0, 3, 1, 2)


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
