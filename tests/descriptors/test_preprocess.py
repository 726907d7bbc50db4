import numpy as np
import torch
import torchvision.transforms.v2 as T

from aindex.descriptors.preprocess import IMAGENET_MEAN, IMAGENET_STD, denormalise, normalise, prepare, resize


def test_prepare_is_normalise_then_tensor_resize(make_picture):
    picture = make_picture(1, 61, 47)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
    expected = T.Resize((32, 32), antialias=True)(T.Normalize(IMAGENET_MEAN, IMAGENET_STD)(pixels))
    torch.testing.assert_close(prepare(picture, 32), expected, atol=1e-6, rtol=0)


def test_denormalise_is_the_inverse():
    pixels = torch.rand(2, 3, 5, 4)
    torch.testing.assert_close(denormalise(normalise(pixels)), pixels)


def test_resize_takes_any_leading_dimensions_and_passes_gradients():
    values = torch.rand(2, 2, 3, 9, 7, requires_grad=True)
    resized = resize(values, 4)
    assert resized.shape == (2, 2, 3, 4, 4)
    torch.testing.assert_close(resized[1, 0], resize(values[1, 0], 4))
    resized.sum().backward()
    assert values.grad is not None
    assert values.grad.abs().sum() > 0
