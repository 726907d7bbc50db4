import shutil
import warnings

import pytest
import timm
import torch
from torch import nn

from aindex.descriptors import registry
from aindex.descriptors.extractor import check_gradient
from aindex.descriptors.fetch import hash_file
from aindex.descriptors.inference import fast_extractor
from aindex.descriptors.preprocess import normalise
from aindex.descriptors.registry import extractor_names, load_extractor
from aindex.errors import ExtractorError
from tests.conftest import save_script


def test_torchscript_file(tiny_script, tiny_module, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extractor = load_extractor(tiny_script, resize_size=32)
    pixels = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(extractor(pixels), tiny_module(pixels))
    assert load_extractor(str(tiny_script)).input_size == 288
    copied = shutil.copy(tiny_script, tmp_path / "other.pt")
    assert load_extractor(copied, resize_size=32).fingerprint == extractor.fingerprint
    assert load_extractor(copied, resize_size=40).fingerprint != extractor.fingerprint


def test_checksum_of_a_file(tiny_script):
    digest = hash_file(tiny_script)
    assert load_extractor(tiny_script, resize_size=32, sha256=digest.upper()).dim == 16
    with pytest.raises(ExtractorError, match=f"has SHA-256 {digest}, expected 00"):
        load_extractor(tiny_script, sha256=64 * "0")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 broken", "state dict"])
def test_file_that_is_no_torchscript(content, tmp_path):
    path = tmp_path / "bad.torchscript.pt"
    if content == "state dict":
        torch.save(nn.Linear(2, 2).state_dict(), path)
    else:
        path.write_bytes(content)
    with pytest.raises(ExtractorError, match="is not a TorchScript file") as caught:
        load_extractor(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "dim", "size"),
    [
        ("torchvision/resnet18", 512, 224),
        ("torchvision/mobilenet_v3_small", 1024, 224),
        ("timm/resnet10t", 512, 176),
        ("timm/test_vit.r160_in1k", 64, 160),
    ],
)
def test_library_models_lose_their_head(name, dim, size):
    extractor = load_extractor(name, pretrained=False)
    assert (extractor.dim, extractor.input_size, extractor.name) == (dim, size, name)


def test_input_size_of_library_models():
    assert load_extractor("timm/test_vit", pretrained=False, resize_size=64).input_size == 64
    with pytest.raises(ExtractorError, match="give the resize_size it was made for"):
        load_extractor("torchvision/vit_b_16", pretrained=False, resize_size=64)


def test_models_of_another_normalisation_see_their_own():
    extractor = load_extractor("timm/test_vit", pretrained=False)
    model = extractor.module.module
    mean, std = model.pretrained_cfg["mean"], model.pretrained_cfg["std"]
    assert mean == (0.5, 0.5, 0.5)
    pixels = torch.rand(2, 3, 160, 160)
    own = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(extractor(normalise(pixels)), model(own), atol=1e-4, rtol=1e-4)


def test_fingerprint_of_library_models_tells_their_names(monkeypatch):
    prints = set()
    for name in ("timm/test_vit", "timm/test_vit2"):
        torch.manual_seed(0)
        prints.add(load_extractor(name, pretrained=False).fingerprint)
    assert len(prints) == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sscd_disc_mixpu", "did you mean 'sscd_disc_mixup'"),
        ("timm/resnet1", "close to it: timm/resnet1"),
        ("torchvision/resnet19", "close to it: torchvision/resnet1"),
        ("torchvision/fasterrcnn_resnet50_fpn", "not one of the"),
        ("torchvision/squeezenet1_0", "no linear head"),
        ("absent/model.pt", "neither a known name nor a file"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(ExtractorError, match=message):
        load_extractor(name, pretrained=False)


def test_checksum_is_not_for_library_models():
    with pytest.raises(ExtractorError, match="leave it out"):
        load_extractor("timm/test_vit", sha256=64 * "0")


def test_library_without_network_is_one_line(monkeypatch):
    def create_model(*args, **kwargs):
        raise OSError("no\nnetwork")

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(ExtractorError, match="cannot be made: no network"):
        load_extractor("timm/test_vit")


def test_names_are_fetched_once(tiny_script, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setitem(registry.FETCHED, "dino_r50", tiny_script.as_uri())
    first = load_extractor("dino_r50")
    assert (first.input_size, first.name) == (288, "dino_r50")
    monkeypatch.setitem(registry.FETCHED, "dino_r50", "http://127.0.0.1:9/" + tiny_script.name)
    assert load_extractor("dino_r50").fingerprint == first.fingerprint
    assert {
        "sscd_disc_mixup",
        "sscd_disc_advanced",
        "sscd_disc_large",
        "dino_r50",
        "dino_vits",
        "isc_dt1",
    } == set(registry.FETCHED)
    assert extractor_names()[0] == "aindex_small"


def test_aindex_export(tmp_path):
    small = pytest.importorskip("aindex.descriptors.small")
    model = small.SmallExtractor(
        small.SmallConfig(channels=(8, 8, 8, 8), stem_width=8, dim=12, input_size=48)
    )
    small.save_small(model, tmp_path / "mine.safetensors", name="mine")
    extractor = load_extractor(tmp_path / "mine.safetensors")
    assert (extractor.dim, extractor.input_size, extractor.name) == (
        12,
        48,
        str(tmp_path / "mine.safetensors"),
    )
    assert load_extractor(tmp_path / "mine.safetensors", resize_size=64).input_size == 64
    cut = (tmp_path / "mine.safetensors").read_bytes()[:-10]
    (tmp_path / "cut.safetensors").write_bytes(cut)
    with pytest.raises(ExtractorError, match=r"cut\.safetensors"):
        load_extractor(tmp_path / "cut.safetensors")


class _Fixed(nn.Module):
    """Reshapes to one picture, as traces of one picture do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 5, stride=4)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.conv(pixels).mean([2, 3]).view(1, 16)


class _Merged(nn.Module):
    """Gives one row, however many pictures."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean([0, 2, 3])[None]


class _View(_Fixed):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.conv(pixels).view(pixels.shape[0], 16, -1).mean(-1)


class _InPlace(_View):
    """Divides in place what its norm is made of, so that there is no way back."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        pixels.mul_(2.0)
        found = self.conv(pixels).mean([2, 3])
        length = found.norm(p=2, dim=1, keepdim=True)
        return found.div_(length)


@pytest.mark.parametrize("module", [_Fixed, _Merged])
def test_a_script_for_one_picture_is_refused(tmp_path, module):
    path = save_script(module(), tmp_path / "one.pt")
    with pytest.raises(ExtractorError, match=r"two.*export it with a batch size that is free"):
        load_extractor(str(path), resize_size=32)


def test_scripts_that_view_are_taken_and_differentiated(tmp_path):
    extractor = load_extractor(str(save_script(_View(), tmp_path / "view.pt")), resize_size=32)
    for call in (extractor, fast_extractor(extractor, precision="fp32")):
        check_gradient(call, "view", 32)


def test_a_script_without_a_way_back_describes_but_does_not_activate(tmp_path):
    extractor = load_extractor(str(save_script(_InPlace(), tmp_path / "in_place.pt")), resize_size=32)
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert extractor(pixels.clone()).shape == (2, 16)
    with pytest.raises(ExtractorError, match=r"cannot be differentiated.*in place"):
        check_gradient(extractor, "in_place", 32)
    with pytest.raises(ExtractorError, match="no gradient"):
        check_gradient(lambda x: x.detach().mean([2, 3]) + x.new_zeros(1, requires_grad=True), "detached", 32)
