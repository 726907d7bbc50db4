"""What canvases of one image show, each on a thread of its own: on a CPU."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from aindex.activation.canvas import Canvas, Seen, tanh
from aindex.parallel import side_by_side

Result = TypeVar("Result")

_IN_CACHE = 1 << 20
"""Elements of an image that a thread treats by itself; larger ones have all threads, one after the other."""


class _Plain:
    """What the loop sees of the change of a plain canvas.

    Derived by hand: autograd takes an image through memory more often, and at each of its operators a thread waits for
    Python's lock.
    """

    def __init__(self, canvas: Canvas, delta: Tensor) -> None:
        assert canvas.to_input is not None, "a change at its image's own size"
        self._gain, self._resize, self._shape = canvas.gain, canvas.to_input, delta.shape
        self._bounded = tanh(delta.reshape(1, -1))
        change = self._gain * self._bounded
        norm = torch.linalg.vector_norm(change, dim=1, dtype=torch.float64)
        inputs = canvas.on_base(self._resize.forwards(change))
        self.parts = [inputs, norm.square_().div_(delta.numel()).float()]

    def gradient(self, inputs: Tensor, mean_squares: Tensor) -> Tensor:
        """Of δ, from those of the parts."""
        gain, bounded = self._gain, self._bounded
        gradient = self._resize.backwards(inputs.float()).view_as(bounded)
        gradient.addcmul_(gain, bounded, value=2 * mean_squares.item() / bounded.numel()).mul_(gain)
        torch.ops.aten.tanh_backward.grad_input(gradient, bounded, grad_input=gradient)
        return gradient.view(self._shape)


class _Traced:
    """What the loop sees of any other change; autograd derives it."""

    @torch.enable_grad()
    def __init__(self, canvas: Canvas, delta: Tensor) -> None:
        self._delta = delta.detach().requires_grad_()
        self.parts = [part for part in canvas.seen([self._delta]) if part is not None]

    def gradient(self, *gradients: Tensor) -> Tensor:
        """Of δ, from those of the parts."""
        gradient: Tensor = torch.autograd.grad(self.parts, self._delta, gradients)[0]
        return gradient


class _Apart(torch.autograd.Function):
    """What several canvases of one image show; found and derived on threads."""

    @staticmethod
    def forward(ctx: Any, canvases: Sequence[Canvas], *deltas: Tensor) -> Any:
        def treat(number: int) -> _Plain | _Traced:
            canvas, delta = canvases[number], deltas[number].detach()
            return _Plain(canvas, delta) if canvas.is_plain else _Traced(canvas, delta)

        ctx.sizes = [delta.numel() for delta in deltas]
        ctx.treated = _on_threads(treat, ctx.sizes)
        return tuple(part.detach() for one in ctx.treated for part in one.parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        each = len(gradients) // len(ctx.treated)

        def back(number: int) -> Tensor:
            gradient: Tensor = ctx.treated[number].gradient(*gradients[each * number : each * (number + 1)])
            return gradient

        return None, *_on_threads(back, ctx.sizes)


def _on_threads(function: Callable[[int], Result], sizes: Sequence[int]) -> list[Result]:
    """What a function gives for each image by its number: a thread each up to a size, all threads for a larger one."""
    order = np.argsort(sizes)[::-1].tolist()  # the last ones are small: a thread that is done waits little
    small = [number for number in order if sizes[number] <= _IN_CACHE]
    done = dict(zip(small, side_by_side(function, small), strict=True))
    return [done[number] if number in done else function(number) for number in range(len(sizes))]


def apart(canvases: Sequence[Canvas], deltas: Sequence[Tensor]) -> list[Seen]:
    """What canvases of one image show, and their gradients: a thread each up to a size, all threads for a larger one.

    Autograd has one thread for all; here an image goes through the processor's cache once forwards and once back.
    """
    parts = _Apart.apply(canvases, *deltas)
    each = len(parts) // len(canvases)
    return [Seen(*parts[i : i + each], *[None] * (3 - each)) for i in range(0, len(parts), each)]
