"""The pixel side of the loop: from δ to the extractor's input, and the gradient back; a form per kind of device."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.optim import Optimizer

from aindex.activation import kernels
from aindex.activation.distortion import ActivationSettings, channel_scale
from aindex.activation.objective import image_loss
from aindex.activation.optimizer import OptimizerFactory, SweepingAdam, is_plain_adam, make_optimizer
from aindex.activation.resampling import Resampler, axis_taps
from aindex.parallel import side_by_side

_ALIGNMENT = 64
"""Elements at whose multiples an image's part of a flat buffer starts: whole cache lines and vectors."""

_BAND_PIXELS = 1 << 14
"""Pixels of a picture treated by one thread at a time. Part of what decides the last bits."""

_NO_STEP = kernels.AdamStep(*np.zeros(5, np.float32))


class Pixels(ABC):
    """δ of a batch of images, what it does to the extractor's input, and its gradient.

    What is rounded differently in vectors and at their ends is done per image, so the numbers of an image do not
    depend on the others.

    Args:
        heats: heatmaps of the B images at the sizes of δ, H×W each.
        base: the resized images, batch size×R×R×3; B rows and what fills the batch up.
        settings: the loop's constants.

    Attributes:
        delta: δ of all images as one flat leaf tensor; each image starts at a multiple of 64 elements.
        parameters: views of it, H×3×W each, leaf tensors for an optimiser.
    """

    def __init__(self, heats: Sequence[Tensor], base: Tensor, settings: ActivationSettings) -> None:
        self.settings = settings
        self._shapes = [(heat.shape[0], 3, heat.shape[1]) for heat in heats]
        self._starts = [0]
        for shape in self._shapes:
            self._starts.append(self._starts[-1] + -(-torch.Size(shape).numel() // _ALIGNMENT) * _ALIGNMENT)
        self._device = base.device
        self._delta = self._buffer()
        self.delta = self._delta.detach().requires_grad_()
        self.parameters = [part.detach().requires_grad_() for part in self._parts(self._delta)]
        self._grad: Tensor | None = None

    def _buffer(self) -> Tensor:
        return torch.zeros(self._starts[-1], device=self._device)

    def _parts(self, buffer: Tensor) -> list[Tensor]:
        """Views of a flat buffer, H×3×W."""
        return [
            buffer[start : start + torch.Size(shape).numel()].view(shape)
            for start, shape in zip(self._starts, self._shapes, strict=False)
        ]

    def _penalty(self, shape: tuple[int, ...]) -> float:
        """Derivative of the image loss's term with respect to a change of 1."""
        return self.settings.lambda_i * 2 / torch.Size(shape).numel()

    @abstractmethod
    def forward(self) -> Tensor:
        """The extractor's input at the present δ, batch size×3×R×R float32; valid until the next step."""

    @abstractmethod
    def backward(self, pull: Tensor) -> None:
        """Set the gradients of δ, unless the optimiser steps without them.

        Args:
            pull: gradient of the feature losses with respect to the input, batch size×3×R×R.
        """

    @abstractmethod
    def image_losses(self) -> Tensor:
        """Mean squared change of each image at the δ of the last `forward`, B."""

    def optimizer(self, factory: OptimizerFactory) -> Optimizer:
        """The optimiser that `factory` names, in the form that suits this device."""
        return make_optimizer(factory, self.parameters, self.delta)

    def _attach(self, grad: Tensor) -> None:
        # an optimiser's zero_grad() detaches them
        self.delta.grad = grad
        for parameter, part in zip(self.parameters, self._parts(grad), strict=True):
            parameter.grad = part


class _Layout(NamedTuple):
    """How a picture of one size is resized, band by band.

    Attributes:
        plan: of the resize.
        bands: first row, the one after the last, and the number of the first kept edge, of each band.
        joins: what `kernels.join_edges` needs to know.
        edges: how many there are.
    """

    plan: kernels.Plan
    bands: list[tuple[int, int, int]]
    joins: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32]]
    edges: int


@lru_cache(maxsize=1024)
def _layout(height: int, width: int, size: int) -> _Layout:
    rows_out, rows_in = axis_taps(height, size)
    columns_out, columns_in = axis_taps(width, size)
    last = rows_out.first + rows_out.counts
    plan = kernels.Plan(
        rows=rows_in,
        first_row=rows_out.first,
        last_row=last.astype(np.int32),
        columns_in=columns_in,
        columns_out=columns_out,
        depth=rows_in.weights.shape[1],
    )
    # bands of several times as many rows as one row of the input covers share few rows with each other
    rows = max(-(-_BAND_PIXELS // width), 4 * int((last - rows_out.first).max()))
    limits = np.linspace(0, height, max(1, height // rows) + 1).astype(int)
    bands: list[tuple[int, int, int]] = []
    shared: dict[int, list[int]] = {}
    edges = 0
    for begin, end in pairwise(limits):
        bands.append((int(begin), int(end), edges))
        touched = range(rows_in.first[begin], rows_in.first[end - 1] + rows_in.counts[end - 1])
        for i in touched:
            if rows_out.first[i] < begin or last[i] > end:
                shared.setdefault(i, []).append(edges)
                edges += 1
    counts = [len(numbers) for numbers in shared.values()]
    joins = (
        np.array(list(shared), np.int32),
        np.append(0, np.cumsum(counts)).astype(np.int32),
        np.array([number for numbers in shared.values() for number in numbers], np.int32),
    )
    return _Layout(plan, bands, joins, edges)


class CpuPixels(Pixels):
    """One pass over a picture per iteration, its bands on several threads; Adam's step is part of it."""

    def __init__(self, heats: Sequence[Tensor], base: Tensor, settings: ActivationSettings) -> None:
        super().__init__(heats, base, settings)
        size = base.shape[1]
        self._low = base.clone()
        self._pull = torch.zeros_like(base)
        self._heats = [heat.contiguous() for heat in heats]
        self._base = base
        self._layouts = [_layout(height, width, size) for height, _, width in self._shapes]
        self._edges = [
            np.empty((layout.edges, 3, shape[2]), np.float32)
            for layout, shape in zip(self._layouts, self._shapes, strict=True)
        ]
        alpha = channel_scale(settings, base.device).numpy()
        self._forms = [
            kernels.Shape(alpha, settings.use_tanh, np.float32(self._penalty(shape)))
            for shape in self._shapes
        ]
        self._tasks = [(row, *band) for row, layout in enumerate(self._layouts) for band in layout.bands]
        self._squares: list[float] = []
        self._keep_gradients()

    def _keep_gradients(self) -> None:
        """For an optimiser of any kind."""
        self._planes: list[kernels.Planes] = []  # made when they are needed
        self._grad = None
        self._steps_itself = False
        # δ as it was when the input was computed: a step within the pass leaves both in accord
        self._seen = -1

    def optimizer(self, factory: OptimizerFactory) -> Optimizer:
        """As it says above; plain Adam steps within the pass."""
        optimizer = factory(self.parameters)
        self._keep_gradients()
        if not is_plain_adam(optimizer):
            return make_optimizer(factory, self.parameters, self.delta)
        self._steps_itself = True
        self._planes = self._views(moments=[self._buffer(), self._buffer()])
        for parameter in (self.delta, *self.parameters):
            parameter.grad = None
        return SweepingAdam(self.delta, optimizer.param_groups[0], self._advance)

    def forward(self) -> Tensor:
        """δ → change of the image → the extractor's input."""
        if not self._planes:
            self._grad = self._buffer()
            self._planes = self._views(grad=self._grad)
        if self._seen != self._delta._version:  # every other way to change δ counts it up
            self._sweep(_NO_STEP, backward=False, forward=True)
        return self._low.permute(0, 3, 1, 2)

    def backward(self, pull: Tensor) -> None:
        """Set the gradients, or keep the pull until the optimiser steps."""
        self._pull.copy_(pull.permute(0, 2, 3, 1))
        if self._grad is not None:
            self._sweep(_NO_STEP, backward=True, forward=False)
            self._attach(self._grad)

    def image_losses(self) -> Tensor:
        """From the sums of the last pass."""
        sums = zip(self._squares, self._shapes, strict=True)
        return torch.tensor([total / torch.Size(shape).numel() for total, shape in sums])

    def _advance(self, step: kernels.AdamStep) -> None:
        self._sweep(step, backward=True, forward=True)
        self._seen = self._delta._version

    def _views(self, *, moments: Sequence[Tensor] = (), grad: Tensor | None = None) -> list[kernels.Planes]:
        def parts(buffer: Tensor | None) -> list[npt.NDArray[np.float32]]:
            if buffer is None:
                return [np.empty((0, *shape[1:]), np.float32) for shape in self._shapes]
            return [part.numpy() for part in self._parts(buffer)]

        mean, square = (parts(moments[i] if moments else None) for i in range(2))
        rows = [[row.numpy() for row in buffer] for buffer in (self._base, self._low, self._pull)]
        heats = [heat.numpy() for heat in self._heats]
        columns = (parts(self._delta), heats, mean, square, parts(grad), *rows)
        # the rows that only fill the batch up are left out
        return [kernels.Planes(*values) for values in zip(*columns, strict=False)]

    def _sweep(self, adam: kernels.AdamStep, *, backward: bool, forward: bool) -> None:
        def treat(task: tuple[int, int, int, int]) -> float:
            row, begin, end, edge = task
            plan, edges, planes = self._layouts[row].plan, self._edges[row], self._planes[row]
            return kernels.sweep(
                begin, end, planes, plan, self._forms[row], adam, backward, steps, forward, edges, edge
            )

        steps = backward and self._steps_itself

        sums = side_by_side(treat, self._tasks)
        if not forward:
            return
        self._squares = [0.0] * len(self._shapes)
        for (row, *_), total in zip(self._tasks, sums, strict=True):
            self._squares[row] += total
        for layout, edges, planes in zip(self._layouts, self._edges, self._planes, strict=True):
            if layout.edges:
                kernels.join_edges(*layout.joins, edges, planes, layout.plan)


class GpuPixels(Pixels):
    """Few kernels, for a device at which starting one costs more than one image's work; no synchronisation."""

    def __init__(self, heats: Sequence[Tensor], base: Tensor, settings: ActivationSettings) -> None:
        super().__init__(heats, base, settings)
        self._grad = self._buffer()
        buffers = [self._grad, *(self._buffer() for _ in range(3))]
        self._whole = buffers
        self._rows = list(zip(*(self._parts(buffer) for buffer in buffers), strict=True))
        scale = channel_scale(settings, base.device).view(3, 1)
        for heat, (_, gain, _, _) in zip(heats, self._rows, strict=True):
            torch.mul(heat.unsqueeze(1), scale, out=gain)
        self._base = base.permute(0, 1, 3, 2).contiguous()  # R×3×R
        self._low = self._base.clone()
        self._resamplers: list[Resampler] = []
        if settings.delta_size == "image":
            size = base.shape[1]
            self._resamplers = [
                Resampler(height, width, size, device=base.device) for height, _, width in self._shapes
            ]

    @torch.no_grad()
    def forward(self) -> Tensor:
        """δ → change of the image → the extractor's input."""
        _, gain, squashed, change = self._whole
        if self.settings.use_tanh:
            torch.tanh(self._delta, out=squashed)
            torch.mul(gain, squashed, out=change)
        else:
            torch.mul(gain, self._delta, out=change)
        for number, (_, _, _, one) in enumerate(self._rows):
            if self._resamplers:
                self._resamplers[number].add_resized(one, self._base[number], self._low[number])
            else:
                torch.add(self._base[number], one, out=self._low[number])
        return self._low.permute(0, 2, 1, 3)

    @torch.no_grad()
    def backward(self, pull: Tensor) -> None:
        """Set the gradients."""
        assert self._grad is not None
        pull = pull.permute(0, 2, 1, 3).float().contiguous()
        for number, (grad, _, _, change) in enumerate(self._rows):
            penalty = self._penalty(change.shape)
            if self._resamplers:
                self._resamplers[number].add_transposed(pull[number], change, penalty, grad)
            else:
                torch.add(pull[number], change, alpha=penalty, out=grad)
        _, gain, squashed, _ = self._whole
        self._grad.mul_(gain)
        if self.settings.use_tanh:
            torch.ops.aten.tanh_backward.grad_input(self._grad, squashed, grad_input=self._grad)
        self._attach(self._grad)

    def image_losses(self) -> Tensor:
        """Of the changes that the last `forward` made."""
        return image_loss([change for _, _, _, change in self._rows])


def pixels_for(heats: Sequence[Tensor], base: Tensor, settings: ActivationSettings) -> Pixels:
    """The form that suits the device of `base`."""
    return (CpuPixels if base.device.type == "cpu" else GpuPixels)(heats, base, settings)
