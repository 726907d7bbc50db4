"""The activation of one batch of images as an optimisation problem over δ."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from aindex.activation.distortion import (
    INITIAL_STD,
    ActivationSettings,
    bounded,
    channel_scale,
    constant,
    heatmap,
)
from aindex.activation.objective import feature_loss, image_loss
from aindex.activation.resampling import Resampler, enlarge, favours_few_kernels
from aindex.descriptors.inference import ExtractorLike, FastExtractor, Precision, fast_extractor
from aindex.descriptors.preprocess import IMAGENET_STD, normalise, resize

_ALIGNMENT = 64
"""Elements at whose multiples an image's part of a flat buffer starts: whole cache lines and vectors."""

# With σ(2δ) in place of tanh(δ) = 2σ(2δ) − 1 (a tenth of its cost on some CPUs), and the map of gains stored
# negative, the change is one addcmul and its derivative one sigmoid_backward times this exact factor.
_TANH_SLOPE = -4.0


class LossTerms(NamedTuple):
    """Losses per image, on the device: when to wait for them is the caller's choice."""

    loss: Tensor
    """B: λ_f · feature_loss + λ_i · image_loss."""
    feature_loss: Tensor
    """B."""
    image_loss: Tensor
    """B; NaN where it was not asked for."""


class _Part:
    """Views of the flat buffers: one image's, W×3×H (R×R×3 with delta_size `input`), or the whole batch's.

    Args:
        kept: buffers of δ, its gradient and the gains.
        scratch: buffers of squashed δ and of the change; shorter than `kept` if all parts share them.
        start: of this part in the buffers.
        shape: of this part.
    """

    def __init__(
        self, kept: Sequence[Tensor], scratch: Sequence[Tensor], start: int, shape: tuple[int, ...]
    ) -> None:
        size = torch.Size(shape).numel()
        self.delta, self.grad, self.gain = (buffer[start : start + size].view(shape) for buffer in kept)
        begin = start if len(scratch[0]) == len(kept[0]) else 0
        self.squashed, self.change = (buffer[begin : begin + size].view(shape) for buffer in scratch)


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
        parameters: δ per image, leaf tensors for the optimiser (see optimizer.make_optimizer); W×3×H, or
            R×R×3 with delta_size `input`.
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
        self._slope = _TANH_SLOPE if settings.use_tanh else 1.0
        self._allocate(batch_size, targets.device)
        self.heatmaps = [self._prepare(row, image) for row, image in enumerate(images)]
        self._low = self._base.clone()
        rows = self._base.permute(0, 3, 1, 2).to(self._extractor.input_dtype, copy=True)  # channels-last
        self._input = rows.requires_grad_()
        self._start(seeds)

    @property
    def _full_size(self) -> bool:
        return self.settings.delta_size == "image"

    def _allocate(self, batch_size: int, device: torch.device) -> None:
        size = self._extractor.input_size
        shapes = [(size, size, 3)] * len(self._images)
        if self._full_size:
            shapes = [(width, 3, height) for _, height, width in (image.shape for image in self._images)]
            self._resamplers = [Resampler(height, width, size, device=device) for width, _, height in shapes]
        starts = [0]
        for shape in shapes:
            starts.append(starts[-1] + -(-torch.Size(shape).numel() // _ALIGNMENT) * _ALIGNMENT)
        # one kernel for all images where a kernel's start costs more than its work
        together = favours_few_kernels(device)
        # full-size images overflow a CPU's cache: there, what δ gives is computed anew rather than kept
        self._recomputes = self._full_size and not together
        largest = max(torch.Size(shape).numel() for shape in shapes)
        scratch_size = largest if self._recomputes else starts[-1]
        kept = [torch.zeros(starts[-1], device=device) for _ in range(3)]
        scratch = [torch.zeros(scratch_size, device=device) for _ in range(2)]
        self._parts = [
            _Part(kept, scratch, start, shape) for start, shape in zip(starts, shapes, strict=False)
        ]
        self._together = _Part(kept, scratch, 0, (starts[-1],)) if together else None
        self.delta = kept[0].detach().requires_grad_()
        self._flat_grad = kept[1]
        self._base = torch.zeros(batch_size, size, size, 3, device=device)

    @torch.no_grad()
    def _prepare(self, row: int, image: Tensor) -> Tensor:
        """Fill in what one image contributes before the loop; returns its heatmap."""
        size = self._extractor.input_size
        image = image.float().div_(255) if image.dtype == torch.uint8 else image
        heat = heatmap(image, self.settings)
        # weights of a resize sum to one: it may go before the normalisation, where there are fewer pixels
        self._base[row] = normalise(resize(image, size)).permute(1, 2, 0)
        self._fill_gain(self._parts[row], heat if self._full_size else resize(heat, size))
        return heat

    def _fill_gain(self, part: _Part, heat: Tensor) -> None:
        scale = channel_scale(self.settings, heat.device)
        if self.settings.use_tanh:
            scale = -scale
        if self._full_size:
            torch.mul(heat[0].t().contiguous().unsqueeze(1), scale.view(3, 1), out=part.gain)  # W×3×H
        else:
            torch.mul(heat[0].unsqueeze(2), scale, out=part.gain)  # R×R×3

    def _start(self, seeds: Sequence[int]) -> None:
        for part, seed in zip(self._parts, seeds, strict=True):
            # drawn on the CPU: the same δ on every device
            noise = torch.randn(part.delta.shape, generator=torch.Generator().manual_seed(seed))
            torch.mul(noise.to(part.delta.device), INITIAL_STD, out=part.delta)
        self.parameters = [part.delta.detach().requires_grad_() for part in self._parts]

    def loss_and_grad(self, *, with_image_loss: bool = True) -> LossTerms:
        """The losses at the present δ; sets the gradients of `parameters` and `delta`.

        Args:
            with_image_loss: compute the image loss's value too; its gradient is always there.
        """
        with torch.no_grad():
            self._pixels_forward()
        distance, grad = self._extractor_forward_backward()
        with torch.no_grad():
            change = self._pixels_backward(grad, with_image_loss=with_image_loss)
        self._attach_gradients()
        loss = self.settings.lambda_f * distance
        if with_image_loss:
            loss = loss + self.settings.lambda_i * change
        return LossTerms(loss, distance, change)

    def _pixels_forward(self) -> None:
        """δ → change of the image → rows of the extractor's input."""
        if self._together:
            self._update_change(self._together)
        for row, part in enumerate(self._parts):
            if not self._together:
                self._update_change(part)
            if self._full_size:
                self._resamplers[row].add_resized(part.change, self._base[row], self._low[row])
            else:
                torch.add(self._base[row], part.change, out=self._low[row])
        self._input.detach().copy_(self._low.permute(0, 3, 1, 2))

    def _update_change(self, part: _Part) -> None:
        if self.settings.use_tanh:
            torch.mul(part.delta, 2, out=part.squashed).sigmoid_()
            torch.addcmul(part.gain, part.gain, part.squashed, value=-2, out=part.change)
        else:
            torch.mul(part.gain, part.delta, out=part.change)

    def _extractor_forward_backward(self) -> tuple[Tensor, Tensor]:
        """Feature losses B, and their slope-scaled gradient to the input, batch_size×R×R×3."""
        # an algorithm of cuDNN that is fast but adds in any order would make two runs differ
        repeatable = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
        with torch.enable_grad(), repeatable:
            descriptors = self._extractor(self._input)[: len(self._parts)]
            distance = feature_loss(descriptors, self._targets, self.settings.loss_f)
            objective = (self._slope * self.settings.lambda_f) * distance.sum()
            (grad,) = torch.autograd.grad(objective, self._input)
        return distance.detach(), grad.permute(0, 2, 3, 1).float().contiguous()

    def _pixels_backward(self, grad: Tensor, *, with_image_loss: bool) -> Tensor:
        """Gradient at the extractor's input → gradient of δ; returns the image losses, B."""
        losses = []
        for row, part in enumerate(self._parts):
            if self._recomputes:
                self._update_change(part)
            penalty = self._slope * self.settings.lambda_i * 2 / part.change.numel()
            if self._full_size:
                self._resamplers[row].add_transposed(grad[row], part.change, penalty, part.grad)
            else:
                torch.add(grad[row], part.change, alpha=penalty, out=part.grad)
            if with_image_loss:
                losses.append(image_loss([part.change]))
            if not self._together:
                self._finish_gradient(part)
        if self._together:
            self._finish_gradient(self._together)
        return torch.cat(losses) if losses else grad.new_full((len(self._parts),), torch.nan)

    def _finish_gradient(self, part: _Part) -> None:
        part.grad.mul_(part.gain)
        if self.settings.use_tanh:
            torch.ops.aten.sigmoid_backward.grad_input(part.grad, part.squashed, grad_input=part.grad)

    def _attach_gradients(self) -> None:
        # an optimiser's zero_grad() detaches them
        self.delta.grad = self._flat_grad
        for parameter, part in zip(self.parameters, self._parts, strict=True):
            parameter.grad = part.grad

    @torch.no_grad()
    def changes(self) -> list[Tensor]:
        """x' − x per image in normalised space at its own size, 3×H×W, float32."""
        return [self._change(row, (1.0, 1.0, 1.0)) for row in range(len(self._parts))]

    def _change(self, row: int, units: tuple[float, ...]) -> Tensor:
        """Change of one image, 3×H×W, its channels multiplied by `units`."""
        part, heat = self._parts[row], self.heatmaps[row]
        factor = constant(units, heat.device).view(3, 1, 1)
        if self._full_size:
            self._update_change(part)
            planes = part.change.flatten(1).t().contiguous().view(3, *heat.shape[1:])  # from W×3×H
            return planes.mul_(factor)
        scale = channel_scale(self.settings, heat.device)
        value = bounded(part.delta, self.settings) * (scale * factor.view(3))
        return enlarge(value, *heat.shape[1:]).mul_(heat)

    @torch.no_grad()
    def render(self) -> list[Tensor]:
        """The released images: H×W×3 uint8 each, un-normalised, clamped, rounded."""
        grey_levels = tuple(255 * std for std in IMAGENET_STD)
        rendered = []
        for row, image in enumerate(self._images):
            pixels = self._change(row, grey_levels)
            pixels = pixels.add_(image) if image.dtype == torch.uint8 else pixels.add_(image, alpha=255)
            eight_bits = pixels.round_().clamp_(0, 255).to(torch.uint8)
            rendered.append(torch.stack(tuple(eight_bits), dim=2))
        return rendered
