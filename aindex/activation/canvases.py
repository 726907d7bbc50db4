"""The images of a batch in the loop."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from aindex.activation.apart import apart
from aindex.activation.canvas import Canvas, Seen
from aindex.activation.settings import ActivationSettings
from aindex.descriptors.inference import FastExtractor
from aindex.descriptors.preprocess import normalise
from aindex.edits.differentiable import Edits, draw, edited, sent
from aindex.parallel import side_by_side

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_PIXELS = 1 << 26
"""How many pixels a GPU treats at a time: each takes some tens of bytes more before the loop."""


def together(images: Sequence[Tensor]) -> list[list[int]]:
    """Which images one canvas treats: on a GPU many, none of them more than twice as wide as another."""
    if images[0].device.type == "cpu":
        return [[i] for i in range(len(images))]
    groups: dict[tuple[torch.dtype, int, int], list[int]] = {}
    pixels: Counter[int] = Counter()
    for i, image in enumerate(images):
        width = image.shape[2].bit_length()
        pixels[width] += image.shape[1] * image.shape[2]
        groups.setdefault((image.dtype, width, pixels[width] // _MOST_PIXELS), []).append(i)
    return list(groups.values())


class Canvases:
    """The images of a batch.

    Args:
        images: B images, 3×H×W each, on one device.
        extractor: what looks at them.
        settings: of the loop.
        seeds: one per image: of δ's start and of the edits.

    Attributes:
        deltas: δ of each image, leaf tensors.
    """

    def __init__(
        self,
        images: Sequence[Tensor],
        extractor: FastExtractor,
        settings: ActivationSettings,
        seeds: Sequence[int],
    ) -> None:
        self._size, self._settings = extractor.input_size, settings
        self._device = images[0].device
        self._members = together(images)
        self._canvases = self._each(
            lambda some: Canvas([images[i] for i in some], self._size, settings, extractor.input_dtype),
            self._members,
        )
        pairs = list(zip(self._canvases, self._members, strict=True))
        self.deltas = self._in_order(
            self._each(lambda pair: pair[0].start([seeds[i] for i in pair[1]]), pairs)
        )
        self._edits = iter(self._drawn(seeds))

    def constrain(self) -> list[Seen]:
        """The present changes, h ⊙ α ⊙ tanh δ within the budget, as each canvas shows those of its images."""
        if self._device.type == "cpu" and len(self._canvases) == len(self.deltas):
            return apart(self._canvases, [self.deltas[i] for (i,) in self._members])
        return [canvas.seen(deltas) for canvas, deltas in self._with_deltas()]

    def mean_squares(self, changes: Sequence[Seen]) -> Tensor:
        """Of each image's change, B."""
        return self._joined([change.mean_squares for change in changes])

    def add(self, changes: Sequence[Seen]) -> Tensor:
        """What the extractor sees of the changed images, B×3×R×R."""
        return self._joined([change.inputs for change in changes])

    def edit(self, changes: Sequence[Seen]) -> list[Tensor]:
        """What it sees of randomly edited copies of them, B×3×R×R for each view."""
        if not self._settings.views:
            return []
        pictures = self._joined([change.pictures for change in changes if change.pictures is not None])
        views = self._settings.views
        copies = edited(pictures.repeat(views, 1, 1, 1), next(self._edits), self._size)
        return list(normalise(copies).chunk(views))

    def _drawn(self, seeds: Sequence[int]) -> list[Edits]:
        """The edits of all views of each iteration, before the loop: sending them waits for a GPU."""
        aspects = self._in_order([canvas.aspects for canvas in self._canvases])
        images = [(random.Random(seed), aspect) for seed, aspect in zip(seeds, aspects, strict=True)]
        return sent(
            [
                [
                    draw(rng, aspect, self._settings.edits)
                    for _ in range(self._settings.views)
                    for rng, aspect in images
                ]
                for _ in range(self._settings.iterations)
            ],
            self._device,
        )

    def changes(self) -> list[Tensor]:
        """x' − x of each image in normalised space at its own size, 3×H×W."""
        return self._in_order(self._each(lambda pair: pair[0].full_changes(pair[1]), self._with_deltas()))

    def released(self) -> list[Tensor]:
        """The images to release, H×W×3 uint8 each."""
        return self._in_order(self._each(lambda pair: pair[0].released(pair[1]), self._with_deltas()))

    def _with_deltas(self) -> list[tuple[Canvas, list[Tensor]]]:
        members = [[self.deltas[i] for i in some] for some in self._members]
        return list(zip(self._canvases, members, strict=True))

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        """A row for each image, in the images' order, from rows of each canvas."""
        numbers = [i for some in self._members for i in some]
        if numbers == sorted(numbers):
            return torch.cat(list(parts))
        return torch.stack(self._in_order([part.unbind() for part in parts]))

    def _in_order(self, parts: Sequence[Sequence[Item]]) -> list[Item]:
        """What there is of the images of each canvas, in the images' order."""
        numbers = [i for some in self._members for i in some]
        items = dict(zip(numbers, (item for part in parts for item in part), strict=True))
        return [items[i] for i in range(len(items))]

    def _each(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """What a function gives for each item; on a CPU they are treated side by side, a thread each."""
        if self._device.type == "cpu":
            return side_by_side(function, items)
        return [function(item) for item in items]
