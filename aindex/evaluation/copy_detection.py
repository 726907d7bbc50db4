"""Copy detection: micro average precision and recall at 90 % precision over all (query, candidate) pairs.

The counting is DISC21's: pairs of all queries are pooled and sorted by score, among equal scores the false
ones come first (ties count against you), and recall is relative to all true pairs, the never retrieved ones
included.
"""

import json
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from aindex.errors import DataError
from aindex.evaluation.retrieval import json_lists, matrix_of

COPY_DETECTION_COLUMNS = ("batch", "image_index", "attack", "retrieved_distances", "retrieved_indices")
NON_MATCHING = -1

Score = Literal["plain", "normalised"]
IndexMetric = Literal["L2", "IP"]


class Pairs(NamedTuple):
    """Pooled (query, candidate) pairs."""

    scores: npt.NDArray[np.float32]
    is_true: npt.NDArray[np.bool_]
    number_of_true_pairs: int


class PrecisionRecallCurve(NamedTuple):
    """Precision and recall after each distinct score, from the highest score down."""

    precision: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]


def _sorted(
    scores: npt.ArrayLike, is_true: npt.ArrayLike, number_of_true_pairs: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Both as vectors, sorted by falling score, false pairs first among equal scores."""
    flat, true = np.ravel(np.asarray(scores, dtype=np.float64)), np.ravel(np.asarray(is_true)).astype(bool)
    if np.isnan(flat).any():
        raise DataError("a score is nan: expected numbers; check the descriptors")
    if number_of_true_pairs < max(1, true.sum()):
        raise DataError(
            f"{number_of_true_pairs} true pairs: expected at least 1 and no less than the {true.sum()} "
            "retrieved; evaluate some activated images"
        )
    order = np.lexsort((true, -flat))
    return flat[order], true[order]


def micro_average_precision(
    scores: npt.ArrayLike, is_true: npt.ArrayLike, number_of_true_pairs: int
) -> float:
    """µAP: the precision at each retrieved true pair, summed and divided by the number of true pairs.

    Args:
        scores: n scores of pairs, higher is more certain.
        is_true: n booleans.
        number_of_true_pairs: all true pairs, also those not among the n.

    Raises:
        DataError: a score is nan, or there are fewer true pairs than retrieved ones or none.
    """
    _, true = _sorted(scores, is_true, number_of_true_pairs)
    precision = np.cumsum(true) / np.arange(1, true.size + 1)
    return float(precision[true].sum() / number_of_true_pairs)


def precision_recall_curve(
    scores: npt.ArrayLike, is_true: npt.ArrayLike, number_of_true_pairs: int
) -> PrecisionRecallCurve:
    """Precision and recall of the pairs at or above each distinct score (see `micro_average_precision`)."""
    ordered, true = _sorted(scores, is_true, number_of_true_pairs)
    last_of_its_score = np.append(ordered[1:] != ordered[:-1], True)[: ordered.size]
    hits = np.cumsum(true)[last_of_its_score]
    pairs = np.arange(1, true.size + 1)[last_of_its_score]
    return PrecisionRecallCurve(hits / pairs, hits / number_of_true_pairs, ordered[last_of_its_score])


def recall_at_precision(
    scores: npt.ArrayLike, is_true: npt.ArrayLike, number_of_true_pairs: int, precision: float = 0.9
) -> float:
    """The largest recall of a score threshold that keeps at least this precision; 0 where none does."""
    curve = precision_recall_curve(scores, is_true, number_of_true_pairs)
    kept = curve.recall[curve.precision >= precision]
    return float(kept.max()) if kept.size else 0.0


def pooled_pairs(
    distances: npt.ArrayLike,
    indices: npt.ArrayLike,
    image_index: npt.ArrayLike,
    *,
    score: Score = "plain",
    metric: IndexMetric = "L2",
) -> Pairs:
    """All (query, candidate) pairs of a search, with their scores.

    Args:
        distances: nq×k, nearest first; similarities where the metric is IP.
        indices: nq×k retrieved ids, -1 for an empty place, which makes no pair.
        image_index: nq true ids, -1 for a query that matches nothing.
        score: `plain` is −distance (or the similarity); `normalised` is the next candidate's distance minus
            this one's, high for a candidate that stands out; the last candidate has no next and makes no pair.
        metric: the index's.

    Raises:
        ValueError: the shapes do not fit.
        DataError: `normalised` with a single candidate per query.
    """
    closeness = np.asarray(distances, dtype=np.float32)
    found, true_ids = np.asarray(indices), np.asarray(image_index)
    if found.ndim != 2 or closeness.shape != found.shape or true_ids.shape != found.shape[:1]:
        raise ValueError(f"distances {closeness.shape}, indices {found.shape}, image_index {true_ids.shape}")
    if metric == "L2":
        closeness = -closeness
    valid = found >= 0
    true = (found == true_ids[:, None]) & (true_ids >= 0)[:, None]
    if score == "normalised":
        if found.shape[1] < 2:
            raise DataError("kneighbors 1: the normalised score expects 2 or more; raise kneighbors")
        # an empty place has an infinite stand-in for a distance: masked before the subtraction
        closeness = np.where(valid, closeness, np.float32(0))
        closeness = closeness[:, :-1] - closeness[:, 1:]
        valid, true = valid[:, :-1] & valid[:, 1:], true[:, :-1]
    return Pairs(closeness[valid], true[valid], int((true_ids >= 0).sum()))


def nearest_closeness(rows: pd.DataFrame, metric: IndexMetric | None = None) -> npt.NDArray[np.float64]:
    """Closeness of each query's best candidate, nq: −distance or similarity; −inf where there is no candidate."""
    distances = matrix_of(rows["retrieved_distances"]).astype(np.float64)
    found = matrix_of(rows["retrieved_indices"])[:, 0]
    closest = distances[:, 0] if (metric or metric_of(distances)) == "IP" else -distances[:, 0]
    return np.where(found >= 0, closest, -np.inf)


def closeness_limit(
    rows: pd.DataFrame, *, rate: float = 0.01, metric: IndexMetric | None = None
) -> float | None:
    """The threshold that the best candidates of at most `rate` of the non-matching queries pass; None without such."""
    strangers = nearest_closeness(rows, metric)[rows["image_index"].to_numpy() < 0]
    if not len(strangers):
        return None
    return float(np.sort(strangers)[::-1][int(rate * len(strangers) + 1e-9)])


def at_limit(rows: pd.DataFrame, limit: float, *, metric: IndexMetric | None = None) -> dict[str, float]:
    """Shares at a fixed threshold: only candidates closer than `limit` count (see `closeness_limit`).

    Returns:
        `false_positives`, a share of the `strangers` (queries that match nothing), and `found`, the share of the
        `copies` whose own picture comes first; nan where there are none.
    """
    taken = nearest_closeness(rows, metric) > limit
    true_ids = rows["image_index"].to_numpy()
    right = taken & (matrix_of(rows["retrieved_indices"])[:, 0] == true_ids)
    strangers = true_ids < 0
    return {
        "false_positives": float(taken[strangers].mean()) if strangers.any() else float("nan"),
        "strangers": int(strangers.sum()),
        "found": float(right[~strangers].mean()) if not strangers.all() else float("nan"),
        "copies": int((~strangers).sum()),
    }


def copy_detection_rows(
    *,
    batch: int,
    image_index: npt.ArrayLike,
    edits: Sequence[Sequence[dict[str, Any]]],
    distances: npt.ArrayLike,
    indices: npt.ArrayLike,
) -> pd.DataFrame:
    """One row per query with the columns of `icd_df.csv`.

    Args:
        batch: the number of the batch.
        image_index: nq ids, -1 for a query that matches nothing.
        edits: per query the drawn edits with their parameters, as JSON can hold them.
        distances: nq×k, nearest first.
        indices: nq×k retrieved ids.

    Raises:
        ValueError: the counts do not fit.
        DataError: a distance is not finite.
    """
    ids = np.asarray(image_index, dtype=np.int64)
    return pd.DataFrame(
        {
            "batch": batch,
            "image_index": ids,
            "attack": [json.dumps(list(drawn), ensure_ascii=False) for drawn in edits],
            "retrieved_distances": json_lists(distances),
            "retrieved_indices": json_lists(indices),
        },
        columns=list(COPY_DETECTION_COLUMNS),
    )


def metric_of(distances: npt.ArrayLike) -> IndexMetric:
    """Which metric made these distances: nearest first, distances rise and similarities fall along a row."""
    steps = np.diff(np.asarray(distances, dtype=np.float64), axis=1)
    return "IP" if steps.size and steps.sum() < 0 else "L2"


def pairs_of_rows(rows: pd.DataFrame, *, score: Score = "plain", metric: IndexMetric | None = None) -> Pairs:
    """The pooled pairs (see `pooled_pairs`) of rows of `icd_df.csv`, read by `read_results` or not written yet.

    Without a metric the order of the distances shows it.

    Raises:
        DataError: there are no rows, or `normalised` with a single candidate per query.
    """
    if rows.empty:
        raise DataError("0 copy detection rows: expected at least one; evaluate some images first")
    distances = matrix_of(rows["retrieved_distances"]).astype(np.float32)
    indices = matrix_of(rows["retrieved_indices"])
    true_ids = rows["image_index"].to_numpy()
    return pooled_pairs(distances, indices, true_ids, score=score, metric=metric or metric_of(distances))


def copy_detection_table(rows: pd.DataFrame, *, metric: IndexMetric | None = None) -> pd.DataFrame:
    """µAP and recall at 90 % precision of both scores (see `pairs_of_rows`).

    Returns:
        A row per score (none for the normalised one where there is a single candidate per query), columns
        `score`, `uap`, `recall_at_p90`, `queries`, `true_pairs`.
    """
    table = []
    scores: tuple[Score, ...] = ("plain", "normalised")
    for score in scores[: matrix_of(rows["retrieved_indices"]).shape[1]]:
        pairs = pairs_of_rows(rows, score=score, metric=metric)
        table.append(
            {
                "score": score,
                "uap": micro_average_precision(*pairs),
                "recall_at_p90": recall_at_precision(*pairs, precision=0.9),
                "queries": len(rows),
                "true_pairs": pairs.number_of_true_pairs,
            }
        )
    return pd.DataFrame(table)
