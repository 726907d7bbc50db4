import numpy as np
import pytest
import torch
from torch import nn

from aindex.descriptors.extractor import Extractor, hash_state
from aindex.errors import ExtractorError


@pytest.fixture(params=["module", "script"])
def extractor(request, tiny_script):
    module = torch.jit.load(str(tiny_script)) if request.param == "script" else type_of_tiny(request)()
    return Extractor(module, name="tiny", input_size=32)


def type_of_tiny(request):
    return type(request.getfixturevalue("tiny_module"))


def test_sizes_and_frozen_weights(extractor):
    assert (extractor.dim, extractor.input_size, extractor.device.type) == (16, 32, "cpu")
    assert not any(parameter.requires_grad for parameter in extractor.module.parameters())
    assert not extractor.train().module.training
    assert not extractor.training
    assert not list(extractor.parameters())
    assert not extractor.state_dict()
    assert "tiny" in repr(extractor)


def test_gradients_reach_the_pixels(extractor):
    pixels = torch.rand(2, 3, 32, 32, requires_grad=True)
    extractor(pixels)[:, 0].sum().backward()
    assert pixels.grad.abs().sum() > 0


def test_to_moves_the_held_module(extractor):
    assert extractor.to(torch.float64) is extractor
    assert extractor(torch.rand(1, 3, 32, 32, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_to_gpu_and_back(extractor):
    pixels = torch.rand(1, 3, 32, 32)
    expected = extractor(pixels)
    found = extractor.to("cuda")(pixels.cuda()).cpu()
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert extractor.to("cpu").device.type == "cpu"


def test_fingerprint_tells_weights_and_input_size_but_not_names(tiny_module):
    tiny = type(tiny_module)
    prints = [
        Extractor(module, name=name, input_size=size).fingerprint
        for module, name, size in [
            (tiny(0), "a", 32),
            (tiny(0), "b", 32),
            (tiny(1), "a", 32),
            (tiny(0), "a", 40),
        ]
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
    assert hash_state(nn.ReLU()) != hash_state(nn.Identity())


class Returns(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, pixels):
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


def test_one_dimension_for_any_number_of_pictures():
    class Grows(nn.Module):
        def forward(self, pixels):
            return torch.zeros(len(pixels), 4 * len(pixels))

    with pytest.raises(ExtractorError, match="8 numbers for each of two pictures and 4 for one"):
        Extractor(Grows(), name="bad", input_size=8)


def test_the_input_size_may_come_from_numpy(tiny_module):
    assert type(Extractor(tiny_module, name="x", input_size=np.int64(32)).input_size) is int


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(1, 4, 1, 1), "shape"),
        (torch.zeros(2, 4), "shape"),
        (torch.zeros(1, 4, dtype=torch.int64), "expected floats"),
        ((torch.zeros(1, 4),), "tuple"),
        (torch.full((1, 4), torch.nan), "NaN"),
        (RuntimeError("two\nlines"), "two lines"),
    ],
)
def test_modules_that_are_no_extractors(value, message):
    with pytest.raises(ExtractorError, match=message):
        Extractor(Returns(value), name="bad", input_size=8)
    with pytest.raises(ExtractorError, match="at least 1"):
        Extractor(Returns(torch.zeros(1, 4)), name="bad", input_size=0)
