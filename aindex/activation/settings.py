"""The loop's constants."""

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from aindex.activation.goals import FeatureLoss
from aindex.edits.differentiable import EditSettings
from aindex.errors import ConfigError

DeltaSize = Literal["image", "input"] | int


@dataclass(frozen=True, kw_only=True)
class ActivationSettings:
    """The loop's constants; the defaults are the published method's.

    Attributes:
        iterations: gradient steps per image.
        loss_f: what is minimised: `cossim` minus the cosine similarity to the target, `mse` the squared distance;
            `assignment` minus the log-probability that the index files the image and its copies where the image's row
            lies.
        temperature: of `assignment`, in squared distances.
        anchor: weight, within `assignment`, of staying near the unchanged image's descriptor, for indexes that will be
            trained anew.
        lambda_f: weight of the feature loss.
        lambda_i: weight of the image loss.
        scaling: strength of the change: how many just-noticeable differences |δ'| = 1 is worth.
        min_psnr: least PSNR in dB (default: no bound); larger changes are scaled down to it in every iteration.
        use_attenuation: shape the change by what the eye does not see (JND map); else by a flat map of the same mean.
        use_tanh: bound δ by tanh.
        scale_channels: allow red, green and blue what the eye tolerates in each.
        delta_size: size at which the change is optimised: `image` the image's own; `input` the extractor's input, or a
            number, so many times that: the loop then runs on the image and heatmap of this size, so that its cost does
            not grow with the image, and δ' is up-sampled once at the end.
        faithful: grey images stay grey, pure black and pure white pixels stay as they are.
        views: randomly edited copies that each iteration draws to the same place.
        edits: what they are edited by.
    """

    iterations: int = 10
    loss_f: FeatureLoss = "cossim"
    temperature: float = 0.05
    anchor: float = 0.0
    lambda_f: float = 1.0
    lambda_i: float = 0.01
    scaling: float = 3.0
    min_psnr: float | None = None
    use_attenuation: bool = True
    use_tanh: bool = True
    scale_channels: bool = True
    delta_size: DeltaSize = "image"
    faithful: bool = False
    views: int = 0
    edits: EditSettings = field(default_factory=EditSettings)

    def __post_init__(self) -> None:
        for name in ("iterations", "views", "lambda_f", "lambda_i", "scaling", "anchor"):
            value, default = getattr(self, name), getattr(ActivationSettings, name)
            if not 0 <= value < math.inf:  # NaN is neither
                raise ConfigError(f"{name} {value}: expected 0 or more; the default is {default:g}")
        if not 0 < self.temperature < math.inf:
            raise ConfigError(
                f"temperature {self.temperature}: expected a number above 0; the default is 0.05"
            )
        if self.min_psnr is not None and not 10 <= self.min_psnr <= 100:
            raise ConfigError(
                f"min_psnr {self.min_psnr}: expected 10 to 100 dB; 42 is hard to see, 38 is visible"
            )
        if self.loss_f not in get_args(FeatureLoss):
            allowed = " or ".join(get_args(FeatureLoss))
            raise ConfigError(f"loss_f {self.loss_f!r}: expected {allowed}; leave it out for the default")
        if self.delta_size not in ("image", "input") and not (
            isinstance(self.delta_size, int) and 1 <= self.delta_size <= 16
        ):
            raise ConfigError(
                f"delta_size {self.delta_size!r}: expected image, input, or how many times the extractor's input, 1 to "
                "16; leave it out for the default"
            )
