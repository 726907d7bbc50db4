import json

import numpy as np
import pytest
from PIL import Image

from aindex.edits.named import Attack
from aindex.errors import DataError
from aindex.evaluation.examples import (
    amplified_difference,
    heatmap_picture,
    read_examples,
    save_example,
)


def _save(folder, index=7, name="a/b <c>.jpg", size=(60, 40), heatmap=True):
    original = Image.fromarray(
        np.random.default_rng(index).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    )
    return save_example(
        folder,
        image_index=index,
        name=name,
        original=original,
        released=original,
        heatmap=np.random.default_rng(0).random((1, *size[::-1])) if heatmap else None,
        copies={Attack("none"): original, Attack("rotation", 25): original.rotate(25)},
    )


def test_an_example_comes_back(tmp_path):
    _save(tmp_path, index=12)
    _save(tmp_path, index=7, heatmap=False)
    first, second = read_examples(tmp_path)
    assert (first.image_index, second.image_index) == (7, 12)
    assert first.name == "a/b <c>.jpg"
    assert list(first.pictures) == ["original", "released", "difference"]
    assert list(first.copies) == ["none", "rotation 25"]
    assert Image.open(second.pictures["heatmap"]).size == (60, 40)


def test_large_pictures_are_shown_small(tmp_path):
    _save(tmp_path, size=(1000, 500))
    (example,) = read_examples(tmp_path)
    assert Image.open(example.pictures["released"]).size == (480, 240)
    assert Image.open(example.copies["none"]).size == (240, 120)


def test_no_examples(tmp_path):
    assert read_examples(tmp_path / "missing") == []


def test_difference_by_hand():
    before = Image.fromarray(np.full((1, 2, 3), 100, dtype=np.uint8))
    after = Image.fromarray(np.array([[[101, 97, 100], [200, 0, 100]]], dtype=np.uint8))
    picture = np.asarray(amplified_difference(before, after))
    assert picture.tolist() == [[[138, 98, 128], [255, 0, 128]]]


def test_heatmap_is_dark_where_it_is_small():
    picture = np.asarray(heatmap_picture(np.array([[[0.0, 1.0]]]))).astype(int)
    assert picture[0, 0].sum() < 30 < 600 < picture[0, 1].sum()
    assert heatmap_picture(np.ones((3, 4))).size == (4, 3)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.pop("copies"),
        lambda r: r.update(released="absent.jpg"),
        lambda r: r.update(image_index="x"),
    ],
)
def test_a_damaged_description_is_named(tmp_path, change):
    path = _save(tmp_path) / "example.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"example\.json|absent\.jpg"):
        read_examples(tmp_path)


def test_a_description_reaches_no_file_outside_its_folder(tmp_path):
    secret = tmp_path / "secret.jpg"
    Image.new("RGB", (4, 4)).save(secret)
    path = _save(tmp_path / "assets") / "example.json"
    record = json.loads(path.read_text())
    record["released"] = "../../secret.jpg"
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"secret\.jpg: no such picture"):
        read_examples(tmp_path / "assets")
