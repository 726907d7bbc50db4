"""From δ to the change of an image: the settings of the loop, and the shape it gives to δ."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from aindex.activation.objective import FeatureLoss
from aindex.activation.perceptual import LUMINANCE, jnd_map
from aindex.errors import ConfigError

CHANNEL_SCALE = tuple(0.072 / weight for weight in LUMINANCE)
"""α: the eye sees a change of blue least and one of green most."""

INITIAL_STD = 1e-6
"""Standard deviation of δ at the start: nothing to see, but off the point where gradients may vanish."""

DeltaSize = Literal["image", "input"]


@dataclass(frozen=True, kw_only=True)
class ActivationSettings:
    """The loop's constants; the defaults are the published method's.

    Attributes:
        iterations: gradient steps per image.
        loss_f: distance to the target, `cossim` or `mse`.
        lambda_f: weight of the feature loss.
        lambda_i: weight of the image loss.
        scaling: how many just-noticeable differences |δ'| = 1 is worth.
        use_attenuation: shape the change by the JND map; else by a flat map of the same mean.
        use_tanh: bound δ by tanh.
        scale_channels: weigh R, G, B by CHANNEL_SCALE.
        delta_size: `image`: δ has the image's own size. `input`: δ has the extractor's input size, the loop
            runs on the resized image and heatmap, and tanh(δ) is up-sampled once at the end.
    """

    iterations: int = 10
    loss_f: FeatureLoss = "cossim"
    lambda_f: float = 1.0
    lambda_i: float = 0.01
    scaling: float = 3.0
    use_attenuation: bool = True
    use_tanh: bool = True
    scale_channels: bool = True
    delta_size: DeltaSize = "image"

    def __post_init__(self) -> None:
        for name in ("lambda_f", "lambda_i", "scaling"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:  # NaN is neither
                raise ConfigError(
                    f"{name} {value}: expected a number of 0 or more; leave it out for the default"
                )
        if self.iterations < 0:
            raise ConfigError(f"iterations {self.iterations}: expected 0 or more; the default is 10")
        for name, kind in (("loss_f", FeatureLoss), ("delta_size", DeltaSize)):
            value = getattr(self, name)
            if value not in get_args(kind):
                allowed = " or ".join(get_args(kind))
                raise ConfigError(f"{name} {value!r}: expected {allowed}; leave it out for the default")


def heatmap(image: Tensor, settings: ActivationSettings) -> Tensor:
    """How much of δ' each pixel takes: `scaling` · JND, or a flat map of the same mean.

    Args:
        image: 3×H×W in [0, 1].
        settings: uses scaling and use_attenuation.

    Returns:
        1×H×W float32, without gradient.
    """
    jnd = jnd_map(image)
    if not settings.use_attenuation:
        # a CPU's mean in torch depends on the number of threads
        mean = float(np.mean(jnd.numpy(), dtype=np.float64)) if jnd.device.type == "cpu" else jnd.mean()
        jnd = torch.full_like(jnd, mean) if isinstance(mean, float) else mean.expand_as(jnd)
    return settings.scaling * jnd


@lru_cache(maxsize=64)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers on a device; kept, because sending them there would wait for all that the device has to do."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device)


def channel_scale(settings: ActivationSettings, device: torch.device) -> Tensor:
    """α of R, G, B, or ones without `scale_channels`."""
    return constant(CHANNEL_SCALE if settings.scale_channels else (1.0, 1.0, 1.0), device)


def bounded(delta: Tensor, settings: ActivationSettings) -> Tensor:
    """Tanh(δ), or δ itself without `use_tanh`."""
    return torch.tanh(delta) if settings.use_tanh else delta


def distortion(delta: Tensor, heat: Tensor, settings: ActivationSettings) -> Tensor:
    """The change of the image in normalised space, h ⊙ α ⊙ tanh(δ).

    Args:
        delta: 3×H×W.
        heat: 1×H×W, from heatmap().
        settings: uses use_tanh and scale_channels.
    """
    scale = channel_scale(settings, delta.device).view(3, 1, 1)
    return heat * (scale * bounded(delta, settings))
