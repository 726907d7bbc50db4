"""The threshold between a match and a chance neighbour, from pictures that match nothing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from aindex.data.tables import name_table
from aindex.errors import ConfigError, DataError, FaissIndexError
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


@dataclass(frozen=True)
class Calibration:
    """What was found.

    Attributes:
        threshold: the rule.
        false_positive_rate: share of the non-matching pictures that the rule takes for matches.
        pictures: how many non-matching pictures there were.
        nearest: those of them that lie nearest to a row, worth a look: are they in the index after all?
    """

    threshold: Threshold
    false_positive_rate: float
    pictures: int
    nearest: pd.DataFrame

    def summary(self) -> str:
        """One line for people."""
        return (
            f"threshold {self.threshold.value:.6g} ({self.threshold.kind}): of {self.pictures} non-matching pictures "
            f"{self.false_positive_rate:.2%} would be taken for matches"
        )

    def _repr_html_(self) -> str:
        return f"<p>{self.summary()}</p>{self.nearest.to_html(index=False)}"


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


def check_rate(false_positive_rate: float) -> None:
    """Raise a ConfigError unless it is a share between 0 and 1."""
    if not 0 < false_positive_rate < 1:
        raise ConfigError(
            f"false_positive_rate {false_positive_rate}: expected a share between 0 and 1, for example 0.01"
        )


def require_enough(pictures: int, false_positive_rate: float) -> None:
    """Raise a DataError if so few pictures cannot tell such a rate."""
    needed = math.ceil(1 / false_positive_rate - 1e-9)
    if pictures < needed:
        raise DataError(
            f"{pictures} non-matching pictures cannot tell a false_positive_rate of {false_positive_rate}: expected "
            f"{needed} or more; give more pictures, or a larger rate"
        )


def find_threshold(values: npt.NDArray[np.float32], false_positive_rate: float) -> tuple[float, float]:
    """The most generous threshold that takes at most a share of non-matching pictures for matches.

    Args:
        values: closeness of each non-matching picture's best neighbour, larger is closer; −inf without neighbour.
        false_positive_rate: the share, 0 to 1.

    Returns:
        The threshold (from it on is a match), and the share that it takes for matches.

    Raises:
        ConfigError: no share between 0 and 1.
        DataError: too few pictures to tell.
    """
    check_rate(false_positive_rate)
    require_enough(len(values), false_positive_rate)
    falling = np.sort(values.astype(np.float32))[::-1]
    first_refused = falling[int(false_positive_rate * len(values) + 1e-9)]
    if not np.isfinite(first_refused):
        raise DataError(
            "too few of the non-matching pictures have any neighbour: visit more cells (nprobe), or add rows to the "
            "index"
        )
    threshold = float(np.nextafter(first_refused, np.float32(np.inf), dtype=np.float32))
    return threshold, float((values >= np.float32(threshold)).mean())


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


def calibrate_index(
    index: ReferenceIndex,
    names: Sequence[str],
    distances: npt.NDArray[np.float32],
    ids: Ids,
    *,
    false_positive_rate: float,
    score: ScoreKind,
    nprobe: int,
) -> Calibration:
    """Find the threshold from searches that should find nothing, and note it in the open index.

    Args:
        index: what was searched.
        names: nq non-matching pictures.
        distances: nq×2 or more, closest first.
        ids: likewise.
        false_positive_rate: wanted.
        score: what the threshold is about.
        nprobe: cells that were visited.

    Raises:
        ConfigError, DataError: as `find_threshold`.
    """
    larger = index.larger_is_closer
    closeness = distances[:, 0] if larger else -distances[:, 0]
    if score == "normalised":
        closeness = normalised_scores(distances, ids, larger_is_closer=larger)[:, 0]
    best = np.where((ids[:, 0] >= 0) & ~np.isnan(closeness), closeness, -np.inf).astype(np.float32)
    value, rate = find_threshold(best, false_positive_rate)
    threshold = Threshold(score, -value if score == "distance" and not larger else value)
    order = np.argsort(-best, kind="stable")[:5]
    nearest = name_table(
        {
            "query": [names[i] for i in order],
            "name": [index.names[int(ids[i, 0])] if ids[i, 0] >= 0 else "" for i in order],
            "distance": [float(distances[i, 0]) for i in order],
        }
    )
    index.calibration = {
        "score": score,
        "threshold": threshold.value,
        "wanted_false_positive_rate": false_positive_rate,
        "false_positive_rate": rate,
        "pictures": len(names),
        "nprobe": nprobe,
        "rows": index.pictures,
    }
    return Calibration(threshold, rate, len(names), nearest)
