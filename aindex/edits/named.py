"""The edits of the retrieval evaluation, each with a fixed parameter; code and tables keep the paper's word, attack."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tvf

from aindex.edits import augly_repairs
from aindex.edits.random_edit import apply_random_edits
from aindex.edits.unseen import UNSEEN
from aindex.errors import AindexError, EditError

AttackList = Literal["default", "full", "unseen"]
Template = Literal["web", "mobile"]


@dataclass(frozen=True)
class Attack:
    """An edit and its parameter.

    Attributes:
        name: which edit.
        param: degrees (rotation), share of the area kept (center_crop, resize), kernel size in pixels (blur), JPEG
            quality, hue shift in turns, or factor (contrast, brightness, sharpen, aspect); share that the far edge
            loses (perspective), of the range of values (gaussian_noise, a standard deviation), of the pixels
            (salt_and_pepper), of the corners' light (vignette), by which red grows and blue falls (temperature), of
            the height (emoji, text); bits (posterise), radians (swirl), pixels (longest_side); None where the edit
            has no parameter.
    """

    name: str
    param: float | None = None

    def __str__(self) -> str:
        return self.name if self.param is None else f"{self.name} {self.param:g}"


def _attacks(name: str, *params: float) -> list[Attack]:
    return [Attack(name, param) for param in params]


def default_attacks() -> list[Attack]:
    """The fifteen edits of a normal evaluation."""
    return [
        Attack("none"),
        Attack("auto"),
        Attack("meme_format"),
        Attack("overlay_onto_screenshot"),
        *_attacks("rotation", 25, 90),
        *_attacks("center_crop", 0.5),
        *_attacks("resize", 0.5),
        *_attacks("blur", 11),
        *_attacks("jpeg", 50),
        *_attacks("hue", 0.2),
        *_attacks("contrast", 0.5, 2),
        *_attacks("brightness", 0.5, 2),
    ]


def full_attacks() -> list[Attack]:
    """A fine grid over every edit that has a parameter, for curves."""
    tenths = [round(0.1 * step, 1) for step in range(-5, 20)]
    shares = [share for share in tenths if 0.1 <= share <= 1.0]
    factors = [factor for factor in tenths if factor >= 0.5]
    return [
        *_attacks("rotation", *range(-90, 91, 10)),
        *_attacks("center_crop", *shares),
        *_attacks("resize", *shares),
        *_attacks("blur", *range(1, 30, 2)),
        *_attacks("jpeg", *range(10, 101, 10)),
        *_attacks("contrast", *factors),
        *_attacks("brightness", *factors),
        *_attacks("hue", *[shift for shift in tenths if shift <= 0.5]),
    ]


def unseen_attacks() -> list[Attack]:
    """Sixteen edits of families that the activation loop never draws."""
    unseen = [Attack(name, param) for name, (param, _) in UNSEEN.items()]
    return [*unseen, Attack("jpeg", 20)]


def attacks_of(which: AttackList) -> list[Attack]:
    """The edits of a list.

    Args:
        which: `default` the fifteen of a normal evaluation, `full` a fine grid over their parameters, `unseen` others.
    """
    lists = {"default": default_attacks, "full": full_attacks, "unseen": unseen_attacks}
    return lists[which]()


def _sides_for_area(image: Image.Image, share: float) -> list[int]:
    """Height and width of a picture of the same shape with `share` of the area, at least one pixel each."""
    scale = math.sqrt(share)
    return [max(1, round(image.height * scale)), max(1, round(image.width * scale))]


def _jpeg(image: Image.Image, quality: float) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=int(quality))
    decoded = Image.open(buffer)
    decoded.load()
    return decoded


def _blur(image: Image.Image, size: float) -> Image.Image:
    """Torchvision's `gaussian_blur`, along one axis after the other: a fifth of its time.

    The kernel is cut to what the reflection at the border of a small picture allows.
    """
    kernel = min(int(size), 2 * min(image.size) - 1)
    radius = kernel // 2
    deviation = 0.3 * (radius - 1) + 0.8
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / deviation) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    padding = ((radius, radius), (radius, radius), (0, 0))
    pixels = np.pad(np.asarray(image), padding, mode="reflect").astype(np.float32)
    rows = _weighted_sums(pixels.reshape(len(pixels), -1), weights, step=1)  # H×(W + 2 radius)·3
    blurred = _weighted_sums(rows.T, weights, step=3).T  # H×W·3
    return Image.fromarray(np.rint(blurred).astype(np.uint8).reshape(image.height, image.width, 3))


def _weighted_sums(
    planes: npt.NDArray[np.float32], weights: npt.NDArray[np.float32], *, step: int
) -> npt.NDArray[np.float32]:
    """Sums of each plane and those 1, 2, … steps after it, times symmetric weights, while there are enough planes."""
    radius = len(weights) // 2
    count = len(planes) - 2 * radius * step
    parts = [planes[i * step : i * step + count] for i in range(len(weights))]
    total: npt.NDArray[np.float32] = parts[radius] * weights[radius]
    for i in range(radius):
        pair = parts[i] + parts[-1 - i]
        pair *= weights[i]
        total += pair
    return total


_PARAMETRIC: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "rotation": lambda image, degrees: tvf.rotate(image, degrees, InterpolationMode.BILINEAR, expand=True),
    "center_crop": lambda image, share: tvf.center_crop(image, _sides_for_area(image, share)),
    "resize": lambda image, share: tvf.resize(
        image, _sides_for_area(image, share), InterpolationMode.BILINEAR
    ),
    "blur": _blur,
    "jpeg": _jpeg,
    "hue": tvf.adjust_hue,
    "contrast": tvf.adjust_contrast,
    "brightness": tvf.adjust_brightness,
}


def apply_attack(
    image: Image.Image, attack: Attack, *, seed: int = 0, template: Template = "web", name: str = "the image"
) -> Image.Image:
    """The edited copy of a picture.

    Args:
        image: an RGB picture.
        attack: what to do.
        seed: decides the random edits of `auto`, noise, and how a screen is photographed.
        template: AugLy's screenshot template for `overlay_onto_screenshot`.
        name: how to call the picture in an error.

    Raises:
        EditError: the edit failed; the unedited picture is never returned in its place.
    """
    try:
        match attack.name:
            case "none":
                edited = image
            case "auto":
                edited, _ = apply_random_edits(image, seed=seed)
            case "meme_format":
                edited = augly_repairs.augly_function("meme_format")(image)
            case "overlay_onto_screenshot":
                edited = augly_repairs.on_screenshot(image, template)
            case name_of_unseen if name_of_unseen in UNSEEN:
                _, edit = UNSEEN[attack.name]
                edited = edit(image, attack.param, np.random.default_rng(seed))  # type: ignore[arg-type]
            case _:
                if attack.name not in _PARAMETRIC:
                    raise EditError(f"there is no edit {attack.name!r}")
                if attack.param is None:
                    raise EditError(f"edit {attack.name!r} needs a parameter")
                edited = _PARAMETRIC[attack.name](image, attack.param)
        return edited if edited.mode == "RGB" else edited.convert("RGB")
    except AindexError as error:
        raise EditError(f"{name}: edit {attack} failed: {error}") from error
    except Exception as error:
        size = f"{image.width}×{image.height}"
        raise EditError(f"{name} ({size}): edit {attack} failed: {type(error).__name__}: {error}") from error
