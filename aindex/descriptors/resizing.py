"""The extractor's resize with torch's weights, in a fraction of the time of its kernels.

Torch's antialiased bilinear resize has one small matrix per axis, with a handful of weights in each row. Whole
rows of a picture are weighted and summed as they lie in memory.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

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

    def filled(self, count: int) -> "_AxisWeights":
        """As many outputs as `count`: those added at the end have no sources."""
        missing = count - len(self.starts)
        return self._replace(starts=F.pad(self.starts, (0, missing), value=len(self.sources)))

    def mix(self, rows: Tensor) -> Tensor:
        """Weighted sums of whole rows, N×D → M×D."""
        mixed: Tensor = torch.embedding_bag(rows, self.sources, self.starts, False, 0, False, self.weights)[0]
        return mixed


@lru_cache(maxsize=512)
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


@lru_cache(maxsize=512)
def _backwards(length: int, size: int, planes: int = 1) -> _AxisWeights:
    """What the gradient of each source is made of: the same weights, one source after the other."""
    with torch.inference_mode(False):  # kept
        sources, weights, starts = _axis_weights(length, size, planes)
        counts = torch.diff(starts, append=starts.new_tensor([len(sources)]))
        outputs = torch.arange(len(starts), device="cpu").repeat_interleave(counts, output_size=len(sources))
        order = torch.argsort(sources, stable=True)
        begins = torch.searchsorted(sources[order], torch.arange(length * planes, device="cpu"))
        return _AxisWeights(outputs[order], weights[order], begins)


def _joined(
    axes: Sequence[_AxisWeights], firsts: Sequence[int], steps: Sequence[int], device: torch.device
) -> _AxisWeights:
    """The sums of several images, one image after the other; source s of image i is row firsts[i] + steps[i]·s."""
    counts = [len(axis.sources) for axis in axes]
    sums = [len(axis.starts) for axis in axes]

    def each(values: Sequence[int] | npt.NDArray[np.int64], repeats: list[int]) -> Tensor:
        return torch.from_numpy(np.repeat(np.asarray(values, np.int64), repeats))

    ends = np.cumsum([0, *counts[:-1]])
    sources = torch.cat([axis.sources for axis in axes]) * each(steps, counts) + each(firsts, counts)
    starts = torch.cat([axis.starts for axis in axes]) + each(ends, sums)
    weights = torch.cat([axis.weights for axis in axes])
    return _AxisWeights(sources.to(device), weights.to(device), starts.to(device))


class FlatResize:
    """PlaneResize for B images of several sizes, one after the other in a matrix, in a few kernels.

    Each value of the result and of the gradient is one sum that does not depend on the other images, on a GPU too,
    where PlaneResize must sort for that.

    Args:
        shapes: C×H×W of each image, with one C.
        begins: B; which element of the matrix is an image's first. W more elements follow the last image, for the
            largest W.
        owners: M; the image to which each row of the matrix belongs.
        length: L, elements of a row.
        size: side of the result.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...]],
        begins: Sequence[int],
        owners: Tensor,
        length: int,
        size: int,
    ) -> None:
        planes, device = shapes[0][0], owners.device
        self._size, self._planes, self._count = size, planes, len(shapes)
        self._width = width = max(shape[2] for shape in shapes)
        heights, widths = [shape[1] for shape in shapes], [shape[2] for shape in shapes]
        ones, numbers = [1] * len(shapes), range(len(shapes))
        # a row of pixels: as many elements as the widest has, of which what comes after its own is not used
        self._down = _joined([_axis_weights(n, size, planes) for n in heights], begins, widths, device)
        self._across = _joined(
            [_axis_weights(n, size) for n in widths], [width * i for i in numbers], ones, device
        )
        down = [_backwards(n, size, planes) for n in heights]
        across = [_backwards(n, size).filled(width) for n in widths]
        self._down_back = _joined(down, [planes * size * i for i in numbers], ones, device)
        self._across_back = _joined(across, [size * i for i in numbers], ones, device)
        # where the gradient of each element lies among rows of pixels that are all as wide
        table = torch.from_numpy(np.stack([begins, widths, planes * np.cumsum([0, *heights[:-1]])])).to(
            device
        )
        begin, own, line = table[:, owners, None].unbind()  # M×1 each
        place = torch.arange(len(owners) * length, device=device).view(-1, length) - begin
        place += line * width + place // own * (width - own)
        total = sum(heights) * planes * width
        places = place.clamp_(max=total - 1).view(-1)  # what fills a row lies anywhere
        self._places = places.int() if total < 2**31 else places

    def __call__(self, flat: Tensor) -> Tensor:
        """M×L → B×C×size×size, differentiable."""
        resized: Tensor = _Resize.apply(flat, self)
        return resized

    def forwards(self, flat: Tensor) -> Tensor:
        """M×L → B×C×size×size."""
        count, planes, size, width = self._count, self._planes, self._size, self._width
        lines = self._down.mix(flat.view(-1).unfold(0, width, 1)).view(count, planes, size, width)
        columns = lines.permute(0, 3, 1, 2).reshape(count * width, planes * size)
        return self._across.mix(columns).view(count, size, planes, size).permute(0, 2, 3, 1)

    def backwards(self, gradient: Tensor) -> Tensor:
        """The gradient of the images from that of the result."""
        count, planes, size, width = self._count, self._planes, self._size, self._width
        columns = gradient.permute(0, 3, 1, 2).reshape(count * size, planes * size)
        lines = self._across_back.mix(columns).view(count, width, planes, size)
        rows = self._down_back.mix(lines.permute(0, 2, 3, 1).reshape(count * planes * size, width))
        return rows.view(-1).index_select(0, self._places)


class _Resize(torch.autograd.Function):
    """Its gradient is gathered with the same weights, instead of being scattered into zeros."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, resize: "FlatResize | PlaneResize") -> Tensor:
        ctx.resize, ctx.shape = resize, values.shape
        return resize.forwards(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.resize.backwards(gradient).view(ctx.shape), None


class PlaneResize:
    """C×H×W → 1×C×size×size as ``preprocess.resize`` does but for the last bits, differentiable, in half its time.

    Args:
        shape: C, H, W.
        size: side of the result.
    """

    def __init__(self, shape: Sequence[int], size: int) -> None:
        self._shape, self._size = shape, size
        count, height, width = shape
        self._down, self._down_back = _axis_weights(height, size, count), _backwards(height, size, count)
        self._across, self._across_back = _axis_weights(width, size), _backwards(width, size)

    def __call__(self, planes: Tensor) -> Tensor:
        """The resized planes."""
        resized: Tensor = _Resize.apply(planes, self)
        return resized

    def forwards(self, planes: Tensor) -> Tensor:
        """C·H·W values of any shape → 1×C×size×size."""
        rows = self._down.mix(planes.reshape(-1, self._shape[2]))  # C·size×W
        columns = self._across.mix(_turned(rows))  # size×C·size
        return columns.view(self._size, -1, self._size).permute(1, 2, 0)[None]

    def backwards(self, gradient: Tensor) -> Tensor:
        """The gradient of the planes from that of the result."""
        columns = gradient[0].permute(2, 0, 1).reshape(self._size, -1).contiguous()  # size×C·size
        rows = _turned(self._across_back.mix(columns))  # C·size×W
        return self._down_back.mix(rows)


def _turned(rows: Tensor) -> Tensor:
    """Transposed in memory; numpy takes two thirds of torch's time for it."""
    return torch.from_numpy(np.ascontiguousarray(rows.numpy().T))


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
