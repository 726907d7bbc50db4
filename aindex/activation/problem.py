"""The activation of one batch of images as an optimisation problem over δ."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from aindex.activation.distortion import INITIAL_STD, ActivationSettings, bounded, channel_gain, heatmap
from aindex.activation.objective import feature_loss, image_loss
from aindex.activation.resampling import Resampler
from aindex.descriptors.inference import ExtractorLike, FastExtractor, Precision, fast_extractor
from aindex.descriptors.preprocess import IMAGENET_STD, normalise, resize

_ALIGNMENT = 64
"""Elements at whose multiples an image's part of a flat buffer starts: whole cache lines and vectors."""


class LossTerms(NamedTuple):
    """Losses per image, on the device: when to wait for them is the caller's choice."""

    loss: Tensor
    """B: λ_f · feature_loss + λ_i · image_loss."""
    feature_loss: Tensor
    """B."""
    image_loss: Tensor
    """B; NaN where it was not asked for."""


class _Part:
    """One image's views of the flat buffers, 3×H×W each (3×R×R with delta_size `input`)."""

    def __init__(self, problem: "ActivationProblem", start: int, shape: tuple[int, ...]) -> None:
        stop = start + shape[0] * shape[1] * shape[2]
        self.delta = problem._values[start:stop].view(shape)
        self.grad = problem._grad[start:stop].view(shape)
        self.gain = problem._gain[start:stop].view(shape)
        self.bounded = problem._bounded[start:stop].view(shape)
        self.change = problem._change[start:stop].view(shape)
        self.penalty = 2 * problem.settings.lambda_i / (stop - start)


class ActivationProblem:
    """δ of a batch of images, and the gradient of the loss with respect to it.

    The gradient through resize, product and tanh is written out by hand; autograd sees the extractor alone.
    Every operation on pixels treats one image at a time and the extractor always gets `batch_size` rows, so
    the numbers of an image do not depend on the other images of its batch, its place in it, or its fill.

    Args:
        images: 3×H×W each, of any sizes, in [0, 1] (or uint8), on the extractor's device.
        targets: B×d.
        extractor: prepared by fast_extractor(), once for all batches; any other is prepared here.
        settings: the loop's constants.
        seeds: one per image, for the start of δ; derive them from what names the image.
        batch_size: rows the extractor sees, B or more; missing rows are filled up.
        precision: used if the extractor is not prepared yet.

    Attributes:
        parameters: δ per image, leaf tensors for the optimiser (see optimizer.make_optimizer).
        delta: the same memory as one flat leaf tensor.
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
        if not len(images) == len(targets) == len(seeds) or len(images) > batch_size:
            raise ValueError(
                f"{len(images)} images, {len(targets)} targets, {len(seeds)} seeds, batch size {batch_size}: "
                "expected one target and seed per image and no more images than the batch size"
            )
        self.settings = settings
        self._extractor = fast_extractor(extractor, precision=precision)
        self._images = [image.float() / 255 if image.dtype == torch.uint8 else image for image in images]
        self._targets = targets.float()
        self.heatmaps = [heatmap(image, settings) for image in self._images]
        self._allocate(targets.device)
        self._prepare_input(batch_size)
        self._start(seeds)

    def _allocate(self, device: torch.device) -> None:
        size = self._extractor.input_size
        shapes = [image.shape for image in self._images]
        if self.settings.delta_size == "input":
            shapes = [torch.Size((3, size, size))] * len(shapes)
        starts = [0]
        for shape in shapes:
            starts.append(starts[-1] + -(-shape.numel() // _ALIGNMENT) * _ALIGNMENT)
        flat = [torch.zeros(starts[-1], device=device) for _ in range(5)]
        self._values, self._grad, self._gain, self._bounded, self._change = flat
        self._parts = [_Part(self, start, tuple(shape)) for start, shape in zip(starts, shapes, strict=False)]
        self._resamplers = [Resampler(s[1], s[2], size, device=device) for s in shapes]

    @torch.no_grad()
    def _prepare_input(self, batch_size: int) -> None:
        size = self._extractor.input_size
        self._base = self._values.new_zeros(batch_size, 3, size, size)
        for row, (image, heat) in enumerate(zip(self._images, self.heatmaps, strict=True)):
            self._base[row] = resize(normalise(image.float()), size)
            low_heat = resize(heat, size) if self.settings.delta_size == "input" else heat
            self._parts[row].gain.copy_(channel_gain(low_heat, self.settings))
        self._input = self._base.clone().requires_grad_()

    def _start(self, seeds: Sequence[int]) -> None:
        # drawn on the CPU: the same δ on every device
        for part, seed in zip(self._parts, seeds, strict=True):
            noise = torch.randn(part.delta.shape, generator=torch.Generator().manual_seed(seed))
            part.delta.copy_(INITIAL_STD * noise)
        self.delta = self._values.detach().requires_grad_()
        self.parameters = [part.delta.detach().requires_grad_() for part in self._parts]

    def loss_and_grad(self, *, with_image_loss: bool = True) -> LossTerms:
        """The losses at the present δ; sets the gradients of `parameters` and `delta`.

        Args:
            with_image_loss: compute the image loss's value too; its gradient is always there.
        """
        with torch.no_grad():
            for row, part in enumerate(self._parts):
                self._pixels_forward(row, part)
        with torch.enable_grad():
            descriptors = self._extractor(self._input)[: len(self._parts)]
            distance = feature_loss(descriptors, self._targets, self.settings.loss_f)
            (grad,) = torch.autograd.grad(self.settings.lambda_f * distance.sum(), self._input)
        with torch.no_grad():
            for row, part in enumerate(self._parts):
                self._pixels_backward(grad[row], row, part)
        self._attach_gradients()
        distance = distance.detach()
        if not with_image_loss:
            return LossTerms(
                self.settings.lambda_f * distance, distance, torch.full_like(distance, torch.nan)
            )
        change = image_loss([part.change for part in self._parts])
        return LossTerms(
            self.settings.lambda_f * distance + self.settings.lambda_i * change, distance, change
        )

    def _terms(self, distance: Tensor, with_image_loss: bool) -> LossTerms:
        loss = self.settings.lambda_f * distance
        if not with_image_loss:
            return LossTerms(loss, distance, torch.full_like(distance, torch.nan))
        change = image_loss([part.change for part in self._parts])
        return LossTerms(loss + self.settings.lambda_i * change, distance, change)

    def _pixels_forward(self, row: int, part: _Part) -> None:
        if self.settings.use_tanh:
            torch.tanh(part.delta, out=part.bounded)
        else:
            part.bounded.copy_(part.delta)
        torch.mul(part.gain, part.bounded, out=part.change)
        change = part.change
        if self.settings.delta_size == "image":
            change = self._resamplers[row].forward(change)
        torch.add(self._base[row], change, out=self._input[row])

    def _pixels_backward(self, grad: Tensor, row: int, part: _Part) -> None:
        if self.settings.delta_size == "image":
            grad = self._resamplers[row].transpose(grad)
        torch.add(grad, part.change, alpha=part.penalty, out=part.grad)
        part.grad.mul_(part.gain)
        if self.settings.use_tanh:
            torch.ops.aten.tanh_backward.grad_input(part.grad, part.bounded, grad_input=part.grad)

    def _attach_gradients(self) -> None:
        # zero_grad() detaches them
        self.delta.grad = self._grad
        for parameter, part in zip(self.parameters, self._parts, strict=True):
            parameter.grad = part.grad

    @torch.no_grad()
    def changes(self) -> list[Tensor]:
        """x' − x per image in normalised space at its own size, 3×H×W, float32."""
        result = []
        for part, heat in zip(self._parts, self.heatmaps, strict=True):
            value = bounded(part.delta, self.settings)
            if value.shape[1:] != heat.shape[1:]:
                value = F.interpolate(
                    value.unsqueeze(0), size=heat.shape[1:], mode="bilinear", antialias=True
                ).squeeze(0)
            result.append(channel_gain(heat, self.settings) * value)
        return result

    @torch.no_grad()
    def render(self) -> list[Tensor]:
        """The released images: H×W×3 uint8 each, un-normalised, clamped, rounded."""
        rendered = []
        for image, change in zip(self._images, self.changes(), strict=True):
            pixels = image + change * change.new_tensor(IMAGENET_STD).view(3, 1, 1)
            eight_bits = pixels.clamp_(0, 1).mul_(255).round_().to(torch.uint8)
            rendered.append(eight_bits.permute(1, 2, 0).contiguous())
        return rendered
