"""Set an index's threshold from pictures that match nothing in it."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from aindex.collection.equipment import SHIPPED, Visits, index_folder, open_equipment, visited_cells
from aindex.data.tables import name_table
from aindex.descriptors.extraction import ExtractionSettings
from aindex.descriptors.extractor import Extractor
from aindex.descriptors.sources import Source, describe, picture_paths
from aindex.errors import ConfigError, DataError
from aindex.index.reference_index import ReferenceIndex
from aindex.matching.threshold import ScoreKind, Threshold, normalised_scores


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


def calibrate(
    index: ReferenceIndex | Path | str,
    negatives: Source,
    *,
    false_positive_rate: float = 0.01,
    score: ScoreKind = "distance",
    nprobe: Visits | None = "auto",
    extractor: Extractor | Path | str | None = None,
    resize_size: int | None = None,
    settings: ExtractionSettings | None = None,
) -> Calibration:
    """Set the threshold of a match from pictures that match nothing, and keep it in the index folder.

    Args:
        index: the index folder; an index that is open keeps it until it is saved.
        negatives: pictures without an original in the index, as queries will look: a folder, a list file, a folder
            that `aindex extract` made, or a descriptor file. As many as 1 / false_positive_rate, better ten times that.
        false_positive_rate: share of such pictures that may be taken for matches.
        score: what is compared: `distance` to the best match, or `normalised`, how much nearer it is than the next.
        nprobe: coarse cells that searches will visit: a number, null (None) for the index's own, or auto: as many as
            hold some twenty thousand rows. Searches that choose by themselves take the same.
        extractor: name or path, or one in use (default: the one that the index names).
        resize_size: side of the extractor's square input, pixels (default: the index's).
        settings: device, precision and batch size.

    Raises:
        AindexError: too few pictures for the rate, no such index, or it cannot be written.
    """
    if str(index) == SHIPPED:
        raise ConfigError(
            "the index that comes with aindex is not written to: make one of your own with aindex index build --like "
            "shipped, and calibrate that"
        )
    equipment = open_equipment(index, extractor, resize_size=resize_size, settings=settings)
    opened = equipment.index
    if opened.pictures < 2:
        raise DataError(
            f"an index of {opened.pictures} rows cannot be calibrated: expected 2 or more; add pictures"
        )
    pictures = picture_paths(negatives)
    _check_rate(false_positive_rate, None if pictures is None else len(pictures))
    if nprobe == "auto":
        opened.calibration = None  # chosen anew
    nprobe = visited_cells(opened, nprobe)
    opened.check_search(2, nprobe)
    described = describe(negatives, equipment.extractor, None, equipment.settings)
    distances, ids = opened.search(described.descriptors, 2, nprobe)
    larger = opened.larger_is_closer
    closeness = distances[:, 0] if larger else -distances[:, 0]
    if score == "normalised":
        closeness = normalised_scores(distances, ids, larger_is_closer=larger)[:, 0]
    best = np.where((ids[:, 0] >= 0) & ~np.isnan(closeness), closeness, -np.inf).astype(np.float32)
    value, rate = find_threshold(best, false_positive_rate)
    threshold = Threshold(score, -value if score == "distance" and not larger else value)
    opened.calibration = {
        "score": score,
        "threshold": threshold.value,
        "wanted_false_positive_rate": false_positive_rate,
        "false_positive_rate": rate,
        "pictures": len(described.names),
        "nprobe": opened.nprobe if nprobe is None else nprobe,
        "rows": opened.pictures,
    }
    if not isinstance(index, ReferenceIndex):
        opened.save(index_folder(index))
    order = np.argsort(-best, kind="stable")[:5]
    nearest = name_table(
        {
            "query": [described.names[i] for i in order],
            "name": [opened.names[int(ids[i, 0])] if ids[i, 0] >= 0 else "" for i in order],
            "distance": [float(distances[i, 0]) for i in order],
        }
    )
    return Calibration(threshold, rate, len(described.names), nearest)


def _check_rate(false_positive_rate: float, pictures: int | None) -> None:
    if not 0 < false_positive_rate < 1:
        raise ConfigError(
            f"false_positive_rate {false_positive_rate}: expected a share between 0 and 1, for example 0.01"
        )
    needed = math.ceil(1 / false_positive_rate - 1e-9)
    if pictures is not None and pictures < needed:
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
    _check_rate(false_positive_rate, len(values))
    falling = np.sort(values.astype(np.float32))[::-1]
    first_refused = falling[int(false_positive_rate * len(values) + 1e-9)]
    if not np.isfinite(first_refused):
        raise DataError(
            "too few of the non-matching pictures have any neighbour: visit more cells (nprobe), or add rows to the "
            "index"
        )
    threshold = float(np.nextafter(first_refused, np.float32(np.inf), dtype=np.float32))
    return threshold, float((values >= np.float32(threshold)).mean())
