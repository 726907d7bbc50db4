import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aindex.callbacks.console import answers_table
from aindex.edits.named import Attack
from aindex.errors import DataError
from aindex.evaluation.retrieval import (
    RETRIEVAL_COLUMNS,
    attack_label,
    json_lists,
    rank_of,
    read_results,
    retrieval_rows,
    retrieval_table,
)
from aindex.evaluation.run_files import Results
from aindex.evaluation.table import markdown, plain

INDICES = np.array([[7, 3, 9], [3, 7, 9], [3, 9, -1], [9, 3, 7]])
DISTANCES = np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [0.1, 0.2, 3.4e38], [0, 0, 1e-9]], dtype=np.float32)


def _rows_of(attacks, ids=(7, 7, 7, 7)):
    return retrieval_rows(batch=0, image_index=ids, attacks=attacks, distances=DISTANCES, indices=INDICES)


def _rows(name, param, ids=(7, 7, 7, 7)):
    return _rows_of([Attack(name, param)] * 4, ids)


def test_rank_counts_from_zero_and_is_k_if_absent():
    assert rank_of(INDICES, [7, 7, 7, 7]).tolist() == [0, 1, 3, 2]


def test_a_negative_true_id_never_matches_an_empty_place():
    with pytest.raises(ValueError, match="true id -1"):
        rank_of([[0, -1]], [-1])


def _ranked(ranks, k):
    """Rows of queries whose true answer stands at these places of k."""
    indices = [[7 if place == rank else 0 for place in range(k)] for rank in ranks]
    return retrieval_rows(
        batch=0,
        image_index=[7] * len(ranks),
        attacks=[Attack("none")] * len(ranks),
        distances=np.zeros((len(ranks), k)),
        indices=indices,
    )


def test_recall_and_ap_of_an_absent_answer_are_zero():
    rows = _ranked([0, 1, 3, 2], 3)
    assert rows["r@1"].tolist() == [1, 0, 0, 0]
    assert rows["ap"].tolist() == [1, 0.5, 0, 1 / 3]


def test_recall_at_10_and_100_at_their_borders():
    rows = _ranked([9, 10, 99, 100, 200], 200)
    assert rows["r@10"].tolist() == [1, 0, 0, 0, 0]
    assert rows["r@100"].tolist() == [1, 1, 1, 0, 0]


def test_rows_have_the_columns_of_the_csv_and_come_back_from_it(tmp_path: Path):
    rows = pd.concat([_rows("none", None), _rows("rotation", 25), _rows("contrast", 0.5)], ignore_index=True)
    assert tuple(rows.columns) == RETRIEVAL_COLUMNS
    rows.to_csv(tmp_path / "retr_df.csv", index=False)
    read = read_results(tmp_path / "retr_df.csv")
    assert tuple(read.columns) == RETRIEVAL_COLUMNS
    assert read["retrieved_indices"][2] == [3, 9, -1]
    assert np.array_equal(np.array(list(read["retrieved_distances"][:4]), dtype=np.float32), DISTANCES)
    # pandas takes "None" for a missing value; the attack "none" must stay a name
    assert read["attack"].tolist() == ["none"] * 4 + ["rotation"] * 4 + ["contrast"] * 4
    pd.testing.assert_frame_equal(retrieval_table(read), retrieval_table(rows))


def test_floats_in_cells_are_short_json_and_exact():
    values = np.random.default_rng(0).random((3, 50), dtype=np.float32) * 1e-4
    text = json_lists(values)
    assert np.array_equal(np.array([json.loads(row) for row in text], dtype=np.float32), values)
    assert json_lists(np.array([[0.1, 1.0]], dtype=np.float32)) == ["[0.1, 1.0]"]


def test_distances_that_json_cannot_hold_are_an_error():
    with pytest.raises(DataError, match="not finite"):
        json_lists(np.array([[np.nan]]))


def test_one_edit_per_query_and_wrong_counts():
    rows = _rows_of([Attack("none"), Attack("jpeg", 50), Attack("jpeg", 60), Attack("blur", 11)])
    assert rows["attack_param"].tolist() == [None, 50, 60, 11]
    with pytest.raises(ValueError, match=r"Length of values \(2\)"):
        _rows_of([Attack("none"), Attack("auto")])
    with pytest.raises(ValueError, match="expected both"):
        retrieval_rows(
            batch=0,
            image_index=[0],
            attacks=[Attack("none")],
            distances=[[0.0]],
            indices=[[0, 1]],
        )


def test_table_has_a_row_per_attack_and_both_averages():
    rows = pd.concat(
        [
            _rows("none", None),  # R@1 1/4, AP (1 + 1/2 + 0 + 1/3) / 4
            _rows("rotation", 25, ids=(7, 3, 3, 9)),  # all at the top
            _rows("rotation", 90, ids=(5, 5, 5, 5)),  # all absent
            _rows("overlay_onto_screenshot", None, ids=(5, 5, 5, 5)),
        ]
    )
    table = retrieval_table(rows).set_index("attack")
    assert table.index.tolist() == [
        "none",
        "rotation 25",
        "rotation 90",
        "overlay_onto_screenshot",
        "average",
        "average without screenshot",
    ]
    assert table["r@1"].tolist() == pytest.approx([0.25, 1, 0, 0, 1.25 / 4, 1.25 / 3])
    assert table.loc["none", "ap"] == pytest.approx((1 + 0.5 + 1 / 3) / 4)
    assert table["images"].tolist() == [4, 4, 4, 4, 16, 12]


def test_five_answers_tell_nothing_of_ten():
    def rows(kneighbors):
        return retrieval_rows(
            batch=0,
            image_index=[3],
            attacks=[Attack("none")],
            distances=[[0.5] * kneighbors],
            indices=[[*[0] * (kneighbors - 1), 3]],
        )

    assert rows(5)[["r@1", "r@10", "r@100"]].isna().to_numpy().tolist() == [[False, True, True]]
    assert rows(10)[["r@10", "r@100"]].fillna(-1).to_numpy().tolist() == [[1, -1]]
    text = plain(answers_table({"active": Results(rows(10))}))
    assert "R@10" in text
    assert "R@100" not in text


def test_no_second_average_without_a_screenshot():
    assert retrieval_table(_rows("none", None))["attack"].tolist() == ["none", "average"]


def test_no_rows_are_an_error():
    with pytest.raises(DataError, match="0 evaluated copies"):
        retrieval_table(_rows("none", None).iloc[:0])


@pytest.mark.parametrize(
    ("param", "label"),
    [(None, "a"), (float("nan"), "a"), (25.0, "a 25"), (0.5, "a 0.5"), ("0.50", "a 0.5"), ("web", "a web")],
)
def test_label(param, label):
    assert attack_label("a", param) == label


def test_table_as_text_and_markdown():
    series = {
        "passive": Results(_rows("none", None)),
        "active": Results(_rows("none", None, ids=(7, 3, 3, 9))),
    }
    table = answers_table({"passive": series["passive"]})
    lines = plain(table).splitlines()
    assert lines[0].split() == ["attack", "n", "R@1", "95", "%", "AP"]
    assert lines[2].split() == ["none", "4", "0.250", "0.046–0.699", "0.458"]
    assert "| none | 4 | 0.250 | 0.046–0.699 | 0.458 |" in markdown(table)
    assert answers_table(series).rows[0] == [
        "none", "4", "0.250 → 1.000", "0.046–0.699 → 0.510–1.000", "0.458 → 1.000",
    ]  # fmt: skip
