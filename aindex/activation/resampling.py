"""The extractor's resize as small matrices, one per axis, so that it can be applied, and transposed, by hand.

An antialiased bilinear resize has a handful of neighbouring weights in each row of these. Torch's own kernels for it,
backward above all, cost about as much as a small extractor.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor


def resize_matrix(length: int, size: int) -> Tensor:
    """Weights of an antialiased bilinear resize along one axis, as `interpolate(antialias=True)` uses them.

    Output i averages the inputs around its centre with a triangle whose half width is one output pixel when
    shrinking and one input pixel when growing.

    Args:
        length: pixels of the axis before.
        size: pixels after.

    Returns:
        size×length float32, rows summing to 1.
    """
    scale = length / size
    half_width = max(scale, 1.0)
    centre = (torch.arange(size, dtype=torch.float64) + 0.5).unsqueeze(1) * scale
    reach = torch.arange(2 * math.ceil(half_width) + 1)
    source = (centre - half_width).floor().long() + reach  # size×few, the others weigh nothing
    weights = 1 - (source + 0.5 - centre).abs() / half_width
    weights = weights.clamp(min=0) * ((source >= 0) & (source < length))
    weights = (weights / weights.sum(dim=1, keepdim=True)).float()
    return torch.zeros(size, length).scatter_add_(1, source.clamp(0, length - 1), weights)


class Taps(NamedTuple):
    """A matrix M×N whose rows have few, neighbouring weights.

    Attributes:
        first: column of each row's first weight, M; T columns from there on exist in every row.
        counts: how many columns from there on reach to the last weight, M; T at most.
        weights: M×T, zeros after the last weight.
    """

    first: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]


def taps_of(matrix: Tensor) -> Taps:
    """The weights of a non-negative matrix, none of whose rows is empty."""
    values = matrix.numpy()
    present = values > 0
    first = present.argmax(axis=1)
    end = values.shape[1] - present[:, ::-1].argmax(axis=1)
    width = int((end - first).max())
    first = np.minimum(first, values.shape[1] - width)
    columns = first[:, None] + np.arange(width)
    weights = np.ascontiguousarray(np.take_along_axis(values, columns, axis=1))
    return Taps(first.astype(np.int32), (end - first).astype(np.int32), weights)


@lru_cache(maxsize=1024)
def axis_taps(length: int, size: int) -> tuple[Taps, Taps]:
    """The resize of one axis and its transpose; kept, since photographs share a few sizes."""
    matrix = resize_matrix(length, size)
    return taps_of(matrix), taps_of(matrix.T)


@lru_cache(maxsize=64)
def axis_matrix(length: int, size: int, device: torch.device) -> Tensor:
    """The resize of one axis on a device, size×length; kept, but few: they are megabytes each."""
    return resize_matrix(length, size).to(device)


class Resampler:
    """Resize of one image's rows H×3×W → R×3×R and its transpose, as matrix products: few kernels, for a GPU.

    Args:
        height: H.
        width: W.
        size: R.
        device: of the planes.
    """

    def __init__(self, height: int, width: int, size: int, *, device: torch.device | str = "cpu") -> None:
        device = torch.device(device)
        self._height, self._width, self._size = height, width, size
        self._down = axis_matrix(height, size, device)
        self._across = axis_matrix(width, size, device)

    def add_resized(self, planes: Tensor, base: Tensor, out: Tensor) -> None:
        """Write base + resized planes to `out`, R×3×R both; planes H×3×W."""
        rows = self._down @ planes.view(self._height, -1)  # R×3W
        torch.addmm(
            base.view(-1, self._size),
            rows.view(-1, self._width),
            self._across.T,
            out=out.view(-1, self._size),
        )

    def add_transposed(self, gradient: Tensor, addend: Tensor, weight: float, out: Tensor) -> None:
        """Carry a gradient R×3×R back to the full size, and write it + weight · addend to `out`, H×3×W."""
        rows = gradient.view(-1, self._size) @ self._across  # 3R×W
        torch.addmm(
            addend.view(self._height, -1),
            self._down.T,
            rows.view(self._size, -1),
            beta=weight,
            out=out.view(self._height, -1),
        )


def enlarge(values: Tensor, height: int, width: int) -> Tensor:
    """C×R×R → C×H×W, bilinear, antialiased where an axis shrinks."""
    resized = F.interpolate(values.unsqueeze(0), size=(height, width), mode="bilinear", antialias=True)
    return resized.squeeze(0)
