import shutil

import numpy as np
import pytest
import torch
from torch import nn

from aindex.descriptors.extraction import extract
from aindex.descriptors.extractor import Extractor
from aindex.descriptors.preprocess import prepare
from aindex.errors import DataError, DescriptorError


def run(paths, extractor, **options):
    return extract(paths, extractor, **({"num_workers": 0, "batch_size": 4, "progress": False} | options))


@pytest.fixture
def pictures(make_pictures):
    return make_pictures("p", 11)


def test_rows_are_the_extractor_on_prepared_pictures(pictures, tiny_extractor, tmp_path):
    from aindex.data.images import read_image

    result = run(pictures, tiny_extractor, root=tmp_path / "p")
    inputs = torch.stack([prepare(read_image(path), 32) for path in pictures])
    np.testing.assert_allclose(result.descriptors, tiny_extractor(inputs).numpy(), atol=1e-6)
    assert result.names == [path.name for path in pictures]
    assert result.descriptors.dtype == np.float32
    assert result.skipped.count == 0


def test_the_number_of_workers_changes_nothing(pictures, tiny_extractor):
    results = [run(pictures, tiny_extractor, num_workers=n).descriptors for n in (0, 1, 2)]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_order_and_company_change_nothing(pictures, tiny_extractor):
    forward = run(pictures, tiny_extractor).descriptors
    assert np.array_equal(run(pictures[::-1], tiny_extractor).descriptors, forward[::-1])
    assert np.array_equal(run(pictures[:5], tiny_extractor).descriptors, forward[:5])
    np.testing.assert_allclose(run(pictures, tiny_extractor, batch_size=16).descriptors, forward, atol=1e-6)


def test_an_unreadable_picture_changes_no_other_row(pictures, tiny_extractor, tmp_path):
    clean = run(pictures, tiny_extractor)
    pictures[5].write_bytes(b"broken")
    (tmp_path / "p" / "gone.png").symlink_to("nowhere")
    for workers in (0, 2):
        found = run(
            [*pictures, tmp_path / "p" / "gone.png"], tiny_extractor, root=tmp_path / "p", num_workers=workers
        )
        assert np.array_equal(found.descriptors, np.delete(clean.descriptors, 5, axis=0))
        assert found.names == [path.name for i, path in enumerate(pictures) if i != 5]
        assert [name for name, _ in found.skipped.rows] == ["P000005.png", "gone.png"]
        assert "cannot read picture" in found.skipped.rows[0][1]


def test_bf16_is_close_and_comes_out_as_float32(pictures, tiny_extractor):
    exact, rough = (run(pictures, tiny_extractor, precision=p).descriptors for p in ("fp32", "bf16"))
    assert rough.dtype == np.float32
    cosine = (exact * rough).sum(1) / np.linalg.norm(rough, axis=1)
    assert cosine.min() > 0.999
    assert not np.array_equal(exact, rough)


def test_torchscript(pictures, tiny_extractor, tiny_script):
    scripted = Extractor(torch.jit.load(str(tiny_script)), name="tiny", input_size=32)
    np.testing.assert_allclose(
        run(pictures, scripted).descriptors, run(pictures, tiny_extractor).descriptors, atol=1e-6
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu(pictures, tiny_script, tiny_extractor):
    scripted = Extractor(torch.jit.load(str(tiny_script)), name="tiny", input_size=32)
    expected = run(pictures, tiny_extractor).descriptors
    found = [run(pictures, scripted, device="cuda", num_workers=n).descriptors for n in (0, 2)]
    np.testing.assert_allclose(found[0], expected, atol=1e-2)
    assert np.array_equal(found[0], found[1])


def test_progress_is_shown(pictures, tiny_extractor, capsys):
    run(pictures, tiny_extractor, progress=True)
    assert "11/11" in capsys.readouterr().err


def test_nothing_to_read(pictures, tiny_extractor, tmp_path):
    with pytest.raises(DataError, match="no pictures are given"):
        run([], tiny_extractor)
    with pytest.raises(DataError, match="none of the 2 pictures can be read: 2 unreadable"):
        run([tmp_path / "a.png", tmp_path / "b.png"], tiny_extractor)
    with pytest.raises(DataError, match="batch size 0"):
        run(pictures, tiny_extractor, batch_size=0)


class Spoilt(nn.Module):
    def forward(self, pixels):
        bright = pixels.mean((1, 2, 3))
        return torch.where(bright > 2, torch.nan, bright)[:, None]


def test_a_descriptor_that_is_not_finite_names_its_picture(make_picture, pictures):
    from PIL import Image

    Image.new("RGB", (9, 9), "white").save(pictures[6])
    with pytest.raises(DescriptorError, match=r"P000006\.png.*precision fp32"):
        run(pictures, Extractor(Spoilt(), name="spoilt", input_size=8))


class Vanishing(nn.Module):
    """An extractor that removes the folder as soon as it sees a picture."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def forward(self, pixels):
        if len(pixels) > 1:
            shutil.rmtree(self.folder, ignore_errors=True)
        return pixels.mean((2, 3))


def test_folder_that_vanishes_midway(pictures, tmp_path):
    extractor = Extractor(Vanishing(tmp_path / "p"), name="vanishing", input_size=8)
    with pytest.raises(DataError, match="vanished"):
        run(pictures, extractor, root=tmp_path / "p")
