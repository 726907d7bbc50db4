from typing import Any

import numpy as np
import pytest
import torch

from aindex.activation.apart import _Plain, _Traced
from aindex.activation.canvas import Canvas
from aindex.activation.flat import Flat
from aindex.activation.perceptual import jnd_map
from aindex.activation.settings import ActivationSettings
from aindex.errors import ConfigError


@pytest.mark.parametrize("use_tanh", [True, False])
@pytest.mark.parametrize("scale_channels", [True, False])
@pytest.mark.parametrize("use_attenuation", [True, False])
def test_the_change_equals_numpy(use_tanh: bool, scale_channels: bool, use_attenuation: bool) -> None:
    settings = ActivationSettings(
        use_tanh=use_tanh, scale_channels=scale_channels, use_attenuation=use_attenuation, scaling=2.5
    )
    rng = np.random.default_rng(1)
    delta = rng.standard_normal((3, 6, 7)).astype(np.float32)
    image = torch.from_numpy(rng.random((3, 6, 7), dtype=np.float32))
    jnd = jnd_map(image).numpy()
    if not use_attenuation:
        jnd = np.full_like(jnd, jnd.mean())
    expected = np.tanh(delta) if use_tanh else delta
    if scale_channels:
        expected = expected * (0.072 / np.array([0.299, 0.587, 0.114]))[:, None, None]
    expected = 2.5 * jnd * expected
    canvas = Canvas([image], 4, settings)
    deltas = [torch.from_numpy(delta)]
    for measured in (canvas.change(deltas).view(delta.shape), *canvas.full_changes(deltas)):
        np.testing.assert_allclose(measured, expected, atol=1e-5)


def test_mean_square_and_its_gradient_by_hand() -> None:
    change = torch.tensor([[[1.0, -3.0]], [[2.0, 0.0]]], requires_grad=True)
    layout = Flat([change.shape], torch.device("cpu"))
    square = layout.mean_squares(layout.join([change]))
    square.sum().backward()
    assert square.tolist() == pytest.approx([14 / 4])
    torch.testing.assert_close(change.grad, change.detach() / 2)


def test_the_image_to_edit_and_the_input_show_the_same_change() -> None:
    image = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    for delta_size in ("image", "input", 3):
        canvas = Canvas([image], 16, ActivationSettings(delta_size=delta_size, views=1, scaling=1.0))
        change = canvas.change([torch.randn(canvas.shapes[0], generator=torch.Generator().manual_seed(1))])
        picture = canvas.picture(change)
        side = {"image": 32, "input": 16, 3: 48}[delta_size]
        assert picture.shape == (1, 3, side, side)
        moved = canvas.input(change) - canvas.input(torch.zeros_like(change))
        shown = torch.nn.functional.avg_pool2d(picture - canvas.picture(0 * change), side // 16)
        std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        # two resizes in a row are not quite one
        assert (moved * std - shown).abs().mean() < (
            0.25 if delta_size == "image" else 1e-5
        ) * moved.abs().mean()


def test_the_defaults_are_the_published_ones() -> None:
    settings = ActivationSettings()
    assert (settings.iterations, settings.loss_f, settings.scaling) == (10, "cossim", 3.0)
    assert (settings.lambda_f, settings.lambda_i) == (1.0, 0.01)
    assert settings.use_attenuation
    assert settings.use_tanh
    assert settings.scale_channels
    assert settings.delta_size == "image"
    assert (settings.views, settings.min_psnr) == (0, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"iterations": -1},
        {"views": -1},
        {"scaling": -0.5},
        {"scaling": float("nan")},
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"min_psnr": 3.0},
        {"min_psnr": float("nan")},
        {"lambda_f": float("inf")},
        {"lambda_i": -1.0},
        {"loss_f": "l1"},
        {"delta_size": "half"},
        {"delta_size": 0},
        {"delta_size": 1.5},
    ],
)
def test_wrong_settings_name_the_allowed_values(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        ActivationSettings(**wrong)


@pytest.mark.parametrize("delta_size", ["image", "input"])
def test_faithful_greys_black_and_white(delta_size: Any) -> None:
    grey = torch.rand(1, 40, 50, generator=torch.Generator().manual_seed(0)).expand(3, -1, -1).clone()
    colours = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(1))
    settings = ActivationSettings(delta_size=delta_size, faithful=True)
    for image in (grey, colours):
        image[:, :10], image[:, 10:15] = 0, 1
        canvas = Canvas([image], 16, settings)
        deltas = [torch.randn(canvas.shapes[0], generator=torch.Generator().manual_seed(2))]
        released = canvas.released(deltas)[0].permute(2, 0, 1)
        assert (released[:, :10] == 0).all()
        assert (released[:, 10:15] == 255).all()
        assert (released[:, 15:].float() - 255 * image[:, 15:]).abs().max() > 1
        if image is grey:
            assert (released.int() - released[:1].int()).abs().max() <= 1  # equal but for rounding
            change = canvas.full_changes(deltas)[0] * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
            torch.testing.assert_close(change, change[:1].expand_as(change))


def test_the_published_method_is_not_faithful() -> None:
    image = torch.zeros(3, 20, 20)
    canvas = Canvas([image], 16, ActivationSettings())
    assert canvas.released([torch.full((3, 20, 20), 3.0)])[0].max() > 0


@pytest.mark.parametrize("size", [(40, 57), (16, 16), (1, 90)])
def test_what_is_derived_by_hand_is_what_autograd_derives(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(4)
    one = Canvas([torch.rand(3, *size, generator=generator)], 16, ActivationSettings())
    assert one.is_plain
    delta = torch.randn(3, *size, generator=generator)
    plain, traced = _Plain(one, delta), _Traced(one, delta)
    torch.testing.assert_close(plain.parts, [part.detach() for part in traced.parts])
    given = [torch.randn(part.shape, generator=generator) for part in plain.parts]
    given[1] *= delta.numel()  # as large as the other
    torch.testing.assert_close(plain.gradient(*given), traced.gradient(*given), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [{"delta_size": "input"}, {"views": 1}, {"min_psnr": 40.0}, {"use_tanh": False}],
    ids=lambda changes: next(iter(changes)),
)
def test_what_is_more_than_tanh_is_left_to_autograd(changes: dict[str, Any]) -> None:
    assert not Canvas([torch.rand(3, 9, 9)], 16, ActivationSettings(**changes)).is_plain


def test_a_grey_image_is_left_to_autograd() -> None:
    grey = torch.rand(1, 9, 9).expand(3, -1, -1)
    assert not Canvas([grey], 16, ActivationSettings(faithful=True)).is_plain
