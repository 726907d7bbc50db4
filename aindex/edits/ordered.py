"""Sampling and blurring whose gradients a GPU adds in one order, so that two runs give the same pixels.

Torch's own kernels add them as they come (the list stands at `torch.use_deterministic_algorithms`); those of indexing
and of matrix products are ordered.
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


def gaussian_blur(picture: Tensor, radius: int, deviation: float) -> Tensor:
    """As torchvision's, mirrored at the borders.

    Args:
        picture: C×H×W.
        radius: half the window, less than H and W.
        deviation: standard deviation in pixels.
    """
    height, width = picture.shape[1:]
    place = torch.arange(-radius, radius + 1, dtype=picture.dtype, device=picture.device)
    weights = torch.softmax(-0.5 * (place / deviation).square(), dim=0)
    # as products: a convolution of cuDNN would round to ten bits (TF32)
    return _weighting(height, weights) @ picture @ _weighting(width, weights).T


def _weighting(length: int, weights: Tensor) -> Tensor:
    """The matrix length×length that weighs neighbours, mirrored at both ends."""
    radius = len(weights) // 2
    itself = torch.eye(length, dtype=weights.dtype, device=weights.device)
    before, after = itself[1 : radius + 1].flip(0), itself[length - 1 - radius : length - 1].flip(0)
    return torch.cat([before, itself, after]).unfold(0, len(weights), 1) @ weights
