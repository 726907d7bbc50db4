"""The threshold between a match and a chance neighbour."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from aindex.errors import FaissIndexError
from aindex.index.backend import Ids
from aindex.index.reference_index import ReferenceIndex

ScoreKind = Literal["distance", "normalised"]


@dataclass(frozen=True)
class Threshold:
    """When a neighbour counts as a match.

    Attributes:
        kind: what is compared: the distance (metric IP: the similarity), or the normalised score of the nearest.
        value: a distance up to it is a match; a similarity or a score from it on.
    """

    kind: ScoreKind
    value: float

    def accepts(
        self,
        distances: npt.NDArray[np.float32],
        scores: npt.NDArray[np.float32],
        *,
        larger_is_closer: bool,
    ) -> npt.NDArray[np.bool_]:
        """Which neighbours are matches; of the shape of the arguments, nq×k.

        A normalised threshold is set on first neighbours, so no other one is a match by it: gaps further down are
        of another kind, and each would be one more chance of a false match.
        """
        if self.kind == "normalised":
            accepted = np.asarray(scores >= self.value)
            accepted[:, 1:] = False
            return accepted
        return np.asarray(distances >= self.value if larger_is_closer else distances <= self.value)


NO_THRESHOLD = Threshold("distance", math.nan)
"""Accepts nothing: there is no verdict."""


def normalised_scores(
    distances: npt.NDArray[np.float32], ids: Ids, *, larger_is_closer: bool
) -> npt.NDArray[np.float32]:
    """How much nearer each neighbour is than the next one; NaN for the last one, whose next is not known.

    Args:
        distances: nq×k, closest first.
        ids: nq×k, −1 for an empty place.
        larger_is_closer: distances are similarities.

    Returns:
        nq×k.
    """
    scores = np.full(distances.shape, np.nan, np.float32)
    with np.errstate(over="ignore"):
        steps = distances[:, 1:] - distances[:, :-1]
    known = (ids[:, 1:] >= 0) & (ids[:, :-1] >= 0)
    scores[:, :-1] = np.where(known, -steps if larger_is_closer else steps, np.nan)
    return scores


def stored_threshold(index: ReferenceIndex, nprobe: int | None) -> tuple[Threshold, str]:
    """The threshold that an index was calibrated to, and a word to people where there is none.

    Raises:
        FaissIndexError: the stored calibration is damaged.
    """
    stored = index.calibration
    if stored is None:
        return NO_THRESHOLD, "no verdict: the index is not calibrated (aindex calibrate, or give a threshold)"
    kind, value, probes = stored.get("score"), stored.get("threshold"), stored.get("nprobe")
    if (
        kind not in ("distance", "normalised")
        or not isinstance(value, int | float)
        or not math.isfinite(value)
    ):
        raise FaissIndexError(
            f"the index's calibration {stored!r:.80} is damaged: run aindex calibrate again"
        )
    wanted = index.nprobe if nprobe is None else nprobe
    if probes != wanted:
        return NO_THRESHOLD, (
            f"no verdict: the index was calibrated with nprobe {probes}, the search visits {wanted} (calibrate again, "
            "or give a threshold)"
        )
    return Threshold("normalised" if kind == "normalised" else "distance", float(value)), ""
