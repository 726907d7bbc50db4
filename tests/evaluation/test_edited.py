"""Edited copies in the loader: what an item holds, and what is random about it."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from aindex.data.images import read_image
from aindex.data.loading import Failure
from aindex.descriptors.preprocess import prepare
from aindex.edits.named import Attack, full_attacks
from aindex.errors import DataError, EditError
from aindex.evaluation import edited
from aindex.evaluation.edited import (
    COPIES_PER_ITEM,
    EditedPictures,
    Quality,
    RandomlyEditedPictures,
    quality_of,
)


def _pictures(paths, attacks, **options):
    return EditedPictures(paths, [path.name for path in paths], attacks, size=16, seed=5, **options)


def test_the_image_itself_is_a_row_once(make_pictures):
    paths = make_pictures("a", 2)
    long = _pictures(paths, full_attacks())
    first, second = long[0], long[1]
    assert (first.position, second.position) == (0, 0)
    assert len(first.attacks) == len(second.attacks) == COPIES_PER_ITEM
    assert (first.unedited, len(first.inputs)) == (COPIES_PER_ITEM, COPIES_PER_ITEM + 1)
    assert (second.unedited, len(second.inputs)) == (None, COPIES_PER_ITEM)
    assert torch.equal(first.inputs[-1], prepare(read_image(paths[0]), 16))
    assert long[long.items_per_image].position == 1
    short = _pictures(paths, [Attack("jpeg", 50), Attack("none")])[0]
    assert (short.unedited, len(short.inputs)) == (1, 2)


def test_every_attack_comes_once_per_image(make_pictures):
    dataset = _pictures(make_pictures("a", 2), full_attacks())
    seen = [
        (item.position, attack)
        for item in map(dataset.__getitem__, range(len(dataset)))
        for attack in item.attacks
    ]
    assert seen == [(position, attack) for position in (0, 1) for attack in full_attacks()]


def test_quality_is_measured_against_the_original_once(make_pictures, tmp_path):
    originals = make_pictures("a", 2)
    changed = np.asarray(Image.open(originals[0])).copy()
    changed[3, 4, 1] ^= 4
    released = [tmp_path / "r.png", originals[1]]
    Image.fromarray(changed).save(released[0])
    dataset = _pictures(released, full_attacks(), originals=originals)
    assert dataset[0].quality.linf == 4
    assert dataset[0].quality.psnr_db == pytest.approx(
        20 * np.log10(255 * np.sqrt(changed.size) / 4), abs=1e-3
    )
    assert 0.9 < dataset[0].quality.ssim <= 1
    assert dataset[1].quality is None
    assert dataset[dataset.items_per_image].quality == Quality()


def test_equal_pictures_and_unequal_sizes(make_picture):
    assert quality_of(make_picture(1), make_picture(1)) == Quality(float("inf"), 1.0, 0.0)
    with pytest.raises(DataError, match="20×10 pixels, its original 48×40"):
        quality_of(make_picture(1), make_picture(1, 20, 10))


def test_random_edits_depend_on_name_and_seed_alone(make_pictures):
    paths = make_pictures("a", COPIES_PER_ITEM + 2)
    names = [path.name for path in paths]
    everything = RandomlyEditedPictures(paths, names, size=16, seed=5)
    assert [list(item.positions) for item in map(everything.__getitem__, range(2))] == [
        list(range(COPIES_PER_ITEM)),
        [COPIES_PER_ITEM, COPIES_PER_ITEM + 1],
    ]
    alone = RandomlyEditedPictures(paths[-1:], names[-1:], size=16, seed=5)[0]
    assert json.dumps(alone.edits[0]) == json.dumps(everything[1].edits[1])
    assert torch.equal(alone.inputs[0], everything[1].inputs[1])
    assert RandomlyEditedPictures(paths, names, size=16, seed=6)[0].edits != everything[0].edits


def test_unreadable_pictures_fail_or_are_skipped(make_pictures):
    paths = make_pictures("a", 3)
    paths[1].write_bytes(b"x")
    names = [path.name for path in paths]
    failed = RandomlyEditedPictures(paths, names, size=16, seed=5)[0]
    assert isinstance(failed, Failure)
    assert paths[1].name in str(failed.error)
    item = RandomlyEditedPictures(paths, names, size=16, seed=5, skip_unreadable=True)[0]
    assert list(item.positions) == [0, 2]
    assert item.inputs.shape == (2, 3, 16, 16)
    assert [path for path, _ in item.skipped] == [str(paths[1])]
    for path in paths:
        path.write_bytes(b"x")
    item = RandomlyEditedPictures(paths, names, size=16, seed=5, skip_unreadable=True)[0]
    assert item.inputs.shape == (0, 3, 16, 16)


@pytest.mark.parametrize(("cause", "is_recorded"), [(ValueError(), True), (MemoryError(), False)])
def test_an_edit_fails_for_its_picture_or_for_the_machine(make_pictures, monkeypatch, cause, is_recorded):
    """What another run may do better is not recorded as if it were the picture's fault."""

    def fail(*arguments, **options):
        raise EditError("no edit") from cause

    paths = make_pictures("a", 2)
    names = [path.name for path in paths]
    monkeypatch.setattr(edited, "apply_attack", fail)
    monkeypatch.setattr(edited, "apply_random_edits", fail)
    copies = _pictures(paths, [Attack("blur", 11)])[0]
    random = RandomlyEditedPictures(paths, names, size=16, seed=5)[0]
    if not is_recorded:
        assert isinstance(copies, Failure)
        assert isinstance(random, Failure)
        return
    assert copies.failed == [("blur 11", str(paths[0]), "no edit")]
    assert copies.attacks == []
    assert len(copies.inputs) == 1  # the picture itself
    assert [path for path, _ in random.failed] == [str(path) for path in paths]
    assert random.inputs.shape == (0, 3, 16, 16)
