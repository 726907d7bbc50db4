"""Images of several sizes as one matrix, so that a GPU treats all of them with a few kernels."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aindex.descriptors.resizing import FlatResize, PlaneResize

_LENGTH = 1024


class Flat:
    """Where B images lie in a matrix M×L: each begins a row, and zeros fill up its last.

    Images of one size are a row each where nothing follows them.

    Args:
        shapes: C×H×W of each image.
        device: theirs.
        spare: elements behind the last image.

    Attributes:
        begins: which element of the matrix is an image's first, B.
        counts: elements of each image, B float32.
    """

    def __init__(self, shapes: Sequence[Sequence[int]], device: torch.device, *, spare: int = 0) -> None:
        self._shapes, self._device = [tuple(shape) for shape in shapes], device
        self._counts = [math.prod(shape) for shape in shapes]
        self._is_even = len(shapes) == 1 or (not spare and len(set(self._counts)) == 1)
        self._length = self._counts[0] if self._is_even else _LENGTH
        rows = [-(-count // self._length) for count in self._counts]
        spare = 0 if self._is_even else -(-spare // self._length)
        self._fills = [n * self._length - count for n, count in zip(rows, self._counts, strict=True)]
        self._fills[-1] += spare * self._length
        # to which image each row belongs, and its number there
        owners = np.repeat(np.arange(len(rows)), rows)
        firsts = np.cumsum([0, *rows])
        table = np.stack([owners, np.arange(len(owners)) - firsts[owners]])
        table = np.pad(table, ((0, 0), (0, spare)), mode="edge")
        self._owners, self._own = torch.from_numpy(table).to(device)
        self.begins = [int(first) * self._length for first in firsts[:-1]]
        self.counts = torch.from_numpy(np.asarray(self._counts, np.float32)).to(device)
        self._zeros = torch.zeros(max(self._fills), device=device)

    def join(self, images: Sequence[Tensor]) -> Tensor:
        """The matrix M×L of B images."""
        if len(images) == 1:
            return images[0].reshape(1, -1)
        pieces: list[Tensor] = []
        for image, fill in zip(images, self._fills, strict=True):
            pieces += [image.reshape(-1), *([self._zeros[:fill].to(image.dtype)] if fill else [])]
        return torch.cat(pieces).view(-1, self._length)

    def split(self, flat: Tensor) -> list[Tensor]:
        """The images of a matrix, C×H×W each, as views."""
        sizes = [size for pair in zip(self._counts, self._fills, strict=True) for size in pair]
        parts = torch.split(flat.view(-1), sizes)[::2]
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def scale_(self, flat: Tensor, factors: Sequence[Sequence[float]]) -> Tensor:
        """The matrix with the channels of each image multiplied in place, by B×C factors."""
        channels = [channel for image in self.split(flat) for channel in image]
        torch._foreach_mul_(channels, [factor for some in factors for factor in some])
        return flat

    def spread(self, values: Tensor) -> Tensor:
        """A value of each image for all of its rows: B → M×1."""
        return (values if self._is_even else values[self._owners])[:, None]

    def tile(self, tiles: Tensor) -> Tensor:
        """Each image's tile over and over: B×T → M×L, T a multiple of 1024."""
        if self._is_even:
            return tiles.repeat(1, -(-self._length // tiles.shape[1]))[:, : self._length].contiguous()
        each = tiles.shape[1] // self._length
        return tiles.view(-1, self._length)[self._owners * each + self._own % each]

    def mean_squares(self, flat: Tensor) -> Tensor:
        """Of each image's elements, B; differentiable."""
        squares: Tensor = _MeanSquares.apply(flat, self)
        return squares

    def resize(self, size: int) -> FlatResize | PlaneResize:
        """What resizes the images of a matrix: M×L → B×C×size×size, differentiable."""
        if self._device.type == "cpu" and len(self._shapes) == 1:
            return PlaneResize(self._shapes[0], size)
        return FlatResize(self._shapes, self.begins, self._owners, self._length, size)


class _MeanSquares(torch.autograd.Function):
    """Whose gradient is made for all images at once; that of views would be for each."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, layout: Flat) -> Tensor:
        """M×L → B."""
        ctx.save_for_backward(flat)
        ctx.layout = layout
        if flat.device.type == "cpu" and len(flat) == 1:
            return F.mse_loss(flat, flat.new_zeros(()).expand_as(flat))[None]
        # one kernel, which sums each image by itself: its order does not depend on the others
        return torch.stack(torch._foreach_norm(layout.split(flat))).square() / layout.counts

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """B → M×L."""
        (flat,) = ctx.saved_tensors
        return flat * ctx.layout.spread(2 * gradient / ctx.layout.counts), None
