"""torchmetrics classes over the pure functions of copy detection, for use across batches and ranks."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric

from aindex.evaluation.copy_detection import micro_average_precision, recall_at_precision


class _PooledPairsMetric(Metric):
    """Collects pairs; the ranks' pairs are concatenated before anything is computed."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    scores: list[Tensor]
    is_true: list[Tensor]
    number_of_true_pairs: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Both lists are float32: a rank without pairs takes part in the gather with an empty float tensor
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("is_true", default=[], dist_reduce_fx="cat")
        self.add_state("number_of_true_pairs", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, scores: Tensor, is_true: Tensor, number_of_true_pairs: int) -> None:
        """Add the pairs of some queries.

        Args:
            scores: n scores.
            is_true: n booleans.
            number_of_true_pairs: true pairs of these queries, also those not retrieved.
        """
        self.scores.append(scores.detach().flatten().float())
        self.is_true.append(is_true.detach().flatten().float())
        self.number_of_true_pairs = self.number_of_true_pairs + number_of_true_pairs

    def _pairs(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], int]:
        # one rank holds a list, synchronised ones a tensor
        scores, true = (
            state if isinstance(state, Tensor) else torch.cat(state) if state else torch.empty(0)
            for state in (self.scores, self.is_true)
        )
        return scores.cpu().numpy(), true.cpu().numpy() > 0, int(self.number_of_true_pairs)


class MicroAveragePrecision(_PooledPairsMetric):
    """`micro_average_precision` over all updates and ranks."""

    def compute(self) -> Tensor:
        """µAP as a float64 scalar."""
        return torch.tensor(micro_average_precision(*self._pairs()), dtype=torch.float64)


class RecallAtPrecision(_PooledPairsMetric):
    """`recall_at_precision` over all updates and ranks.

    Args:
        precision: the precision to keep, 0 to 1.
    """

    def __init__(self, precision: float = 0.9) -> None:
        super().__init__()
        self.precision = precision

    def compute(self) -> Tensor:
        """Recall as a float64 scalar."""
        return torch.tensor(recall_at_precision(*self._pairs(), self.precision), dtype=torch.float64)
