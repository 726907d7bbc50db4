"""The activation of one batch of images as an optimisation problem over δ."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from aindex.activation import kernels
from aindex.activation.distortion import (
    INITIAL_STD,
    ActivationSettings,
    bounded,
    channel_scale,
    constant,
    heatmap,
)
from aindex.activation.objective import feature_loss
from aindex.activation.optimizer import OptimizerFactory
from aindex.activation.pixels import pixels_for
from aindex.activation.resampling import enlarge
from aindex.descriptors.inference import ExtractorLike, FastExtractor, Precision, fast_extractor
from aindex.descriptors.preprocess import IMAGENET_STD, normalise, resize
from aindex.parallel import side_by_side

GREY_LEVELS = tuple(255 * std for std in IMAGENET_STD)
"""What 1 in normalised space is in R, G, B."""


class LossTerms(NamedTuple):
    """Losses per image, on the device: when to wait for them is the caller's choice."""

    loss: Tensor
    """B: λ_f · feature_loss + λ_i · image_loss."""
    feature_loss: Tensor
    """B."""
    image_loss: Tensor
    """B; NaN where it was not asked for."""


class ActivationProblem:
    """δ of a batch of images, and the gradient of the loss with respect to it.

    The gradient through resize, product and tanh is written out by hand; autograd sees the extractor alone.
    What is rounded differently in vectors and at their ends is done per image, and the extractor always gets
    `batch_size` rows, so the numbers of an image do not depend on the other images of its batch, on its place
    in it, or on its fill.

    Args:
        images: 3×H×W each, of any sizes, in [0, 1] (or uint8), on the extractor's device.
        targets: B×d.
        extractor: prepared by fast_extractor(), once for all batches; any other is prepared here.
        settings: the loop's constants.
        seeds: one per image, for the start of δ; derive them from what names the image.
        batch_size: rows the extractor sees, B or more; missing rows are filled up.
        precision: used if the extractor is not prepared yet.

    Attributes:
        parameters: δ per image, leaf tensors; H×3×W, or R×3×R with delta_size `input`.
        delta: the same memory as one flat leaf tensor; each image starts at a multiple of 64 elements.
        heatmaps: 1×H×W per image, at the image's own size.
    """

    def __init__(
        self,
        images: Sequence[Tensor],
        targets: Tensor,
        extractor: ExtractorLike | FastExtractor,
        settings: ActivationSettings,
        *,
        seeds: Sequence[int],
        batch_size: int,
        precision: Precision | None = None,
    ) -> None:
        if not len(images) == len(targets) == len(seeds) or not 0 < len(images) <= batch_size:
            raise ValueError(
                f"{len(images)} images, {len(targets)} targets, {len(seeds)} seeds, batch size {batch_size}: "
                "expected one target and seed per image, and 1 to batch size images"
            )
        self.settings = settings
        self._extractor = fast_extractor(extractor, precision=precision)
        self._images = list(images)
        self._targets = targets.float()
        size = self._extractor.input_size
        base = torch.zeros(batch_size, size, size, 3, device=targets.device)
        self.heatmaps = self._each(lambda row: self._prepare(images[row], base[row]))
        heats = [self._at_size_of_delta(heat) for heat in self.heatmaps]
        self.pixels = pixels_for(heats, base, settings)
        self.delta, self.parameters = self.pixels.delta, self.pixels.parameters
        rows = base.permute(0, 3, 1, 2).to(self._extractor.input_dtype, copy=True)  # channels-last
        self._input = rows.requires_grad_()
        self._each(lambda row: _start(self.parameters[row], seeds[row]))

    def _each(self, function: Callable[[int], Tensor]) -> list[Tensor]:
        """What a function gives for each image; on a CPU images are treated side by side."""
        rows = range(len(self._images))
        return side_by_side(function, rows) if self._targets.device.type == "cpu" else [*map(function, rows)]

    @torch.no_grad()
    def _prepare(self, image: Tensor, base: Tensor) -> Tensor:
        """Write what one image gives to the extractor's input into `base`, R×R×3; returns its heatmap, 1×H×W."""
        image = image.float().div_(255) if image.dtype == torch.uint8 else image
        # weights of a resize sum to one: it may go before the normalisation, where there are fewer pixels
        base.copy_(normalise(resize(image, len(base))).permute(1, 2, 0))
        return heatmap(image, self.settings)

    def _at_size_of_delta(self, heat: Tensor) -> Tensor:
        full_size = self.settings.delta_size == "image"
        return (heat if full_size else resize(heat, self._extractor.input_size))[0]

    def optimizer(self, factory: OptimizerFactory) -> Optimizer:
        """The optimiser that `factory` names, such that no image's step depends on another image.

        Args:
            factory: parameters → optimiser, for example ``lambda p: Adam(p, lr=1.0)``.

        Raises:
            ConfigError: the optimiser evaluates the loss several times a step (LBFGS).
        """
        return self.pixels.optimizer(factory)

    def loss_and_grad(self, *, with_image_loss: bool = True) -> LossTerms:
        """The losses at the present δ; sets what the optimiser needs for a step.

        With an optimiser that is not from `optimizer`, or one that is but has no faster form, these are the
        gradients of `parameters` and `delta`.

        Args:
            with_image_loss: give the image loss's value too; its gradient is always there.
        """
        with torch.no_grad():
            self._input.detach().copy_(self.pixels.forward())
            if with_image_loss:
                change = self.pixels.image_losses()
            else:
                change = self._targets.new_full((len(self._images),), torch.nan)
        distance = self._extractor_forward_backward()
        loss = self.settings.lambda_f * distance
        if with_image_loss:
            loss = loss + self.settings.lambda_i * change
        return LossTerms(loss, distance, change)

    def _extractor_forward_backward(self) -> Tensor:
        """Feature losses, B; carries their gradient back to δ."""
        # an algorithm of cuDNN that is fast but adds in any order would make two runs differ
        repeatable = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
        with torch.enable_grad(), repeatable:
            descriptors = self._extractor(self._input)[: len(self._images)]
            distance = feature_loss(descriptors, self._targets, self.settings.loss_f)
            (pull,) = torch.autograd.grad(self.settings.lambda_f * distance.sum(), self._input)
        self.pixels.backward(pull)
        return distance.detach()

    @torch.no_grad()
    def changes(self) -> list[Tensor]:
        """x' − x per image in normalised space at its own size, 3×H×W, float32."""
        return self._each(self._change)

    @torch.no_grad()
    def _change(self, row: int) -> Tensor:
        """Change of one image in normalised space, 3×H×W."""
        scale = channel_scale(self.settings, self._targets.device).view(3, 1, 1)
        return self._bounded(row).permute(1, 0, 2) * scale * self.heatmaps[row]

    def _bounded(self, row: int) -> Tensor:
        """Tanh δ of one image at the image's own size, H×3×W."""
        value = bounded(self.parameters[row].detach(), self.settings)
        if self.settings.delta_size == "image":
            return value
        height, width = self.heatmaps[row].shape[1:]
        return enlarge(value.permute(1, 0, 2), height, width).permute(1, 0, 2)

    def render(self) -> list[Tensor]:
        """The released images: H×W×3 uint8 each, un-normalised, clamped, rounded."""
        return self._each(self._rendered)

    @torch.no_grad()
    def _rendered(self, row: int) -> Tensor:
        image, heat = self._images[row], self.heatmaps[row]
        scale = channel_scale(self.settings, heat.device) * constant(GREY_LEVELS, heat.device)
        if image.device.type != "cpu" or image.dtype != torch.uint8:
            pixels = self._bounded(row).permute(1, 0, 2) * scale.view(3, 1, 1) * heat
            pixels = pixels.add_(image, alpha=1 if image.dtype == torch.uint8 else 255)
            eight_bits = pixels.round_().clamp_(0, 255).to(torch.uint8)
            return torch.stack(tuple(eight_bits), dim=2)
        at_full_size = self.settings.delta_size == "image"
        value = self.parameters[row].detach() if at_full_size else self._bounded(row)
        takes_tanh = at_full_size and self.settings.use_tanh
        released = torch.empty(*heat.shape[1:], 3, dtype=torch.uint8)
        kernels.render(
            value.numpy(), heat[0].numpy(), scale.numpy(), takes_tanh, image.numpy(), released.numpy()
        )
        return released


@torch.no_grad()
def _start(delta: Tensor, seed: int) -> Tensor:
    """Draw the start of δ on the CPU, so that it is the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    if delta.device.type == "cpu":
        return delta.detach().normal_(0, INITIAL_STD, generator=generator)
    return delta.detach().copy_(torch.empty(delta.shape).normal_(0, INITIAL_STD, generator=generator))
