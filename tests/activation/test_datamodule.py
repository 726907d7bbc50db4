from pathlib import Path

import numpy as np
import pytest
import torch

from aindex.activation.datamodule import ImageData, Picture, decoded
from aindex.activation.run import Run
from aindex.data.images import read_image, to_tensor
from aindex.data.loading import Failure, succeeded
from aindex.data.source_image import SourceImage
from aindex.errors import ConfigError, ImageReadError


def run_over(paths):
    images = [SourceImage(name=path.name, path=path, index_id=0, released=path.name) for path in paths]
    return Run(folder=Path(), images=images, descriptors=np.eye(len(paths), 8, dtype=np.float32), index=None)


def test_pictures_are_decoded_at_their_own_size(make_pictures):
    paths = make_pictures("a", 3)
    run = run_over(paths)
    for position, path in enumerate(paths):
        item = decoded(run, position)
        assert isinstance(item, Picture)
        assert (item.position, item.image.path) == (position, path)
        assert item.goal.argmax(dim=1).tolist() == [position]
        assert item.pixels.dtype == torch.uint8
        assert torch.allclose(item.pixels / 255, to_tensor(read_image(path)))


def test_failures_of_loader_processes_are_raised_here(tmp_path):
    item = decoded(run_over([tmp_path / "absent.png"]), 0)
    assert isinstance(item, Failure)
    with pytest.raises(ImageReadError, match=r"absent\.png"):
        succeeded([item])


def test_names_of_a_folder_and_of_a_list_of_its_images_are_the_same(tmp_path, make_pictures):
    paths = make_pictures("a", 3)
    listed = tmp_path / "lists" / "all.txt"
    listed.parent.mkdir()
    listed.write_text("\n".join(str(path) for path in reversed(paths)))
    _, names = ImageData(str(tmp_path / "a")).listed()
    _, again = ImageData(str(listed)).listed()
    assert names == ["P000000.png", "P000001.png", "P000002.png"]
    assert again == names[::-1]


def test_names_below_the_lists_own_folder_are_relative_to_it(tmp_path, make_pictures):
    make_pictures("a", 2)
    (tmp_path / "all.txt").write_text("a/P000000.png\na/P000001.png\n")
    assert ImageData(str(tmp_path / "all.txt")).listed()[1] == ["a/P000000.png", "a/P000001.png"]


def test_an_image_listed_twice_counts_once_and_is_said(tmp_path, make_pictures):
    make_pictures("a", 1)
    (tmp_path / "all.txt").write_text("a/P000000.png\na/P000000.png\n")
    with pytest.warns(UserWarning, match="1 of its 2 pictures again"):
        assert ImageData(str(tmp_path / "all.txt")).listed()[1] == ["a/P000000.png"]


@pytest.mark.parametrize("option", [{"batch_size": 0}, {"batch_size_eval": -1}, {"num_workers": -1}])
def test_impossible_numbers_are_refused(option):
    with pytest.raises(ConfigError, match=next(iter(option))):
        ImageData("x", **option)


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_batches_done_are_left_out(make_pictures, num_workers):
    data = ImageData("a", batch_size=2, num_workers=num_workers)
    data.run = run_over(make_pictures("a", 5))
    data.run.batches_done = {1}
    assert [[item.position for item in batch] for batch in data.train_dataloader()] == [[0, 1], [4]]


def test_without_a_run_it_says_what_is_missing():
    with pytest.raises(ConfigError, match=r"ImageData has no index: give the trainer a callback BuildIndex"):
        ImageData("a").train_dataloader()
