"""From δ to the change of an image: the settings of the loop, and the shape and bounds it gives to δ."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aindex.activation.goals import FeatureLoss
from aindex.activation.perceptual import LUMINANCE, jnd_map
from aindex.descriptors.preprocess import IMAGENET_STD, normalise, resize
from aindex.descriptors.resizing import resize_planes
from aindex.edits.differentiable import EditSettings
from aindex.errors import ConfigError

CHANNEL_SCALE = tuple(0.072 / weight for weight in LUMINANCE)
"""α: the eye sees a change of blue least and one of green most."""

INITIAL_STD = 1e-6
"""Standard deviation of δ at the start: nothing to see, but off the point where gradients may vanish."""

ROUNDING_MSE = 1 / 12
"""Squared grey levels that rounding to 8 bits adds to a change."""

_FINER = 1.25

VIEW_SIZE = 2
"""Side of the pictures that are edited where δ has the image's own size, in sides of the extractor's input."""

DeltaSize = Literal["image", "input"] | int


@dataclass(frozen=True, kw_only=True)
class ActivationSettings:
    """The loop's constants; the defaults are the published method's.

    Attributes:
        iterations: gradient steps per image.
        loss_f: what is minimised in descriptor space: `cossim` or `mse`, the distance to a target; `assignment`, minus
            the log-probability that the index files the image and its copies where the image's row lies.
        temperature: of `assignment`, in squared distances.
        lambda_f: weight of the feature loss.
        lambda_i: weight of the image loss.
        scaling: how many just-noticeable differences |δ'| = 1 is worth.
        min_psnr: least PSNR in dB; larger changes are scaled down to it in every iteration. None for no bound.
        use_attenuation: shape the change by the JND map; else by a flat map of the same mean.
        use_tanh: bound δ by tanh.
        scale_channels: weigh R, G, B by CHANNEL_SCALE.
        delta_size: `image`: δ has the image's own size. `input`: δ has the extractor's input size; a number: so many
            times that. The loop then runs on the image and heatmap of this size, and δ' is up-sampled once at the end.
        views: randomly edited copies that each iteration describes beside the image.
        edits: what they are edited by.
    """

    iterations: int = 10
    loss_f: FeatureLoss = "cossim"
    temperature: float = 0.05
    lambda_f: float = 1.0
    lambda_i: float = 0.01
    scaling: float = 3.0
    min_psnr: float | None = None
    use_attenuation: bool = True
    use_tanh: bool = True
    scale_channels: bool = True
    delta_size: DeltaSize = "image"
    views: int = 0
    edits: EditSettings = field(default_factory=EditSettings)

    def __post_init__(self) -> None:
        for name in ("lambda_f", "lambda_i", "scaling"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:  # NaN is neither
                raise ConfigError(
                    f"{name} {value}: expected a number of 0 or more; leave it out for the default"
                )
        if not 0 < self.temperature < math.inf:
            raise ConfigError(
                f"temperature {self.temperature}: expected a number above 0; the default is 0.05"
            )
        for name, default in (("iterations", 10), ("views", 0)):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"{name} {getattr(self, name)}: expected 0 or more; the default is {default}"
                )
        if self.min_psnr is not None and not 10 <= self.min_psnr <= 100:
            raise ConfigError(
                f"min_psnr {self.min_psnr}: expected 10 to 100 dB; 42 is hard to see, 38 is visible"
            )
        if self.loss_f not in get_args(FeatureLoss):
            allowed = " or ".join(get_args(FeatureLoss))
            raise ConfigError(f"loss_f {self.loss_f!r}: expected {allowed}; leave it out for the default")
        if self.delta_size not in ("image", "input") and not (
            isinstance(self.delta_size, int) and 1 <= self.delta_size <= 16
        ):
            raise ConfigError(
                f"delta_size {self.delta_size!r}: expected image, input, or how many times the extractor's input, 1 to "
                "16; leave it out for the default"
            )


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
            return self._base + resize_planes(change, self._size)
        return self._base + (F.avg_pool2d(change, self._times) if self._times > 1 else change)

    def picture(self, change: Tensor) -> Tensor:
        """The changed image to be edited, 3×S×S in [0, 1], S a multiple of R."""
        assert self._picture is not None
        change = resize_planes(change, self._view_side) if self._is_full else change
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
