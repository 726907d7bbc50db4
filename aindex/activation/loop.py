"""Active image indexing: the loop that changes images until their descriptors lie where the index wants them."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Adam, Optimizer

from aindex.activation.distortion import ActivationSettings, Canvas, mean_square
from aindex.activation.goals import Goal
from aindex.activation.optimizer import OptimizerFactory, SchedulerFactory, make_optimizer, make_scheduler
from aindex.activation.outcome import Curves, measured
from aindex.descriptors.inference import ExtractorLike, FastExtractor, fast_extractor
from aindex.descriptors.preprocess import normalise
from aindex.edits.differentiable import draw, edited
from aindex.parallel import side_by_side

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Activation:
    """Images after the loop.

    Attributes:
        curves: statistics per iteration; None without iterations.
    """

    curves: Curves | None
    _canvases: list[Canvas]
    _deltas: list[Tensor]

    def released(self) -> list[Tensor]:
        """The images to release, H×W×3 uint8 each."""
        pairs = list(zip(self._canvases, self._deltas, strict=True))
        return for_each(lambda pair: pair[0].released(pair[1]), pairs, self._deltas[0].device)

    def changes(self) -> list[Tensor]:
        """x' − x of each image in normalised space at its own size, 3×H×W."""
        return [canvas.full_change(delta) for canvas, delta in zip(self._canvases, self._deltas, strict=True)]


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

    An image's result depends on itself, its seed and the settings alone: not on the other images or their order.

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
    settings = settings or ActivationSettings()
    extractor = fast_extractor(extractor)
    if not 0 < len(images) == len(seeds) <= (batch_size or len(images)):
        raise ValueError(
            f"{len(images)} images, {len(seeds)} seeds, batch size {batch_size}: expected a seed per image, and 1 to "
            "batch size images"
        )
    size, device = extractor.input_size, images[0].device
    canvases = for_each(lambda image: Canvas(image, size, settings), images, device)
    deltas = for_each(lambda i: canvases[i].start(seeds[i]), range(len(images)), device)
    rngs = [random.Random(seed) for seed in seeds]
    stepper = make_optimizer(optimizer, deltas)
    step = stepping(stepper)
    advance = make_scheduler(scheduler, stepper)
    history: list[Tensor] = []
    measures: list[Tensor] = []
    for iteration in range(settings.iterations):
        with repeatable():
            changes = [canvas.change(delta) for canvas, delta in zip(canvases, deltas, strict=True)]
            inputs = [torch.stack([c.input(change) for c, change in zip(canvases, changes, strict=True)])]
            if settings.views:
                pictures = torch.stack(
                    [c.picture(change) for c, change in zip(canvases, changes, strict=True)]
                )
            for _ in range(settings.views):
                views = [draw(r, c.aspect, settings.edits) for r, c in zip(rngs, canvases, strict=True)]
                inputs.append(normalise(edited(pictures, views, size)))
            descriptors = described(inputs, extractor, batch_size or len(images))  # (1+V)×B×d
            feature_loss = goal(descriptors)
            image_loss = torch.stack([mean_square(change) for change in changes])
            loss = settings.lambda_f * feature_loss + settings.lambda_i * image_loss
            stepper.zero_grad()
            torch.autograd.backward(loss.sum())
        history.append(torch.stack([loss, feature_loss, image_loss]).detach())
        if with_measures:
            released = [canvas.released(delta) for canvas, delta in zip(canvases, deltas, strict=True)]
            measures.append(measured(images, released))
        step()
        advance(iteration)
    return Activation(Curves.of(history, measures), canvases, [delta.detach() for delta in deltas])


def described(inputs: Sequence[Tensor], extractor: FastExtractor, batch_size: int) -> Tensor:
    """Descriptors of the images and of their views, (1+V)×B×d, from B×3×R×R each; the rest of the batch is blank."""
    count = len(inputs[0])
    rows = torch.cat([F.pad(some, (0, 0) * 3 + (0, batch_size - count)) for some in inputs])
    rows = rows.to(extractor.input_dtype, memory_format=torch.channels_last)
    return extractor(rows).view(len(inputs), batch_size, -1)[:, :count]


def for_each(function: Callable[[Item], Result], items: Sequence[Item], device: torch.device) -> list[Result]:
    """What a function gives for each item; on a CPU items are treated side by side, a thread each."""
    return side_by_side(function, items) if device.type == "cpu" else [function(item) for item in items]


def repeatable() -> Any:
    """No algorithm of cuDNN that is fast but adds in any order: two runs would differ."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
