import numpy as np
import pytest
import torch

from aindex.activation.distortion import ActivationSettings, distortion, heatmap
from aindex.activation.objective import feature_loss, image_loss
from aindex.activation.perceptual import jnd_map
from aindex.errors import ConfigError


def test_cosine_loss_by_hand() -> None:
    y = torch.tensor([[3.0, 4.0], [1.0, 0.0], [2.0, 0.0]])
    t = torch.tensor([[3.0, 4.0], [0.0, 5.0], [-1.0, 0.0]])
    assert torch.allclose(feature_loss(y, t, "cossim"), torch.tensor([-1.0, 0.0, 1.0]))


def test_squared_loss_sums_over_dimensions() -> None:
    loss = feature_loss(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.0, 0.0, 5.0]]), "mse")
    assert loss.tolist() == [9.0]


def test_losses_equal_numpy() -> None:
    rng = np.random.default_rng(0)
    y, t = rng.standard_normal((2, 5, 32))
    cosine = (y * t).sum(1) / np.linalg.norm(y, axis=1) / np.linalg.norm(t, axis=1)
    a, b = torch.from_numpy(y), torch.from_numpy(t)
    np.testing.assert_allclose(feature_loss(a, b, "cossim"), -cosine, atol=1e-5)
    np.testing.assert_allclose(feature_loss(a, b, "mse"), ((y - t) ** 2).sum(1), rtol=1e-5)
    changes = [rng.standard_normal((3, 4, 5)), rng.standard_normal((3, 9, 2))]
    measured = image_loss([torch.from_numpy(change) for change in changes])
    np.testing.assert_allclose(measured, [(change**2).mean() for change in changes], rtol=1e-5)


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="cossim"):
        feature_loss(torch.ones(1, 2), torch.ones(1, 2), "l1")  # type: ignore[arg-type]


@pytest.mark.parametrize("use_tanh", [True, False])
@pytest.mark.parametrize("scale_channels", [True, False])
@pytest.mark.parametrize("use_attenuation", [True, False])
def test_distortion_equals_numpy(use_tanh: bool, scale_channels: bool, use_attenuation: bool) -> None:
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
    measured = distortion(torch.from_numpy(delta), heatmap(image, settings), settings)
    np.testing.assert_allclose(measured, expected, atol=1e-5)


def test_the_defaults_are_the_published_ones() -> None:
    settings = ActivationSettings()
    assert (settings.iterations, settings.loss_f, settings.scaling) == (10, "cossim", 3.0)
    assert (settings.lambda_f, settings.lambda_i) == (1.0, 0.01)
    assert settings.use_attenuation
    assert settings.use_tanh
    assert settings.scale_channels
    assert settings.delta_size == "image"


@pytest.mark.parametrize(
    "wrong",
    [
        {"iterations": -1},
        {"scaling": -0.5},
        {"scaling": float("nan")},
        {"lambda_f": float("inf")},
        {"lambda_i": -1.0},
        {"loss_f": "l1"},
        {"delta_size": "half"},
    ],
)
def test_wrong_settings_name_the_allowed_values(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        ActivationSettings(**wrong)  # type: ignore[arg-type]
