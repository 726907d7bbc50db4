"""Each edit against its counterpart on a PIL picture; tolerances in grey levels, mean over the picture."""

import io
import random
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tvf

from aindex.edits import differentiable
from aindex.edits.differentiable import (
    EditSettings,
    Family,
    View,
    blurred,
    compressed,
    draw,
    edited,
    rotation,
    sent,
    window,
)
from aindex.edits.named import default_attacks, unseen_attacks
from aindex.errors import ConfigError

SIDE = 64
FAMILIES: list[Family] = list(EditSettings().families)


@pytest.fixture
def picture() -> Image.Image:
    rng = np.random.default_rng(3)
    coarse = Image.fromarray(rng.integers(0, 256, size=(5, 7, 3), dtype=np.uint8))
    return coarse.resize((180, 120), Image.Resampling.BICUBIC)


def squeezed(image: Image.Image, side: int = SIDE) -> Tensor:
    """The picture as the loop holds it, 3×S×S in [0, 1]."""
    return tvf.resize(tvf.to_tensor(image), [side, side], antialias=True)


def apply(image: Image.Image, view: View, side: int = SIDE) -> npt.NDArray[np.float64]:
    return 255 * edited(squeezed(image, side)[None], sent([[view]], "cpu")[0], side)[0].double().numpy()


def wanted(image: Image.Image, side: int = SIDE) -> npt.NDArray[np.float64]:
    return 255 * squeezed(image, side).double().numpy()


def difference(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    return float(np.abs(a - b).mean())


@pytest.mark.parametrize("degrees", [-40, 25, 90, -90, 100])
def test_rotation(picture: Image.Image, degrees: float) -> None:
    turned = tvf.rotate(picture, degrees, interpolation=InterpolationMode.BILINEAR, expand=True)
    view = View(theta=rotation(degrees, picture.width / picture.height))
    # edges of the canvas are drawn by another rule
    assert difference(apply(picture, view, 128), wanted(turned, 128)) < 2.5


def test_crop(picture: Image.Image) -> None:
    cropped = picture.crop((18, 24, 144, 108))
    view = View(theta=window(18 / 180, 24 / 120, 144 / 180, 108 / 120))
    assert difference(apply(picture, view), wanted(cropped)) < 1


@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_band(picture: Image.Image, fill: float) -> None:
    canvas = Image.new("RGB", (180, 240), (round(255 * fill),) * 3)
    canvas.paste(picture, (0, 120))
    assert difference(apply(picture, View(theta=window(0, -1, 1, 1), fill=fill)), wanted(canvas)) < 1.5


def test_frame(picture: Image.Image) -> None:
    canvas = Image.new("RGB", (360, 240), (51,) * 3)
    canvas.paste(picture, (90, 60))
    view = View(theta=window(-0.5, -0.5, 1.5, 1.5), fill=0.2)
    assert difference(apply(picture, view), wanted(canvas)) < 1.5


@pytest.mark.parametrize("is_oval", [False, True])
def test_patch(picture: Image.Image, is_oval: bool) -> None:
    across = (np.arange(SIDE) * 2 + 1) / SIDE - 1
    x, y = np.meshgrid(across, across)
    inside = ((x - 0.1) / 0.4) ** 2 + ((y + 0.2) / 0.5) ** 2 <= 1
    if not is_oval:
        inside = (np.abs(x - 0.1) <= 0.4) & (np.abs(y + 0.2) <= 0.5)
    expected = wanted(picture)
    expected[:, inside] = 0.25 * expected[:, inside] + 0.75 * 255 * np.array([[1.0], [0.0], [0.5]])
    view = View(patch=(0.1, -0.2, 0.4, 0.5, 1.0, 0.0, 0.5, 0.75, is_oval))
    assert np.abs(apply(picture, view) - expected).max() < 1e-3


@pytest.mark.parametrize(
    ("name", "value", "tolerance"),
    [
        ("brightness", 0.6, 1), ("brightness", 1.7, 1), ("contrast", 0.6, 1), ("contrast", 1.8, 1),
        ("saturation", 0.0, 1), ("saturation", 2.5, 1), ("hue", 0.3, 3), ("hue", -0.15, 3),
    ],
)  # fmt: skip
def test_colours(picture: Image.Image, name: str, value: float, tolerance: float) -> None:
    small = picture.resize((SIDE, SIDE))
    expected = np.asarray(getattr(tvf, f"adjust_{name}")(small, value), float).transpose(2, 0, 1)
    assert difference(apply(small, View(**{name: value})), expected) < tolerance  # type: ignore[arg-type]


def test_hue_is_torchvision_s(picture: Image.Image) -> None:
    pixels = torch.stack(
        [
            squeezed(picture),
            torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)),
            torch.full((3, SIDE, SIDE), 0.5),
        ]
    )
    hues = [0.3, -0.2, 0.1]
    pixels[0, :, :5], pixels[0, :, 5:10], pixels[0, 1, 10:20] = (
        0,
        1,
        pixels[0, 0, 10:20],
    )  # and two equal channels
    (edits,) = sent([[View(hue=hue) for hue in hues]], "cpu")
    expected = torch.stack([tvf.adjust_hue(one, hue) for one, hue in zip(pixels, hues, strict=True)])
    torch.testing.assert_close(edited(pixels, edits, SIDE), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("deviation", [0.5, 2.0])
def test_blur(picture: Image.Image, deviation: float) -> None:
    small = picture.resize((SIDE, SIDE))
    expected = ndimage.gaussian_filter(
        np.asarray(small, float), (deviation, deviation, 0), mode="mirror", truncate=3
    )
    assert difference(apply(small, View(blur=deviation)), expected.transpose(2, 0, 1)) < 0.5
    (widest,) = sent([[View(blur=9.0)]], "cpu")
    assert blurred(squeezed(picture, 3)[None], widest).shape == (1, 3, 3, 3)  # no wider than the picture


@pytest.mark.parametrize("quality", [15, 50, 80])
@pytest.mark.parametrize("size", [(64, 64), (180, 120), (33, 21)])
def test_jpeg(picture: Image.Image, quality: int, size: tuple[int, int]) -> None:
    picture = picture.resize(size)
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=quality)
    expected = np.asarray(Image.open(content), float).transpose(2, 0, 1)
    (edits,) = sent([[View(jpeg=quality)]], "cpu")
    measured = 255 * compressed(tvf.to_tensor(picture)[None], edits)[0].double().numpy()
    damage = difference(expected, np.asarray(picture, float).transpose(2, 0, 1))
    assert difference(measured, expected) < max(0.35 * damage, 1)


def test_gradients_pass_jpeg_as_if_it_were_not_there(picture: Image.Image) -> None:
    pixels = tvf.to_tensor(picture)[None].requires_grad_()
    weights = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    (edits,) = sent([[View(jpeg=30)]], "cpu")
    (compressed(pixels, edits) * weights).sum().backward()
    assert pixels.grad is not None
    torch.testing.assert_close(pixels.grad, weights)


@pytest.mark.parametrize(
    "view",
    [
        View(theta=rotation(33, 1.4), fill=0.7), View(theta=window(-0.2, 0.1, 0.9, 1.3)), View(brightness=0.7),
        View(contrast=0.7), View(saturation=0.4), View(hue=0.13), View(blur=0.9),
        View(patch=(0.1, 0.0, 0.5, 0.4, 0.2, 0.9, 0.5, 0.6, True)),
        View(theta=rotation(-20, 1.0), contrast=0.8, blur=0.5),
    ],
)  # fmt: skip
def test_gradients_equal_finite_differences(view: View) -> None:
    # no two channels equal and none at a border of [0, 1], where colours turn sharply
    pixels = 0.2 + 0.6 * torch.rand(
        1, 3, 8, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64
    )
    assert torch.autograd.gradcheck(
        lambda x: edited(x, sent([[view]], "cpu")[0], 4), pixels.requires_grad_(), eps=1e-6, atol=1e-4
    )


def test_every_picture_has_its_own_edit_whatever_the_others(picture: Image.Image) -> None:
    pictures = torch.stack([squeezed(picture), squeezed(picture).flip(2), squeezed(picture).flip(1)])
    rng = random.Random(1)
    for _ in range(30):
        views = [draw(rng, 1.5, EditSettings()) for _ in pictures]
        edits = sent([views], "cpu")[0]
        together = edited(pictures, edits, SIDE // 2)
        assert together.shape == (3, 3, SIDE // 2, SIDE // 2)
        assert together.min() >= 0
        assert together.max() <= 1 + 1e-6
        for i in range(3):
            assert torch.equal(together[i], edited(pictures[i : i + 1], edits.some([i]), SIDE // 2)[0])


def test_jpeg_of_all_at_once_is_that_of_each(picture: Image.Image) -> None:
    """As on a GPU; in float64, where nothing lies so near a half that rounding decides."""
    pictures = torch.stack([squeezed(picture, 40), squeezed(picture, 40).flip(2)]).double()
    (edits,) = sent([[View(jpeg=20.0), View(jpeg=77.5)]], "cpu")
    constants = tuple(part.double() for part in differentiable._jpeg_constants(torch.device("cpu")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(differentiable, "_jpeg_constants", lambda device: constants)
        together = differentiable._jpeg_decoded(pictures, edits)
        torch.testing.assert_close(together, compressed(pictures, edits))
    assert (together[0] - pictures[0]).abs().mean() > 2 * (together[1] - pictures[1]).abs().mean()


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_changes_the_picture(picture: Image.Image, family: Family) -> None:
    settings = EditSettings(families={family: 1}, composed=1)
    rng = random.Random(7)
    views = [draw(rng, 1.5, settings) for _ in range(8)]
    pictures = squeezed(picture).expand(8, 3, SIDE, SIDE)
    changes = (edited(pictures, sent([views], "cpu")[0], SIDE) - pictures).abs().mean((1, 2, 3))
    assert changes.max() > 1 / 255


def test_a_second_edit_is_of_the_other_kind() -> None:
    rng = random.Random(0)
    for _ in range(200):
        view = draw(rng, 1.0, EditSettings(composed=1))
        pixels = (view.brightness, view.contrast, view.saturation, view.hue, view.blur, view.jpeg, view.patch)
        assert (view.theta is not None) == (sum(one is not None for one in pixels) == 1)


def test_the_evaluation_s_exact_parameters_are_never_drawn() -> None:
    evaluated = {(attack.name, attack.param) for attack in [*default_attacks(), *unseen_attacks()]}
    rng = random.Random(0)
    for _ in range(5000):
        view = draw(rng, 1.5, EditSettings())
        for name in ("brightness", "contrast", "hue", "jpeg"):
            assert (name, getattr(view, name)) not in evaluated
        assert view.theta not in (rotation(25, 1.5), rotation(90, 1.5))
        assert view.theta is None or abs(view.theta[0] - 0.5**0.5) > 1e-9
    assert not {"hflip", "perspective", "sharpen", "emoji", "text"} & set(FAMILIES)


def test_the_same_seed_draws_the_same() -> None:
    def drawn(seed: int) -> list[View]:
        rng = random.Random(seed)
        return [draw(rng, 1.2, EditSettings()) for _ in range(5)]

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"families": {"rotate": 1}}, "rotate.*expected weights.*rotation"),
        ({"families": {"rotation": 0}}, "not all 0"),
        ({"families": {"rotation": -1}}, "0 or more"),
        ({"families": {}}, "not all 0"),
        ({"composed": 1.5}, "composed 1.5: expected a probability"),
        ({"crop": (0.9, 0.3)}, "crop.*in order"),
        ({"jpeg": (0, 50)}, "jpeg.*from 1 to 100"),
        ({"light": float("nan")}, "light nan"),
    ],
)
def test_wrong_settings_name_what_is_allowed(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        EditSettings(**wrong)
