"""What the loop draws descriptors to: the published target, or the place where the index files the image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from aindex.errors import ConfigError
from aindex.index.choices import Choices
from aindex.index.quantiser import Quantiser, Target

FeatureLoss = Literal["cossim", "mse", "assignment"]

_TOGETHER = 64
"""How many images a GPU treats at a time, so that products round alike however many there are."""

_NEVER = -1e9
"""Logarithm of what has no probability; finite, so that where nothing is left gradients are 0."""


class Goal(Protocol):
    """How far the descriptors of each image are from where they should be.

    Attributes:
        targets: B×r×d, the points that the image's own descriptor is drawn to the nearest of.
    """

    @property
    def targets(self) -> Tensor:
        """B×r×d."""

    def __call__(self, descriptors: Tensor) -> Tensor:
        """Losses of B images.

        Args:
            descriptors: (1+V)×B×d, of the images themselves and of V edited copies of each; differentiable.

        Returns:
            B: of the image, plus the mean over its copies. No image's depends on the others.
        """


@dataclass(frozen=True)
class TargetGoal:
    """A point in descriptor space for each image, or the nearest of several.

    Attributes:
        targets: B×r×d.
        kind: `cossim` = minus the cosine similarity; `mse` = squared Euclidean distance, summed over d.
    """

    targets: Tensor
    kind: Literal["cossim", "mse"] = "cossim"

    def __call__(self, descriptors: Tensor) -> Tensor:
        """(1+V)×B×d → B."""
        rows = descriptors.unsqueeze(-2)  # (1+V)×B×1×d
        if self.kind == "cossim":
            return image_and_copies(-F.cosine_similarity(rows, self.targets, dim=-1).amax(dim=-1))
        return image_and_copies((rows - self.targets).square().sum(dim=-1).amin(dim=-1))


@dataclass(frozen=True)
class AssignmentGoal:
    """Minus the log-probability that the index files a descriptor where the image's own row lies.

    The probability is a softmax over the index's own choices (coarse cells, codewords, bits) of their scores over a
    temperature; of several choices it is the product. Within a cell the code tells rows apart, so the image itself,
    not its copies, is drawn to the nearest of its codes as well: 1 − cosine similarity is added. And image and copies
    may be held where the row's own descriptor lies: an index that is trained anew draws its borders elsewhere.

    Attributes:
        choices: what the index chooses among.
        right: B×M×r, numbers of the points that count as right, one for each row of the image.
        targets: B×r×d, what the index stores for these rows, decoded.
        rows: B×r×d, the descriptors that the rows are made of.
        temperature: of the softmax, in squared distances.
        anchor: weight of 1 − cosine similarity to the nearest of `rows`.
        nprobe: cells that a search visits: a right cell need only be among so many.
    """

    choices: Choices
    right: Tensor
    targets: Tensor
    rows: Tensor
    temperature: float = 0.05
    anchor: float = 0.0
    nprobe: int = 1

    def __call__(self, descriptors: Tensor) -> Tensor:
        """(1+V)×B×d → B."""
        # a matrix product rounds each row by how many there are
        size = 1 if descriptors.device.type == "cpu" else _TOGETHER
        fill = (0, 0, 0, 0, 0, -len(self.right) % size)
        given = (descriptors.transpose(0, 1), self.right)
        rows, right = (torch.split(F.pad(some, fill), size) for some in given)
        outside = torch.cat([self._outside(*pair) for pair in zip(rows, right, strict=True)])
        outside = outside[: len(self.right)].T  # (1+V)×B
        away = 1 - F.cosine_similarity(descriptors.unsqueeze(-2), self.rows, dim=-1).amax(dim=-1)
        near = F.cosine_similarity(descriptors[0].unsqueeze(-2), self.targets, dim=-1).amax(dim=-1)
        return image_and_copies(outside + self.anchor * away) + 1 - near

    def _outside(self, rows: Tensor, right: Tensor) -> Tensor:
        """Minus log-probabilities of n images' descriptors, n×(1+V)×d → n×(1+V), from n×(1+V)×M×K scores."""
        scores = self.choices.scores(rows, right) / self.temperature
        is_right = torch.zeros(*right.shape[:2], scores.shape[-1], dtype=torch.bool, device=scores.device)
        is_right = is_right.scatter_(2, right, True)[:, None]  # n×1×M×K
        inside = scores.masked_fill(~is_right, _NEVER).logsumexp(dim=-1)
        others = scores.masked_fill(is_right, _NEVER)
        if self.nprobe > 1:
            # the nearest wrong cells do no harm as long as they are fewer than a search visits
            harmless = others.topk(min(self.nprobe - 1, others.shape[-1]), dim=-1).indices
            others = others.scatter(-1, harmless, _NEVER)
        return F.softplus(others.logsumexp(dim=-1) - inside).sum(dim=-1)


def image_and_copies(losses: Tensor) -> Tensor:
    """(1+V)×B → B: the image's own loss plus the mean of its copies'."""
    return losses[0] if len(losses) == 1 else losses[0] + losses[1:].mean(dim=0)


class GoalMaker:
    """Makes the goals of one index.

    Args:
        quantiser: of the index.
        loss_f: `cossim` or `mse` to a target, or `assignment`.
        target: which target (see `Quantiser.targets`); `assignment` has none.
        temperature: of `assignment`.
        anchor: of `assignment`.
        nprobe: cells that searches will visit, for `assignment`.
        device: of the descriptors.

    Raises:
        ConfigError: the loss does not suit the index.
        FaissIndexError: the index makes no choices.
    """

    def __init__(
        self,
        quantiser: Quantiser,
        *,
        loss_f: FeatureLoss = "cossim",
        target: Target = "pq_recons",
        temperature: float = 0.05,
        anchor: float = 0.0,
        nprobe: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        if loss_f == "mse" and target == "pq_recons" and quantiser.loses_norms:
            raise ConfigError(
                "model.loss_f 'mse' with an index of bits, whose codes keep no norm: expected cossim, which compares "
                "directions, or assignment"
            )
        self._quantiser, self._loss_f, self._target = quantiser, loss_f, target
        self._temperature, self._anchor, self._nprobe, self._device = temperature, anchor, nprobe, device
        self._choices = quantiser.choices().to(device) if loss_f == "assignment" else None

    def __call__(self, rows: Sequence[Tensor]) -> Goal:
        """The goal of a batch.

        Args:
            rows: per image r×d float32, the descriptors that its rows in the index are made of; mostly r = 1, the
                unchanged image's own.
        """
        most = max(len(some) for some in rows)
        # an image with fewer rows has its first one several times
        padded = torch.cat([torch.cat([some, some[:1].expand(most - len(some), -1)]) for some in rows]).cpu()
        shape = (len(rows), most, -1)
        if self._loss_f != "assignment":
            targets = self._quantiser.targets(padded, self._target).view(shape)
            return TargetGoal(targets.to(self._device), self._loss_f)
        assert self._choices is not None
        right = torch.from_numpy(self._quantiser.right_choices(padded)).view(shape)  # B×r×M
        stored = torch.from_numpy(self._quantiser.stored(padded)).view(shape)
        return AssignmentGoal(
            self._choices,
            right.transpose(1, 2).contiguous().to(self._device),
            stored.to(self._device),
            padded.view(shape).to(self._device),
            self._temperature,
            self._anchor,
            self._nprobe,
        )
