"""Images in the loop: from δ to the change of an image, to what the extractor sees of it, and to its released form."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aindex.activation.flat import Flat
from aindex.activation.perceptual import LUMINANCE, jnd_map, jnd_maps
from aindex.activation.settings import ActivationSettings
from aindex.descriptors.preprocess import IMAGENET_STD, normalise, resize

CHANNEL_SCALE = tuple(0.072 / weight for weight in LUMINANCE)
"""α: the eye sees a change of blue least and one of green most."""

INITIAL_STD = 1e-6
"""Standard deviation of δ at the start: nothing to see, but off the point where gradients may vanish."""

_NOISE = 12 * 1024
"""How many numbers are drawn for that; they are repeated."""

ROUNDING_MSE = 1 / 12
"""Squared grey levels that rounding to 8 bits adds to a change."""

_FINER = 1.25

VIEW_SIZE = 2
"""Side of the pictures that are edited where δ has the image's own size, in sides of the extractor's input."""


def heatmap(image: Tensor, settings: ActivationSettings) -> Tensor:
    """How much of δ' each pixel takes: `scaling` · JND, or a flat map of the same mean.

    Args:
        image: 3×H×W in [0, 1].
        settings: uses scaling and use_attenuation.

    Returns:
        1×H×W float32, without gradient.
    """
    return _scaled(jnd_map(image), settings)


def _scaled(jnd: Tensor, settings: ActivationSettings) -> Tensor:
    if not settings.use_attenuation:
        # a CPU's mean in torch depends on the number of threads
        mean = float(np.mean(jnd.numpy(), dtype=np.float64)) if jnd.device.type == "cpu" else jnd.mean()
        jnd = torch.full_like(jnd, mean) if isinstance(mean, float) else mean.expand_as(jnd)
    return settings.scaling * jnd


class Seen(NamedTuple):
    """What the loop sees of B changed images.

    Attributes:
        inputs: of the extractor, B×3×R×R.
        mean_squares: of the changes, B.
        pictures: to be edited, B×3×S×S; None where there are no views.
    """

    inputs: Tensor
    mean_squares: Tensor
    pictures: Tensor | None


class Canvas:
    """Images that are treated at once, with the shape and the bounds of their changes.

    Args:
        images: B images, 3×H×W each, all in [0, 1] or all uint8; a single one on a CPU, whose kernels round by their
            number.
        size: R, side of the extractor's input.
        settings: of the loop.
        dtype: of what the extractor takes.

    Attributes:
        shapes: of δ, 3×h×w each.
        aspects: W over H.
        is_plain: a single image on a CPU, its change at its own size and bounded by tanh alone.
        gain: change of pixels where δ' is 1, h ⊙ α, M×L.
        to_input: resizes a matrix to the extractor's input; None where δ has a size of its own.
    """

    @torch.no_grad()
    def __init__(
        self,
        images: Sequence[Tensor],
        size: int,
        settings: ActivationSettings,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._settings, self._device, self._dtype = settings, images[0].device, dtype
        self._is_full = settings.delta_size == "image"
        self._times = 1 if isinstance(settings.delta_size, str) else settings.delta_size
        side = size * self._times
        shapes = [tuple(image.shape) for image in images]
        self.aspects = [width / height for _, height, width in shapes]
        self._own = Flat(shapes, self._device, spare=max(shape[2] for shape in shapes))
        self._stored = self._own.join(images)
        self._unit = 1 if self._stored.dtype == torch.uint8 else 255  # grey levels
        flat = self._stored.float().div_(255) if self._unit == 1 else self._stored
        pixels = self._own.split(flat)
        is_alone = self._device.type == "cpu" and len(images) == 1
        jnds = [jnd_map(*pixels)] if is_alone else jnd_maps(flat, shapes, self._own.begins)
        self._heats = [_scaled(jnd, settings) for jnd in jnds]
        self._greys = [False] * len(images)
        if settings.faithful:
            self._greys = torch.stack([(image[1:] == image[:1]).all() for image in pixels]).tolist()
            for heat, image in zip(self._heats, pixels, strict=True):
                heat.masked_fill_((image == 0).all(0) | (image == 1).all(0), 0)
        self._alphas = [alpha(settings, is_grey) for is_grey in self._greys]
        self.is_plain = (is_alone and self._is_full and settings.use_tanh) and not (
            settings.views or settings.min_psnr is not None or any(self._greys)
        )
        self.shapes = shapes if self._is_full else [(3, side, side)] * len(images)
        self._layout = self._own if self._is_full else Flat(self.shapes, self._device)
        heats = self._heats if self._is_full else [resize(heat, side) for heat in self._heats]
        self.gain = weighted(heats, self._layout, self._alphas)
        # made here: the weights of a resize are sent to the device, and a loop of many sizes would forget them
        view_side = size * VIEW_SIZE if self._is_full else side
        self.to_input = self._own.resize(size) if self._is_full else None
        self._to_picture = self._own.resize(view_side) if self._is_full and settings.views else None

        def shown(side: int, resized: Callable[[Tensor], Tensor] | None) -> Tensor:
            return resized(flat) if resized else torch.stack([resize(image, side) for image in pixels])

        # the weights of a resize sum to one: it may go before the normalisation, where there are fewer pixels
        self._base = normalise(shown(size, self.to_input))
        if settings.views:
            self._pictures = shown(view_side, self._to_picture)
            self._std = torch.tensor(IMAGENET_STD, device=self._device).view(3, 1, 1)
        if settings.min_psnr is not None:
            self._set_budget(settings.min_psnr)

    def _set_budget(self, min_psnr: float) -> None:
        """Squared grey levels that a change may have, and the grey levels of δ' = 1 where it is shown."""
        self._budget = max(255**2 / 10 ** (min_psnr / 10) - ROUNDING_MSE, 1e-6)
        factors = [
            [255 * one * std for one, std in zip(some, IMAGENET_STD, strict=True)] for some in self._alphas
        ]
        if self._is_full:
            self._visible = weighted(self._heats, self._own, factors)
            return
        # a little finer than δ, so that pixels lie between its values as they do in a larger image
        side = math.ceil(_FINER * self.shapes[0][1])
        sizes = [tuple(min(length, side) for length in heat.shape[1:]) for heat in self._heats]
        self._shown = []
        for size in dict.fromkeys(sizes):
            chosen = [i for i, other in enumerate(sizes) if other == size]
            layout = Flat([(3, *size)] * len(chosen), self._device)
            heats = [resampled(self._heats[i][None].square(), size)[0].sqrt() for i in chosen]
            visible = weighted(heats, layout, [factors[i] for i in chosen])
            rows = slice(None) if len(chosen) == len(sizes) else torch.tensor(chosen, device=self._device)
            self._shown.append((rows, size, layout, visible))

    def start(self, seeds: Sequence[int]) -> list[Tensor]:
        """δ before the first step, leaves; drawn on the CPU so that they are the same on every device."""
        noise = [torch.randn(_NOISE, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        deltas = self._layout.tile((torch.stack(noise) * INITIAL_STD).to(self._device))
        return [delta.detach().requires_grad_() for delta in self._layout.split(deltas)]

    def change(self, deltas: Sequence[Tensor]) -> Tensor:
        """x' − x at δ's size, in normalised space, M×L: h ⊙ α ⊙ tanh δ, within the budget."""
        return self.gain * self._bounded(deltas)

    def seen(self, deltas: Sequence[Tensor]) -> Seen:
        """What the loop sees of the changed images."""
        change = self.change(deltas)
        pictures = self.picture(change) if self._settings.views else None
        return Seen(self.input(change), self._layout.mean_squares(change), pictures)

    def input(self, change: Tensor) -> Tensor:
        """What the extractor sees of the changed images, B×3×R×R."""
        if self.to_input:
            return self.on_base(self.to_input(change))
        change = change.view(-1, *self.shapes[0])
        return self.on_base(F.avg_pool2d(change, self._times) if self._times > 1 else change)

    def on_base(self, change: Tensor) -> Tensor:
        """The extractor's input from what it sees of the changes, B×3×R×R."""
        # the type first: fewer bytes are reordered
        return (self._base + change).to(self._dtype).contiguous(memory_format=torch.channels_last)

    def picture(self, change: Tensor) -> Tensor:
        """The changed images to be edited, B×3×S×S in [0, 1], S a multiple of R."""
        change = self._to_picture(change) if self._to_picture else change.view(-1, *self.shapes[0])
        return (self._pictures + change * self._std).clamp(0, 1)

    def full_changes(self, deltas: Sequence[Tensor]) -> list[Tensor]:
        """x' − x at each image's own size, in normalised space, 3×H×W."""
        return self._own.split(self._full_change(deltas))

    @torch.no_grad()
    def released(self, deltas: Sequence[Tensor]) -> list[Tensor]:
        """The changed images, un-normalised, clamped, rounded: H×W×3 uint8."""
        levels = [255 * std for std in IMAGENET_STD]
        change = self._own.scale_(self._full_change(deltas), [levels] * len(deltas))
        if self._settings.min_psnr is not None:
            # how much rounding adds depends on the change; what is too much is taken off
            rounded = self._rounded(change.clone()).sub_(self._stored, alpha=self._unit)
            allowed = (self._budget + ROUNDING_MSE) / self._own.mean_squares(rounded)
            change.mul_(self._own.spread(allowed.sqrt().clamp(max=1)))
        pixels = self._own.split(self._rounded(change).to(torch.uint8))
        return [image.permute(1, 2, 0).contiguous() for image in pixels]

    def _rounded(self, change: Tensor) -> Tensor:
        """The changed images in whole grey levels, in place."""
        return change.add_(self._stored, alpha=self._unit).round_().clamp_(0, 255)

    @torch.no_grad()
    def _full_change(self, deltas: Sequence[Tensor]) -> Tensor:
        """M×L."""
        bounded = self._bounded(deltas)
        if self._is_full:
            return self.gain * bounded
        images = zip(bounded.view(-1, 1, *self.shapes[0]), self._heats, strict=True)
        # in place: of a large image this is most of the memory
        shown = [resampled(image, heat.shape[1:])[0].mul_(heat) for image, heat in images]
        return self._own.scale_(self._own.join(shown), self._alphas)

    def _bounded(self, deltas: Sequence[Tensor]) -> Tensor:
        bounded = self._layout.join(deltas)
        bounded = _Tanh.apply(bounded) if self._settings.use_tanh else bounded
        if any(self._greys):
            images = self._layout.split(bounded)
            for i in (i for i, is_grey in enumerate(self._greys) if is_grey):
                images[i] = images[i].mean(0, keepdim=True).expand_as(images[i])
            bounded = self._layout.join(images)
        if self._settings.min_psnr is None:
            return bounded
        with torch.no_grad():
            scales = (self._budget / self._errors(bounded).clamp(min=self._budget)).sqrt()
        return bounded * self._layout.spread(scales)

    def _errors(self, bounded: Tensor) -> Tensor:
        """Squared grey levels of the changes, B."""
        if self._is_full:
            return self._own.mean_squares(self._visible * bounded)
        images, errors = bounded.view(-1, *self.shapes[0]), bounded.new_empty(len(bounded))
        for rows, size, layout, visible in self._shown:
            errors[rows] = layout.mean_squares(visible * resampled(images[rows], size).flatten(1))
        return errors


def tanh(values: Tensor) -> Tensor:
    """On a CPU by the logistic function, which torch has there in a quarter of the time; within 2e-7 of it."""
    return values.tanh() if values.device.type != "cpu" else (values * 2).sigmoid_().mul_(2).sub_(1)


class _Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        bounded = tanh(values)
        ctx.save_for_backward(bounded)
        return bounded

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (bounded,) = ctx.saved_tensors
        slope: Tensor = torch.ops.aten.tanh_backward(gradient, bounded)
        return slope


def alpha(settings: ActivationSettings, is_grey: bool) -> tuple[float, ...]:
    """What each channel takes of a change; of a grey image as many grey levels as the others."""
    scales = CHANNEL_SCALE if settings.scale_channels else (1.0, 1.0, 1.0)
    mean = sum(scale * std for scale, std in zip(scales, IMAGENET_STD, strict=True)) / 3
    return tuple(mean / std for std in IMAGENET_STD) if is_grey else scales


def weighted(heats: Sequence[Tensor], layout: Flat, factors: Sequence[Sequence[float]]) -> Tensor:
    """Heat maps 1×h×w for three channels, times a factor each: M×L."""
    return layout.scale_(layout.join([heat.expand(3, -1, -1).contiguous() for heat in heats]), factors)


def resampled(images: Tensor, size: Sequence[int]) -> Tensor:
    """B×C×h×w to B×C×H×W: bilinear, antialiased where an axis shrinks."""
    return F.interpolate(images, tuple(size), mode="bilinear", antialias=True)
