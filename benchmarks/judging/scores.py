"""From answers and scores to the columns of the table."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt


def threshold(strange_scores: npt.NDArray[np.float64], rate: float) -> float:
    """The score that must be exceeded, so that no more than a share of the pictures that match nothing exceed it.

    Args:
        strange_scores: s, larger is surer; −∞ for those that were called copies of nothing.
        rate: the share.
    """
    allowed = int(rate * len(strange_scores))
    return float(np.sort(strange_scores)[::-1][allowed])


def recall_at_rate(
    found: npt.NDArray[np.bool_],
    scores: npt.NDArray[np.float64],
    strange_scores: npt.NDArray[np.float64],
    rate: float,
) -> npt.NDArray[np.bool_]:
    """m×A: which copies are found with a score above the threshold."""
    return found & (scores > threshold(strange_scores, rate))


def averages(per_attack: Mapping[str, float], seen: list[str], unseen: list[str]) -> dict[str, float]:
    """Means over the default edits and over those that no loop is trained against."""
    return {
        "default": float(np.mean([per_attack[name] for name in seen])),
        "unseen": float(np.mean([per_attack[name] for name in unseen])) if unseen else float("nan"),
    }


def mean_of_finite(values: list[float]) -> float:
    """Mean of what is finite; infinite if nothing is (a picture that stays as it is has no PSNR)."""
    finite = np.array(values)[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("inf")


def losses_between(found: npt.NDArray[np.bool_], others: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Places (picture, edit) that are not found here and are found there, of the pictures that both saw."""
    count = min(len(found), len(others))
    return [tuple(map(int, place)) for place in np.argwhere(~found[:count] & others[:count])]


def as_json(value: Any) -> Any:
    """Numbers that JSON has not are left out: null."""
    if isinstance(value, dict):
        return {key: as_json(one) for key, one in value.items()}
    if isinstance(value, list):
        return [as_json(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
