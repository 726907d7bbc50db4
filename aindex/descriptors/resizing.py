"""The extractor's resize with torch's weights, in a fraction of the time of its kernels.

Torch's antialiased bilinear resize has one small matrix per axis, with a handful of weights in each row. Whole
rows of a picture are weighted and summed as they lie in memory.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

_BAND_VALUES = 1 << 20
"""Floats of the picture treated at a time: a large picture takes four megabytes more, not four times its own."""


class _AxisWeights(NamedTuple):
    """Sources and weights of all outputs of an axis, one output after the other; output i begins at starts[i]."""

    sources: Tensor
    weights: Tensor
    starts: Tensor

    def part(self, begin: int, end: int) -> tuple[int, int, "_AxisWeights"]:
        """Outputs begin to end: the first source they need, the one after the last, and their weights."""
        total = len(self.sources)
        first = int(self.starts[begin])
        last = int(self.starts[end]) if end < len(self.starts) else total
        sources = self.sources[first:last]
        low, high = int(sources.min()), int(sources.max()) + 1
        return (
            low,
            high,
            _AxisWeights(sources - low, self.weights[first:last], self.starts[begin:end] - first),
        )

    def mix(self, rows: Tensor) -> Tensor:
        """Weighted sums of whole rows, N×D → M×D."""
        return F.embedding_bag(self.sources, rows, self.starts, mode="sum", per_sample_weights=self.weights)


@lru_cache(maxsize=256)
def _axis_weights(length: int, size: int, planes: int = 1, device: str = "cpu") -> _AxisWeights:
    """As `interpolate(mode="bilinear", antialias=True)` has them, in its float32 arithmetic, for planes in a row."""
    scale = np.float32(length) / np.float32(size)
    reach = max(scale, np.float32(1))  # half width of the triangle, in inputs
    centre = scale * (np.arange(size, dtype=np.float32) + np.float32(0.5))
    taps = 2 * int(np.ceil(reach)) + 1
    first = (centre - reach + np.float32(0.5)).astype(np.int64)
    position = first[:, None] + np.arange(taps)
    distance = np.abs((position.astype(np.float32) - centre[:, None] + np.float32(0.5)) / reach)
    weights = np.where((position >= 0) & (position < length), np.clip(1 - distance, 0, None), np.float32(0))
    weights /= weights.sum(axis=1, keepdims=True)
    used = weights > 0
    starts = np.append(0, used.sum(axis=1).cumsum()[:-1])
    count, plane = int(used.sum()), np.arange(planes)[:, None]
    with torch.inference_mode(False):  # kept, and gradients flow through what they weigh
        return _AxisWeights(
            torch.from_numpy((position[used] + plane * length).ravel()).to(device),
            torch.from_numpy(np.tile(weights[used], planes)).to(device),
            torch.from_numpy((starts + plane * count).ravel()).to(device),
        )


class PlaneResize:
    """C×H×W → C×size×size as ``preprocess.resize`` would but for the last bits, differentiable: half its time.

    Args:
        shape: C, H, W.
        size: side of the result.
        device: of the planes.
    """

    def __init__(self, shape: Sequence[int], size: int, device: torch.device | str = "cpu") -> None:
        self._count, height, self._width = shape
        self._size = size
        self._down = _axis_weights(height, size, self._count, str(device))
        self._across = _axis_weights(self._width, size, 1, str(device))

    def __call__(self, planes: Tensor) -> Tensor:
        """The planes resized."""
        rows = self._down.mix(planes.reshape(-1, self._width))  # C·size×W
        columns = self._across.mix(rows.T.contiguous())  # size×C·size
        return columns.view(self._size, self._count, self._size).permute(1, 2, 0)


@torch.no_grad()
def resize_picture(pixels: npt.NDArray[np.uint8], size: int) -> Tensor:
    """H×W×3 of 8 bits → 3×size×size float32, 0 to 255, as ``preprocess.resize`` would but for the last bits.

    Band by band, so that the picture in floats never exists as a whole.
    """
    height, width, _ = pixels.shape
    down, across = _axis_weights(height, size), _axis_weights(width, size)
    band = max(1, int(_BAND_VALUES * size / (3 * width * height)))
    lines = torch.empty(size, width, 3)
    for begin in range(0, size, band):
        end = min(size, begin + band)
        low, high, part = down.part(begin, end)
        rows = torch.from_numpy(pixels[low:high].reshape(high - low, -1).astype(np.float32))
        lines[begin:end] = part.mix(rows).view(end - begin, width, 3)
    columns = lines.permute(1, 2, 0).reshape(width, -1)  # W×3R
    return across.mix(columns).view(size, 3, size).permute(1, 2, 0).contiguous()  # from W'×3×H'
