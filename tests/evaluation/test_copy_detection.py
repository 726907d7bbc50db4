import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from aindex.errors import DataError
from aindex.evaluation.copy_detection import (
    COPY_DETECTION_COLUMNS,
    at_limit,
    closeness_limit,
    copy_detection_rows,
    copy_detection_table,
    metric_of,
    micro_average_precision,
    pooled_pairs,
    precision_recall_curve,
    recall_at_precision,
)
from aindex.evaluation.retrieval import read_results
from aindex.evaluation.run_files import Results

# Worked out by hand: sorted truths 1 0 1 0 1, so the precisions at the true pairs are 1, 2/3, 3/5.
SCORES = [0.9, 0.1, 0.5, 0.3, 0.7]
TRUTHS = [True, True, True, False, False]


def test_micro_average_precision_by_hand():
    assert micro_average_precision(SCORES, TRUTHS, 3) == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)


def test_true_pairs_that_were_never_retrieved_count():
    assert micro_average_precision(SCORES, TRUTHS, 5) == pytest.approx((1 + 2 / 3 + 3 / 5) / 5)
    assert precision_recall_curve(SCORES, TRUTHS, 5).recall[-1] == pytest.approx(3 / 5)


@pytest.mark.parametrize("truths", [[True, False, False], [False, True, False], [False, False, True]])
def test_ties_count_against_you_in_any_order(truths):
    assert micro_average_precision([0.5, 0.5, 0.5], truths, 1) == pytest.approx(1 / 3)


def test_ties_are_harsher_than_scikit_learn():
    assert micro_average_precision([0.5] * 4, [True, True, False, False], 2) == pytest.approx(
        (1 / 3 + 2 / 4) / 2
    )
    assert average_precision_score([1, 1, 0, 0], [0.5] * 4) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(5))
def test_equals_scikit_learn_without_ties_and_losses(seed):
    rng = np.random.default_rng(seed)
    scores, truths = rng.permutation(200) / 200, rng.random(200) < 0.2
    expected = average_precision_score(truths, scores)
    assert micro_average_precision(scores, truths, truths.sum()) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_equals_a_plain_loop_with_ties_and_losses(seed):
    rng = np.random.default_rng(seed)
    scores, truths = rng.integers(0, 8, 60), rng.random(60) < 0.4
    hits, total = 0, 0.0
    for place, (_, true) in enumerate(sorted(zip(-scores, truths, strict=True)), start=1):
        hits += true
        total += true * hits / place
    assert micro_average_precision(scores, truths, 40) == pytest.approx(total / 40)


def test_curve_has_a_point_per_distinct_score():
    curve = precision_recall_curve([3, 2, 2, 1], [True, True, False, False], 2)
    assert curve.scores.tolist() == [3, 2, 1]
    assert curve.precision.tolist() == pytest.approx([1, 2 / 3, 2 / 4])
    assert curve.recall.tolist() == pytest.approx([1 / 2, 1, 1])


def test_recall_at_precision():
    scores, truths = list(range(20, 0, -1)), [True] * 9 + [False] + [True] * 9 + [False]
    assert recall_at_precision(scores, truths, 20, 0.9) == pytest.approx(18 / 20)  # 18 of 19
    assert recall_at_precision(scores, truths, 20, 0.99) == pytest.approx(9 / 20)
    assert recall_at_precision([2, 1], [False, True], 1, 0.9) == 0


def test_no_threshold_parts_equal_scores():
    # the first of the tied true pairs would be at precision 1 if the tie could be cut
    assert recall_at_precision([1, 1], [True, False], 1, 0.9) == 0


def test_no_retrieved_pair_scores_zero():
    assert micro_average_precision([], [], 3) == 0
    assert recall_at_precision([], [], 3) == 0


@pytest.mark.parametrize("count", [0, 2])
def test_too_few_true_pairs_are_an_error(count):
    with pytest.raises(DataError, match=f"{count} true pairs"):
        micro_average_precision(SCORES, TRUTHS, count)


def test_nan_is_an_error():
    with pytest.raises(DataError, match="nan"):
        micro_average_precision([np.nan], [True], 1)


DISTANCES = np.array([[0.1, 0.5, 0.6], [0.2, 0.3, 3.4e38], [0.3, 0.4, 0.4]], dtype=np.float32)
INDICES = np.array([[4, 8, 9], [8, 5, -1], [1, 2, 3]])
IDS = [4, 5, -1]


def test_pairs_plain():
    pairs = pooled_pairs(DISTANCES, INDICES, IDS)
    assert pairs.scores.tolist() == pytest.approx([-0.1, -0.5, -0.6, -0.2, -0.3, -0.3, -0.4, -0.4])
    assert pairs.is_true.tolist() == [True, False, False, False, True, False, False, False]
    assert pairs.number_of_true_pairs == 2


def test_pairs_normalised():
    pairs = pooled_pairs(DISTANCES, INDICES, IDS, score="normalised")
    # the second query's true candidate has only an empty place after it: no pair, so never retrieved
    assert pairs.scores.tolist() == pytest.approx([0.4, 0.1, 0.1, 0.1, 0.0])
    assert pairs.is_true.tolist() == [True, False, False, False, False]
    assert pairs.number_of_true_pairs == 2


def test_similarities_rank_the_other_way():
    plain = pooled_pairs(-DISTANCES, INDICES, IDS, metric="IP")
    assert np.array_equal(plain.scores, pooled_pairs(DISTANCES, INDICES, IDS).scores)
    assert metric_of(-DISTANCES) == "IP"
    assert metric_of(DISTANCES) == metric_of(DISTANCES[:, :1]) == "L2"


def test_one_candidate_does_not_show_the_metric():
    rows = copy_detection_rows(
        batch=0, image_index=[0, -1], edits=[[], []], distances=[[0.9], [0.1]], indices=[[0], [4]]
    )
    assert copy_detection_table(rows, metric="IP")["uap"].tolist() == [1]
    results = Results(rows, copy_detection=rows, index=pd.DataFrame({"metric": ["IP"]}))
    assert results.metric == "IP"
    assert Results(rows).metric is None
    for damaged in ("cosine", np.nan):
        assert Results(rows, index=pd.DataFrame({"metric": [damaged]})).metric is None


def test_a_threshold_by_hand():
    distances = np.array([[0.1], [0.2], [0.3], [0.4], [0.15]], np.float32)
    rows = copy_detection_rows(
        batch=0,
        image_index=[0, 1, -1, -1, 2],
        edits=[[]] * 5,
        distances=distances,
        indices=[[0], [9], [3], [4], [2]],
    )
    assert closeness_limit(rows, metric="L2") == pytest.approx(-0.3)
    assert closeness_limit(rows, metric="L2", rate=0.5) == pytest.approx(-0.4)
    shares = at_limit(rows, -0.3, metric="L2")
    # of the two that lie beyond the nearest stranger one is the wrong picture
    assert shares == {"false_positives": 0, "strangers": 2, "found": pytest.approx(2 / 3), "copies": 3}
    assert at_limit(rows, -0.35, metric="L2")["false_positives"] == 0.5
    assert closeness_limit(rows[:2], metric="L2") is None


def test_normalised_needs_two_candidates():
    with pytest.raises(DataError, match="kneighbors 1"):
        pooled_pairs([[0.1]], [[1]], [1], score="normalised")


def _rows(k=3):
    edits = [
        [{"name": "text", "text": 'a "quoted", ü'}],
        [{"name": "hflip"}],
        [{"name": "jpeg", "quality": 7}, {"name": "hflip"}],
    ]
    return copy_detection_rows(
        batch=1, image_index=IDS, edits=edits, distances=DISTANCES[:, :k], indices=INDICES[:, :k]
    )


def test_rows_come_back_from_the_csv(tmp_path: Path):
    rows = _rows()
    rows.to_csv(tmp_path / "icd_df.csv", index=False)
    read = read_results(tmp_path / "icd_df.csv")
    assert tuple(read.columns) == COPY_DETECTION_COLUMNS
    assert json.loads(read["attack"][0]) == [{"name": "text", "text": 'a "quoted", ü'}]
    assert read["image_index"].tolist() == IDS
    pd.testing.assert_frame_equal(copy_detection_table(read), copy_detection_table(rows))


def test_table_by_hand():
    table = copy_detection_table(_rows()).set_index("score")
    # plain: -0.1 true, -0.2 false, then the tie at -0.3 with the false one first
    assert table.loc["plain", "uap"] == pytest.approx((1 + 2 / 4) / 2)
    assert table.loc["plain", "recall_at_p90"] == 0.5
    assert table.loc["normalised", "uap"] == pytest.approx(1 / 2)
    assert table["queries"].tolist() == [3, 3]
    assert table["true_pairs"].tolist() == [2, 2]


def test_one_candidate_has_no_normalised_score():
    assert copy_detection_table(_rows(k=1))["score"].tolist() == ["plain"]


def test_lists_of_different_lengths_are_an_error():
    with pytest.raises(DataError, match="lists of 2 to 3 values"):
        copy_detection_table(pd.concat([_rows(2), _rows(3)]))
