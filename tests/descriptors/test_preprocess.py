import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as T
from PIL import Image

from aindex.descriptors.preprocess import IMAGENET_MEAN, IMAGENET_STD, normalise, prepare, resize


def test_prepare_is_normalise_then_tensor_resize(make_picture):
    picture = make_picture(1, 61, 47)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
    expected = T.Resize((32, 32), antialias=True)(T.Normalize(IMAGENET_MEAN, IMAGENET_STD)(pixels))
    torch.testing.assert_close(prepare(picture, 32), expected, atol=5e-6, rtol=0)


@pytest.mark.parametrize("size", [5, 32, 160])
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (7, 3), (160, 160), (233, 1900), (1200, 901)])
def test_prepare_takes_pictures_of_any_size(shape, size):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = resize(normalise(torch.from_numpy(pixels).permute(2, 0, 1) / 255), size)
    prepared = prepare(Image.fromarray(pixels), size)
    assert prepared.is_contiguous()
    torch.testing.assert_close(prepared, expected, atol=1e-5, rtol=0)


def test_resize_takes_any_leading_dimensions_and_passes_gradients():
    values = torch.rand(2, 2, 3, 9, 7, requires_grad=True)
    resized = resize(values, 4)
    assert resized.shape == (2, 2, 3, 4, 4)
    torch.testing.assert_close(resized[1, 0], resize(values[1, 0], 4))
    resized.sum().backward()
    assert values.grad is not None
    assert values.grad.abs().sum() > 0
