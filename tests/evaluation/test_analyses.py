import numpy as np
import pandas as pd
import pytest

from aindex.edits.named import Attack
from aindex.errors import DataError
from aindex.evaluation.analyses import (
    QUERY_COLUMNS,
    code_distances,
    image_columns,
    image_rows,
    image_summary,
    query_rows,
    query_table,
)
from aindex.evaluation.exhaustive import SEARCH_COLUMNS, ExhaustiveSearch, time_search
from aindex.evaluation.sections import worst_table


def _images(psnr_db, names=("a.jpg", "b.jpg", "NA"), **optional):
    count = len(psnr_db)
    return image_rows(
        image_index=range(10, 10 + count),
        names=names[:count],
        psnr_db=psnr_db,
        ssim=[0.98, 0.9, 0.95][:count],
        linf=[10, 14, 15][:count],
        **optional,
    )


def _queries(**optional):
    return query_rows(
        image_index=[10, 11, 10, 11],
        attacks=[Attack("none"), Attack("none"), Attack("jpeg", 50), Attack("jpeg", 50)],
        **optional,
    )


def test_image_summary_by_hand():
    images = _images([40.0, 30.0, 38.0])
    assert list(images.columns) == image_columns()
    summary = image_summary(images).set_index("measure")
    assert summary.loc["psnr_db", "mean"] == 36
    assert summary.loc["psnr_db", "std"] == pytest.approx(np.sqrt((16 + 36 + 4) / 3))
    assert summary["worst"].tolist() == [30, 0.9, 15]
    assert summary["worst_name"].tolist() == ["b.jpg", "b.jpg", "NA"]
    assert [row[0] for row in worst_table(images).rows] == ["b.jpg", "NA", "a.jpg"]
    eleven = pd.concat([images.assign(psnr_db=40.0 - i).head(1) for i in range(11)], ignore_index=True)
    shown = worst_table(eleven).rows
    assert len(shown) == 10
    assert shown[0][1].value == 30


def test_unchanged_images_do_not_hide_the_others():
    summary = image_summary(_images([40.0, np.inf, 38.0])).set_index("measure")
    assert summary.loc["psnr_db", "mean"] == 39
    assert summary["unchanged"].tolist() == [1, 1, 1]


def test_passive_images_have_infinite_psnr():
    summary = image_summary(_images([np.inf, np.inf])).set_index("measure")
    assert summary.loc["psnr_db", ["mean", "std", "worst"]].tolist() == [np.inf, 0, np.inf]


def test_a_measure_that_is_not_known_is_left_out():
    images = _images([40.0, np.nan, 38.0]).assign(ssim=np.nan)
    summary = image_summary(images).set_index("measure")
    assert summary.index.tolist() == ["psnr_db", "linf"]
    assert summary.loc["psnr_db", ["mean", "worst", "unchanged"]].tolist() == [39, 38, 0]


def test_query_table_by_hand():
    queries = _queries(
        same_cell=[1, 1, 1, 0],
        code_distance=[0.1, 0.3, 0.5, 0.7],
        exhaustive_rank=[0, 0, 2, 0],
    )
    assert tuple(queries.columns) == QUERY_COLUMNS
    table = query_table(queries).set_index("attack")
    assert table.index.tolist() == ["none", "jpeg 50", "average"]
    assert table["same_cell"].tolist() == [1, 0.5, 0.75]
    assert table["code_distance"].tolist() == pytest.approx([0.2, 0.6, 0.4])
    assert table["exhaustive_r@1"].tolist() == [1, 0.5, 0.75]
    assert table["stored_distance"].isna().all()


def test_what_an_index_has_not_stays_empty():
    assert query_table(_queries())[["same_cell", "code_distance", "exhaustive_r@1"]].isna().all(axis=None)
    with pytest.raises(ValueError, match="Length of values"):
        _queries(code_distance=[1.0])


def test_code_distance_before_after_and_under_edits():
    images = _images([40.0, 41], code_distance_original=[0.8, 0.6], code_distance_released=[0.5, 0.3])
    known = code_distances(images, _queries(code_distance=[9, 9, 0.5, 0.7]))
    assert {name: values.tolist() for name, values in known.items()} == {
        "original": [0.8, 0.6],
        "released": [0.5, 0.3],
        "edited": [0.5, 0.7],
    }


def test_only_measures_of_images_are_noted_of_images():
    with pytest.raises(ValueError, match="lpips: expected measures among psnr_db"):
        _images([40.0], lpips=[0.1])


@pytest.mark.parametrize("metric", ["L2", "IP"])
def test_exhaustive_ranks_equal_a_plain_sort(metric):
    rng = np.random.default_rng(0)
    references = rng.standard_normal((700, 8)).astype(np.float32)
    true = rng.integers(0, 700, 600)
    queries = references[true] + 0.8 * rng.standard_normal((600, 8)).astype(np.float32)
    if metric == "L2":
        away = ((queries[:, None].astype(float) - references) ** 2).sum(-1)
    else:
        away = -(queries.astype(float) @ references.T)
    expected = (away < away[np.arange(600), true][:, None]).sum(1)
    search = ExhaustiveSearch([references[:300], references[300:]], metric=metric, chunk_rows=128)
    ranks = search.ranks(queries, true)
    assert np.array_equal(ranks, expected)
    assert 0 < (ranks == 0).mean() < 1


def test_the_smaller_id_wins_a_tie():
    same = np.ones((3, 4), dtype=np.float32)
    assert ExhaustiveSearch([same]).ranks(same, [0, 1, 2]).tolist() == [0, 1, 2]


def test_an_id_outside_the_references_is_an_error():
    with pytest.raises(DataError, match="true ids 3 to 3"):
        ExhaustiveSearch([np.ones((3, 4))]).ranks(np.ones((1, 4)), [3])


def test_search_is_timed_in_every_setting():
    calls = []
    search = time_search(
        lambda queries, k, nprobe: calls.append((len(queries), k, nprobe)), np.zeros((7, 2)), repeats=2
    )
    assert tuple(search.columns) == SEARCH_COLUMNS
    assert calls == [(7, k, nprobe) for nprobe in (1, 16, 32) for k in (1, 100)] * 3
    assert (search["ms_per_query"] >= 0).all()


def test_an_index_without_cells_is_timed_once():
    search = time_search(lambda *_: None, np.zeros((7, 2)), nprobes=(None,), neighbours=(1,))
    assert search["nprobe"].isna().tolist() == [True]
    with pytest.raises(DataError, match="0 queries"):
        time_search(lambda *_: None, np.zeros((0, 2)))


def test_twins_of_the_true_answer_never_come_before_it():
    rng = np.random.default_rng(0)
    references = rng.standard_normal((50, 8)).astype(np.float32)
    references[[3, 30]] = references[20]
    search = ExhaustiveSearch([references], chunk_rows=16)
    query = references[[20]] + np.float32(1e-3)
    twins = {20: [3, 30]}
    assert search.ranks(query, [20], twins=twins).tolist() == [0]
    far = -references[[20]]
    distances = np.delete(((references - far) ** 2).sum(1), [3, 20, 30])
    assert search.ranks(far, [20], twins=twins)[0] == (distances < ((references[20] - far) ** 2).sum()).sum()
