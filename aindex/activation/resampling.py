"""The extractor's resize as two small matrices, so that it and its gradient are matrix products."""

import torch
from torch import Tensor


def resize_matrix(length: int, size: int, device: torch.device | str = "cpu") -> Tensor:
    """Weights of an antialiased bilinear resize along one axis, as `interpolate(antialias=True)` uses them.

    Output i averages the inputs around its centre with a triangle whose half width is one output pixel when
    shrinking and one input pixel when growing.

    Args:
        length: pixels of the axis before.
        size: pixels after.
        device: where the matrix is wanted.

    Returns:
        size×length float32, rows summing to 1.
    """
    scale = length / size
    centre = (torch.arange(size, dtype=torch.float64) + 0.5) * scale
    position = torch.arange(length, dtype=torch.float64) + 0.5
    weights = 1 - (position - centre.unsqueeze(1)).abs() / max(scale, 1.0)
    weights = weights.clamp(min=0)
    return (weights / weights.sum(dim=1, keepdim=True)).to(device, torch.float32)


class Resampler:
    """Antialiased bilinear resize of H×W planes to R×R, and its transpose."""

    def __init__(
        self,
        height: int,
        width: int,
        size: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._rows = resize_matrix(height, size, device).to(dtype)  # R×H
        self._columns = resize_matrix(width, size, device).to(dtype)  # R×W

    def forward(self, planes: Tensor) -> Tensor:
        """C×H×W → C×R×R."""
        return torch.matmul(torch.matmul(self._rows, planes), self._columns.T)

    def transpose(self, planes: Tensor) -> Tensor:
        """C×R×R → C×H×W: carries a gradient back through forward()."""
        return torch.matmul(self._rows.T, torch.matmul(planes, self._columns))
