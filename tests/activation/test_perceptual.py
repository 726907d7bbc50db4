import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.metrics import structural_similarity

from aindex.activation.outcome import measured, measured_at_once
from aindex.activation.perceptual import jnd_map, jnd_maps, linf_grey_levels, pad_by_reflection, psnr_db, ssim
from aindex.data.images import read_image, to_tensor


def reference_jnd(image: np.ndarray) -> np.ndarray:
    """Section 5 of the method in numpy and scipy, float64: H×W×3 in [0, 1] → H×W."""
    y = 255 * (image.astype(np.float64) @ (0.299, 0.587, 0.114))
    kernel = np.ones((5, 5))
    kernel[1:4, 1:4] = 2
    kernel[2, 2] = 0
    assert kernel.sum() == 32
    # scipy's "mirror" reflects about the centre of the edge pixel, as numpy's and torch's "reflect"
    background = ndimage.correlate(y, kernel / 32, mode="mirror")
    dark = 17 * (1 - np.sqrt(background / 127 + 1e-3)) + 3
    luminance = np.where(background <= 127, dark, 3 / 128 * (background - 127) + 3)
    gradient = np.hypot(ndimage.sobel(y, 0, mode="mirror"), ndimage.sobel(y, 1, mode="mirror"))
    contrast = 0.117 * 16 * gradient**2.4 / (gradient**2 + 26**2)
    return np.maximum(luminance + contrast - 0.3 * np.minimum(luminance, contrast), 5) / 255


def assert_equals_reference(image: torch.Tensor) -> None:
    expected = reference_jnd(image.permute(1, 2, 0).numpy())
    np.testing.assert_allclose(jnd_map(image)[0], expected, atol=1e-5, rtol=0)


def test_jnd_of_several_images_is_that_of_each() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = [(40, 48), (7, 90), (3, 3), (2, 5), (1, 9), (9, 1), (1, 1), (30, 20)]
    images = [torch.rand(3, *size, generator=generator) for size in sizes]
    images[-1] = torch.full((3, 30, 20), 127 / 255)  # where rounding must not take sides
    begins = np.cumsum([5, *(image.numel() for image in images[:-1])]).tolist()
    pixels = torch.cat([torch.zeros(5), *(image.flatten() for image in images)])
    found = jnd_maps(pixels, [image.shape for image in images], begins)
    for one, image in zip(found, images, strict=True):
        torch.testing.assert_close(one, jnd_map(image), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(40, 48), (7, 90), (3, 3), (2, 5), (1, 9), (9, 1), (1, 1)])
def test_jnd_equals_an_independent_implementation(size: tuple[int, int]) -> None:
    assert_equals_reference(torch.rand(3, *size, generator=torch.Generator().manual_seed(0)))


def test_jnd_of_flat_pictures_by_hand() -> None:
    black = jnd_map(torch.zeros(3, 8, 8))
    assert torch.allclose(black, torch.tensor((17 * (1 - math.sqrt(1e-3)) + 3) / 255))
    assert torch.allclose(jnd_map(torch.ones(3, 8, 8)), torch.tensor((3 / 128 * 128 + 3) / 255))
    middle = jnd_map(torch.full((3, 8, 8), 127 / 255))
    assert torch.allclose(middle, torch.tensor(5 / 255))


def test_jnd_on_photographs(photographs: Path) -> None:
    for path in sorted((photographs / "disc21" / "references").iterdir())[:30]:
        assert_equals_reference(to_tensor(read_image(path)))


def test_jnd_lets_no_gradient_through() -> None:
    assert not jnd_map(torch.rand(3, 8, 8, requires_grad=True)).requires_grad


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (3, 9), (5, 4)])
def test_padding_reflects_as_often_as_needed(shape: tuple[int, int]) -> None:
    plane = torch.rand(shape)
    np.testing.assert_array_equal(pad_by_reflection(plane, 4), np.pad(plane, 4, mode="reflect"))


def test_psnr_and_linf_by_hand() -> None:
    a = torch.zeros(3, 4, 4)
    b = torch.full((3, 4, 4), 0.1)
    assert psnr_db(a, b) == pytest.approx(20)
    assert linf_grey_levels(a, b) == pytest.approx(25.5)
    assert psnr_db(a, a) == torch.inf
    eight_bits = torch.zeros(4, 4, 3, dtype=torch.uint8)
    eight_bits[0, 0, 0] = 51
    assert linf_grey_levels(eight_bits, torch.zeros(4, 4, 3)) == pytest.approx(51)
    assert psnr_db(eight_bits, torch.zeros(4, 4, 3)) == pytest.approx(-10 * math.log10(0.2**2 / 48))


@pytest.mark.parametrize("size", [(40, 48), (11, 30)])
def test_ssim_equals_scikit_image(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    a = rng.random((*size, 3), dtype=np.float32)
    b = np.clip(a + 0.1 * rng.standard_normal(a.shape, dtype=np.float32), 0, 1)
    expected = structural_similarity(
        a, b, channel_axis=2, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    measured = ssim(torch.from_numpy(a).permute(2, 0, 1), torch.from_numpy(b).permute(2, 0, 1))
    assert measured == pytest.approx(expected, abs=1e-5)


def test_ssim_of_equal_and_of_tiny_pictures() -> None:
    for height, width in ((5, 1), (1, 1), (9, 30)):
        picture = torch.tensor([9, 80, 200], dtype=torch.uint8).view(3, 1, 1).expand(3, height, width)
        assert ssim(picture, picture) == pytest.approx(1)
        assert ssim(picture, 255 - picture) < 0.99


def test_ssim_of_two_sizes_is_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        ssim(torch.zeros(3, 40, 40), torch.zeros(3, 10, 40))


@pytest.mark.parametrize("grey", [None, 127])
def test_a_large_image_is_mapped_band_by_band(grey, monkeypatch):
    image = torch.rand(3, 50, 40, generator=torch.Generator().manual_seed(0))
    if grey is not None:
        image[:] = grey / 255
    whole = jnd_map(image)
    monkeypatch.setattr("aindex.activation.perceptual._BAND_PIXELS", 40 * 7)
    monkeypatch.setattr("aindex.activation.perceptual._WINDOWS", 11)
    torch.testing.assert_close(jnd_map(image), whole, atol=1e-7, rtol=0)


def test_measures_of_several_images_at_once_are_those_of_each() -> None:
    generator = torch.Generator().manual_seed(0)
    released = [
        torch.randint(0, 256, (9, 5 + i, 3), dtype=torch.uint8, generator=generator) for i in range(4)
    ]
    originals = [torch.rand(one.shape, generator=generator) for one in released]
    originals[2] = released[2].clone()
    expected = measured([one.permute(2, 0, 1) for one in originals], released)
    assert expected[0, 2] == torch.inf
    torch.testing.assert_close(measured_at_once(originals, released), expected)
