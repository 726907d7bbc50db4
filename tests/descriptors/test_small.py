import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from aindex.descriptors.small import SmallConfig, SmallExtractor, load_small, save_small
from aindex.errors import ExtractorError

TINY = SmallConfig(channels=(8, 8, 16, 16), layers=(1, 1, 1, 1), stem_width=4, dim=12, input_size=48)


@pytest.fixture
def tiny():
    torch.manual_seed(1)
    return SmallExtractor(TINY).eval()


def test_descriptors_have_unit_norm(tiny):
    descriptors = tiny(torch.randn(3, 3, 48, 48))
    assert descriptors.shape == (3, 12)
    torch.testing.assert_close(descriptors.norm(dim=1), torch.ones(3))


def test_a_file_gives_the_same_descriptors_up_to_half_precision(tiny, tmp_path):
    save_small(tiny, tmp_path / "tiny.safetensors", name="tiny", notes={"seed": "7"})
    again = load_small(tmp_path / "tiny.safetensors")
    assert again.config == TINY
    with safe_open(tmp_path / "tiny.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert (metadata["format"], metadata["name"], metadata["seed"]) == ("aindex-small-1", "tiny", "7")
    assert not again.training
    images = torch.randn(4, 3, 48, 48)
    torch.testing.assert_close(again(images), tiny(images), atol=5e-3, rtol=0)


def test_default_network_fits_the_six_megabytes_it_may_ship_in():
    parameters = sum(tensor.numel() for tensor in SmallExtractor().state_dict().values())
    assert 2 * parameters < 6_000_000


@pytest.mark.parametrize("content", [b"", b"not a safetensors file", b"\x80\x04pickle"])
def test_a_damaged_file_is_a_clear_error(tmp_path, content):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ExtractorError, match=r"bad\.safetensors cannot be read as an extractor"):
        load_small(path)


def test_another_form_is_a_clear_error(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExtractorError, match="has the format 'pt', expected 'aindex-small-1'"):
        load_small(tmp_path / "other.safetensors")


def test_brightness_and_contrast_change_little(tiny):
    images = torch.randn(2, 3, 48, 48)
    torch.testing.assert_close(tiny(0.4 * images - 0.9), tiny(images), atol=0.05, rtol=0)
    assert tiny(torch.full((1, 3, 48, 48), 0.3)).isfinite().all()
