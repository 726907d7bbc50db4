"""Analyses for indexes of several kinds, and what is shown where."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from aindex.callbacks.save_examples import shown_attacks, spread_over
from aindex.callbacks.tensorboard import curve_points, example_sheet
from aindex.data.source_image import SourceImage
from aindex.edits.named import Attack, default_attacks, full_attacks
from aindex.errors import FaissIndexError
from aindex.evaluation.copy_detection import Pairs, pooled_pairs
from aindex.evaluation.examples import read_examples, save_example
from aindex.evaluation.measuring import Analyses
from aindex.index.quantiser import Quantiser
from aindex.index.reference_index import ReferenceIndex

DIM, REFERENCES, IMAGES = 8, 60, 3
ATTACKS = [Attack("none"), Attack("blur", 11), Attack("jpeg", 50)]


def _vectors(count, seed):
    rows = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _analyses(tmp_path, factory, *, known=True, metric="L2"):
    references, originals = _vectors(REFERENCES, 1), _vectors(IMAGES, 2)
    index = ReferenceIndex.train(_vectors(200, 0), idx_factory=factory, metric=metric)
    index.add(references, [f"r{row}" for row in range(REFERENCES)])
    ids = index.add(originals, [f"o{row}" for row in range(IMAGES)])
    images = [
        SourceImage(name=f"o{row}", path=tmp_path / f"o{row}", index_id=int(i), released=f"o{row}.png")
        for row, i in enumerate(ids)
    ]
    rows = [references, originals] if known else None
    return Analyses(index, images, originals, rows), originals


@pytest.mark.parametrize(("factory", "cells"), [("IVF4,PQ4x4", True), ("PCA4,LSH", False), ("Flat", False)])
def test_cells_of_an_index_without_stay_empty(tmp_path, factory, cells):
    analyses, originals = _analyses(tmp_path, factory)
    rows = analyses.queries([0, 1, 2], ATTACKS, originals)
    assert rows["same_cell"].tolist() == [1, 1, 1] if cells else rows["same_cell"].isna().all()
    assert rows["exhaustive_rank"].tolist() == [0, 0, 0]
    assert np.allclose(rows["stored_distance"], rows["code_distance"], atol=1e-6)
    assert (rows["code_distance"] > 0).all() == (factory != "Flat")


def test_a_copy_in_the_cell_of_any_of_its_original_s_rows_is_in_the_same_cell(tmp_path):
    analyses, originals = _analyses(tmp_path, "IVF4,PQ4x4")
    index, images = analyses._index, analyses._images
    cells = index.quantiser.cells(originals)
    other = int(np.flatnonzero(cells != cells[0])[0])
    own_rows = [originals[[0, other]], *originals[1:, None]]
    several = Analyses(index, images, originals, None, own_rows)
    copies = originals[[0, other, other]]
    same = several.queries([0, 0, 1 if other != 1 else 2], ATTACKS, copies)["same_cell"].tolist()
    assert same[:2] == [1, 1]
    assert same[2] == (cells[1 if other != 1 else 2] == cells[other])
    assert analyses.queries([0, 0, 0], ATTACKS, copies)["same_cell"].tolist() == [1, 0, 0]


def test_codes_that_cannot_be_decoded_leave_their_columns_empty(tmp_path, monkeypatch):
    def cannot(*_):
        raise FaissIndexError("cannot decode its codes")

    monkeypatch.setattr(Quantiser, "stored", cannot)
    analyses, originals = _analyses(tmp_path, "IVF4,PQ4x4")
    rows = analyses.queries([0, 1, 2], ATTACKS, originals)
    assert rows[["code_distance", "stored_distance"]].isna().all(axis=None)
    assert rows["same_cell"].tolist() == [1, 1, 1]


def test_metric_of_the_index_decides_the_ceiling(tmp_path):
    analyses, originals = _analyses(tmp_path, "IVF4,PQ4x4", metric="IP")
    longer = originals * np.float32(3)
    assert analyses.queries([0, 1, 2], ATTACKS, longer)["exhaustive_rank"].tolist() == [0, 0, 0]


def test_ceiling_is_left_out_without_the_rows_descriptors(tmp_path):
    analyses, originals = _analyses(tmp_path, "IVF4,PQ4x4", known=False)
    assert analyses.exhaustive is None
    assert analyses.queries([0, 1, 2], ATTACKS, originals)["exhaustive_rank"].isna().all()


@pytest.mark.parametrize(
    ("factory", "settings"),
    [("IVF4,PQ4x4", [(1, 1)]), ("Flat", [(None, 1)]), ("IVF16,Flat", [(1, 1), (16, 1)])],
)
def test_search_is_timed_where_it_is_possible(tmp_path, factory, settings):
    analyses, _ = _analyses(tmp_path, factory)
    rows = analyses.search_times()
    nprobes = [None if pd.isna(nprobe) else int(nprobe) for nprobe in rows["nprobe"]]
    assert list(zip(nprobes, rows["k"], strict=True)) == settings
    assert (rows["queries"] == IMAGES).all()


def test_image_rows_of_a_run_that_activated_nothing(tmp_path):
    analyses, originals = _analyses(tmp_path, "IVF4,PQ4x4")
    measured = {
        position: {"psnr_db": 40.0, "ssim": 0.9, "linf": 5.0, "code_distance_released": position / 10}
        for position in range(IMAGES)
    }
    rows = analyses.images(measured, None)
    assert rows["code_distance_released"].tolist() == [0.0, 0.1, 0.2]
    assert rows["activation_seconds"].isna().all()
    assert np.allclose(rows["code_distance_original"], analyses.code_distance(originals))


def test_examples_are_spread_over_the_images():
    assert spread_over(100, 12) == [0, 9, 18, 27, 36, 45, 54, 63, 72, 81, 90, 99]
    assert spread_over(3, 12) == [0, 1, 2]
    assert spread_over(5, 1) == [0]
    assert spread_over(5, 0) == []


def test_shown_attacks_are_among_those_that_were_run():
    assert [str(attack) for attack in shown_attacks(default_attacks())][:2] == ["auto", "meme_format"]
    many = shown_attacks(full_attacks())
    assert len(many) == 6
    assert len({attack.name for attack in many}) > 3
    assert set(many) <= set(full_attacks())


def test_curve_of_tensorboard_by_hand():
    # scores 4 (true), 3 (false), 2 (true), 1 (false); one true pair was never retrieved
    pairs = Pairs(np.array([4, 3, 2, 1], np.float32), np.array([True, False, True, False]), 3)
    true, false, others, missed, precision, recall = curve_points(pairs)
    assert true.tolist() == [2, 1]
    assert false.tolist() == [1, 0]
    assert others.tolist() == [1, 2]
    assert missed.tolist() == [1, 2]
    assert precision.tolist() == pytest.approx([2 / 3, 1])
    assert recall.tolist() == pytest.approx([2 / 3, 1 / 3])


def test_curve_of_tensorboard_has_no_more_points_than_it_can_show():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 5, (400, 4))
    points = curve_points(pooled_pairs(np.sort(rng.random((400, 4))), ids, rng.integers(0, 5, 400)))
    assert points.shape[0] == 6
    assert 1 < points.shape[1] <= 127
    assert (np.diff(points[5]) < 0).all()


def test_example_sheet_shows_all_pictures(tmp_path, make_picture):
    save_example(
        tmp_path,
        image_index=4,
        name="a.png",
        original=make_picture(1),
        released=make_picture(2),
        heatmap=np.ones((40, 48)),
        copies={Attack("rotation", 25): make_picture(3), Attack("none"): make_picture(4)},
    )
    (example,) = read_examples(tmp_path)
    sheet = example_sheet(example, {"rotation 25": "not found"})
    assert isinstance(sheet, Image.Image)
    assert sheet.size == (4 * 200, 2 * 216)
    cells = [sheet.crop((200 * c, 216 * r, 200 * (c + 1), 216 * (r + 1))) for r in (0, 1) for c in range(4)]
    assert [np.asarray(cell).std() > 0 for cell in cells] == [True] * 6 + [False] * 2
