"""Images in the loop: from δ to the change of an image, to what the extractor sees of it, and to its released form."""

import math
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aindex.activation.perceptual import LUMINANCE, jnd_map
from aindex.activation.settings import ActivationSettings
from aindex.descriptors.preprocess import IMAGENET_STD, normalise, resize
from aindex.descriptors.resizing import PlaneResize
from aindex.edits.differentiable import Edits, draw, edited, sent
from aindex.parallel import side_by_side

Item = TypeVar("Item")
Result = TypeVar("Result")

CHANNEL_SCALE = tuple(0.072 / weight for weight in LUMINANCE)
"""α: the eye sees a change of blue least and one of green most."""

INITIAL_STD = 1e-6
"""Standard deviation of δ at the start: nothing to see, but off the point where gradients may vanish."""

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
    jnd = jnd_map(image)
    if not settings.use_attenuation:
        # a CPU's mean in torch depends on the number of threads
        mean = float(np.mean(jnd.numpy(), dtype=np.float64)) if jnd.device.type == "cpu" else jnd.mean()
        jnd = torch.full_like(jnd, mean) if isinstance(mean, float) else mean.expand_as(jnd)
    return settings.scaling * jnd


class Canvas:
    """One image in the loop, with the shape and the bounds of its change.

    Args:
        image: 3×H×W in [0, 1] or uint8.
        size: R, side of the extractor's input.
        settings: of the loop.

    Attributes:
        shape: of δ, 3×h×w.
        aspect: W over H.
    """

    @torch.no_grad()
    def __init__(self, image: Tensor, size: int, settings: ActivationSettings) -> None:
        self._image, self._size, self._settings = image, size, settings
        pixels = image.float() / 255 if image.dtype == torch.uint8 else image
        alpha = torch.tensor(
            CHANNEL_SCALE if settings.scale_channels else (1.0, 1.0, 1.0), device=image.device
        )
        self._alpha = alpha.view(3, 1, 1)
        self._std = torch.tensor(IMAGENET_STD, device=image.device).view(3, 1, 1)
        self._heat = heatmap(pixels, settings)
        self._is_full = settings.delta_size == "image"
        self._times = 1 if isinstance(settings.delta_size, str) else settings.delta_size
        side = size * self._times
        heat = self._heat if self._is_full else resize(self._heat, side)
        self._gain = heat * self._alpha
        self.shape = self._gain.shape
        self.aspect = pixels.shape[2] / pixels.shape[1]
        # the weights of a resize sum to one: it may go before the normalisation, where there are fewer pixels
        self._base = normalise(resize(pixels, size))
        self._view_side = size * VIEW_SIZE if self._is_full else side
        self._picture = resize(pixels, self._view_side) if settings.views else None
        if self._is_full:
            # made here: the weights of a resize are sent to the device, and a loop of many sizes would forget them
            self._to_input = PlaneResize(self.shape, size, image.device)
            self._to_picture = PlaneResize(self.shape, self._view_side, image.device)
        if settings.min_psnr is not None:
            self._set_budget(settings.min_psnr)

    def _set_budget(self, min_psnr: float) -> None:
        """Squared grey levels that the change may have, and the grey levels of δ' = 1."""
        # a little finer than δ, so that pixels lie between its values as they do in a larger image
        sizes = zip(self._heat.shape[1:], self.shape[1:], strict=True)
        self._shown_size = [min(length, math.ceil(_FINER * side)) for length, side in sizes]
        squared = self._heat if self._is_full else resampled(self._heat.square(), self._shown_size).sqrt()
        self._visible = squared * (255 * self._alpha * self._std)
        self._budget = max(255**2 / 10 ** (min_psnr / 10) - ROUNDING_MSE, 1e-6)

    def start(self, seed: int) -> Tensor:
        """δ before the first step, drawn on the CPU so that it is the same on every device; a leaf."""
        noise = torch.randn(self.shape, generator=torch.Generator().manual_seed(seed)) * INITIAL_STD
        return noise.to(self._image.device).requires_grad_()

    def change(self, delta: Tensor) -> Tensor:
        """x' − x at δ's size, in normalised space: h ⊙ α ⊙ tanh δ, within the budget."""
        return self._gain * self._bounded(delta)

    def input(self, change: Tensor) -> Tensor:
        """What the extractor sees of the changed image, 3×R×R."""
        if self._is_full:
            return self._base + self._to_input(change)
        return self._base + (F.avg_pool2d(change, self._times) if self._times > 1 else change)

    def picture(self, change: Tensor) -> Tensor:
        """The changed image to be edited, 3×S×S in [0, 1], S a multiple of R."""
        assert self._picture is not None
        change = self._to_picture(change) if self._is_full else change
        return (self._picture + change * self._std).clamp(0, 1)

    @torch.no_grad()
    def full_change(self, delta: Tensor) -> Tensor:
        """x' − x at the image's own size, in normalised space, 3×H×W."""
        bounded = self._bounded(delta)
        if not self._is_full:
            bounded = resampled(bounded, self._heat.shape[1:])
        return bounded * self._alpha * self._heat

    @torch.no_grad()
    def released(self, delta: Tensor) -> Tensor:
        """The changed image, un-normalised, clamped, rounded: H×W×3 uint8."""
        scale = 1 if self._image.dtype == torch.uint8 else 255
        pixels = (self.full_change(delta) * (255 * self._std)).add_(self._image, alpha=scale)
        return pixels.round_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous()

    def _bounded(self, delta: Tensor) -> Tensor:
        bounded = torch.tanh(delta) if self._settings.use_tanh else delta
        if self._settings.min_psnr is None:
            return bounded
        with torch.no_grad():
            shown = bounded if self._is_full else resampled(bounded, self._shown_size)
            error = mean_square(self._visible * shown)
        return bounded * (self._budget / error.clamp(min=self._budget)).sqrt()


def resampled(planes: Tensor, size: Sequence[int]) -> Tensor:
    """C×h×w to C×H×W: bilinear, antialiased where an axis shrinks."""
    return F.interpolate(planes[None], tuple(size), mode="bilinear", antialias=True)[0]


def mean_square(change: Tensor) -> Tensor:
    """Of all elements; 0-d."""
    return F.mse_loss(change, change.new_zeros(()).expand_as(change))


class Canvases:
    """The images of a batch.

    Args:
        images: B images, 3×H×W each, on one device.
        size: R.
        settings: of the loop.
        seeds: one per image: of δ's start and of the edits.

    Attributes:
        deltas: δ of each image, leaf tensors.
    """

    def __init__(
        self, images: Sequence[Tensor], size: int, settings: ActivationSettings, seeds: Sequence[int]
    ) -> None:
        self._size, self._settings = size, settings
        self._device = images[0].device
        self._canvases = self._each(lambda image: Canvas(image, size, settings), images)
        self.deltas = self._each(lambda i: self._canvases[i].start(seeds[i]), range(len(images)))
        self._edits = iter(self._drawn(seeds))

    def constrain(self) -> list[Tensor]:
        """The present change of each image, 3×h×w: h ⊙ α ⊙ tanh δ, within the budget."""
        return [canvas.change(delta) for canvas, delta in zip(self._canvases, self.deltas, strict=True)]

    def add(self, changes: Sequence[Tensor]) -> Tensor:
        """What the extractor sees of the changed images, B×3×R×R."""
        pairs = zip(self._canvases, changes, strict=True)
        return torch.stack([canvas.input(change) for canvas, change in pairs])

    def edit(self, changes: Sequence[Tensor]) -> list[Tensor]:
        """What it sees of randomly edited copies of them, B×3×R×R for each view."""
        if not self._settings.views:
            return []
        pairs = zip(self._canvases, changes, strict=True)
        pictures = torch.stack([canvas.picture(change) for canvas, change in pairs])
        views = [next(self._edits) for _ in range(self._settings.views)]
        return [normalise(edited(pictures, view, self._size)) for view in views]

    def _drawn(self, seeds: Sequence[int]) -> list[Edits]:
        """The edits of all views of a run, iteration by iteration, before the loop: sending them waits for a GPU."""
        rngs = [random.Random(seed) for seed in seeds]
        return sent(
            [
                [
                    draw(rng, canvas.aspect, self._settings.edits)
                    for rng, canvas in zip(rngs, self._canvases, strict=True)
                ]
                for _ in range(self._settings.iterations * self._settings.views)
            ],
            self._device,
        )

    def changes(self) -> list[Tensor]:
        """x' − x of each image in normalised space at its own size, 3×H×W."""
        pairs = list(zip(self._canvases, self.deltas, strict=True))
        return self._each(lambda pair: pair[0].full_change(pair[1]), pairs)

    def released(self) -> list[Tensor]:
        """The images to release, H×W×3 uint8 each."""
        pairs = list(zip(self._canvases, self.deltas, strict=True))
        return self._each(lambda pair: pair[0].released(pair[1]), pairs)

    def _each(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """What a function gives for each item; on a CPU they are treated side by side, a thread each."""
        if self._device.type == "cpu":
            return side_by_side(function, items)
        return [function(item) for item in items]
