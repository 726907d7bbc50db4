"""Active image indexing: the loop that changes images until their descriptors lie where the index wants them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Adam, Optimizer

from aindex.activation.canvases import Canvases
from aindex.activation.goals import Goal
from aindex.activation.optimizer import OptimizerFactory, SchedulerFactory, make_optimizer, make_scheduler
from aindex.activation.outcome import Curves, failures, measured
from aindex.activation.settings import ActivationSettings
from aindex.descriptors.inference import ExtractorLike, FastExtractor, fast_extractor


@dataclass(frozen=True)
class Activation:
    """Images after the loop.

    Attributes:
        images: give what is released, and the changes.
        curves: statistics per iteration; None without iterations.
        failures: per image None, or why it must not be released: its change or its loss is no finite number.
    """

    images: Canvases
    curves: Curves | None
    failures: list[str | None]

    def released(self) -> list[Tensor | None]:
        """The images to release, H×W×3 uint8 each; None for those that failed."""
        return self._of_the_others(self.images.released())

    def changes(self) -> list[Tensor | None]:
        """x' − x of each image in normalised space at its own size, 3×H×W; None for those that failed."""
        return self._of_the_others(self.images.changes())

    def _of_the_others(self, values: list[Tensor]) -> list[Tensor | None]:
        return [value if why is None else None for value, why in zip(values, self.failures, strict=True)]


def activate_images(
    images: Sequence[Tensor],
    goal: Goal,
    extractor: ExtractorLike | FastExtractor,
    settings: ActivationSettings | None = None,
    *,
    seeds: Sequence[int],
    batch_size: int | None = None,
    optimizer: OptimizerFactory = lambda deltas: Adam(deltas, lr=1.0),
    scheduler: SchedulerFactory | None = None,
    stepping: Callable[[Optimizer], Callable[[], Any]] = lambda optimizer: optimizer.step,
    with_measures: bool = False,
) -> Activation:
    """Change images so that their descriptors, and those of edited copies, come to lie where the goal wants them.

    An image's result depends on itself, its seed and the settings alone: not on the other images or their order. One
    whose change or loss stops being finite fails, and the others go on.

    Args:
        images: B images, 3×H×W each, of any sizes, in [0, 1] or uint8, on the extractor's device.
        goal: of these B images.
        extractor: as `fast_extractor` prepares it, or anything that it takes.
        settings: the loop's constants; default the published ones.
        seeds: one per image; derive them from what names the image.
        batch_size: rows the extractor sees of each image and each of its views, B or more; missing rows are filled up,
            since kernels round by the number of rows. Default B.
        optimizer: δ of all images → an optimiser of torch or timm; default Adam with lr 1.
        scheduler: optimiser → a schedule, stepped once per iteration.
        stepping: optimiser → what takes a step with it, for those who count steps.
        with_measures: note PSNR and L∞ at every iteration.
    """
    settings, extractor = settings or ActivationSettings(), fast_extractor(extractor)
    batch_size = batch_size or len(images)
    if not 0 < len(images) == len(seeds) <= batch_size:
        raise ValueError(
            f"{len(images)} images, {len(seeds)} seeds, batch size {batch_size}: expected a seed per image, and 1 to "
            "batch size images"
        )
    if any(image.ndim != 3 or image.shape[0] != 3 or not image.numel() for image in images):
        shapes = [tuple(image.shape) for image in images]
        raise ValueError(f"images of the shapes {shapes}: expected 3×H×W, with a pixel or more")
    canvases = Canvases(images, extractor, settings, seeds)
    adam = make_optimizer(optimizer, canvases.deltas)
    step, advance = stepping(adam), make_scheduler(scheduler, adam)
    losses: list[Tensor] = []
    measures: list[Tensor] = []
    for iteration in range(settings.iterations):
        changes = canvases.constrain()  # δ' = h ⊙ α ⊙ tanh δ
        rows = [canvases.add(changes), *canvases.edit(changes)]  # x + δ', and V edited copies of it
        descriptors = describe(rows, extractor, batch_size)  # (1+V)×B×d
        feature_loss = goal(descriptors)
        image_loss = canvases.mean_squares(changes)
        loss = settings.lambda_f * feature_loss + settings.lambda_i * image_loss  # B
        adam.zero_grad()
        with repeatable():
            torch.autograd.backward(loss.sum())
        losses.append(torch.stack([loss, feature_loss, image_loss]).detach())
        if with_measures:
            measures.append(measured(images, canvases.released()))
        step()
        advance(iteration)
    return Activation(canvases, Curves.of(losses, measures), failures(canvases.deltas, losses))


def describe(inputs: Sequence[Tensor], extractor: FastExtractor, batch_size: int) -> Tensor:
    """Descriptors of the images and of their views, (1+V)×B×d, from B×3×R×R each; the rest of a batch is blank."""
    count = len(inputs[0])
    if count < batch_size:
        inputs = [F.pad(some, (0, 0) * 3 + (0, batch_size - count)) for some in inputs]
    rows = [some.to(extractor.input_dtype, memory_format=torch.channels_last) for some in inputs]
    with repeatable():
        descriptors = extractor(torch.cat(rows) if len(rows) > 1 else rows[0])
    return descriptors.view(len(inputs), batch_size, -1)[:, :count]


def repeatable() -> Any:
    """No algorithm of cuDNN that is fast but adds in any order: two runs would differ."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
