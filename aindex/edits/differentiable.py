"""Random edits of pictures as tensors, through which gradients flow: what an image is made robust against."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, assert_never, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import functional as tvf

from aindex.edits import ordered
from aindex.errors import ConfigError

Family = Literal[
    "rotation", "turn", "crop", "band", "frame", "patch", "brightness", "contrast", "saturation", "hue", "blur", "jpeg"
]  # fmt: skip
GEOMETRIC: frozenset[Family] = frozenset({"rotation", "turn", "crop", "band", "frame"})
"""Families that move pixels; a second edit is drawn from the other kind."""

Range = tuple[float, float]
Theta = tuple[float, float, float, float, float, float]

_WEIGHTS: dict[Family, float] = {
    "rotation": 2, "turn": 1, "crop": 2, "band": 2, "frame": 1, "patch": 1,
    "brightness": 1, "contrast": 1, "saturation": 1, "hue": 1, "blur": 1, "jpeg": 1,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EditSettings:
    """Which edits are drawn, how often, and how strong. Parameters are drawn uniformly, with any fraction.

    Attributes:
        families: weight of each family; one that is not named is never drawn.
        composed: probability that an edit that moves pixels is followed by one that does not, and the other way round.
        rotation: degrees, on a canvas that grows.
        turn: degrees, to the left or to the right.
        crop: share of the area that is kept, anywhere.
        band: share of the canvas that a blank band above or below takes.
        frame: share of the canvas' sides that the picture keeps, anywhere on a blank canvas.
        patch: sides of a box or an oval of one colour, as a share of the picture's.
        light: largest change of brightness and contrast, as the logarithm of a factor.
        saturation: factor.
        hue: largest shift, in turns of the colour circle.
        blur: standard deviation in pixels of the extractor's input.
        jpeg: quality.
    """

    families: Mapping[Family, float] = field(default_factory=lambda: dict(_WEIGHTS))
    composed: float = 0.3
    rotation: Range = (-45.0, 45.0)
    turn: Range = (75.0, 105.0)
    crop: Range = (0.3, 0.9)
    band: Range = (0.1, 0.6)
    frame: Range = (0.4, 0.9)
    patch: Range = (0.2, 0.6)
    light: float = 0.75
    saturation: Range = (0.0, 3.0)
    hue: float = 0.35
    blur: Range = (0.3, 2.5)
    jpeg: Range = (30.0, 95.0)

    def __post_init__(self) -> None:
        known, weights = get_args(Family), self.families
        if any(
            name not in known or not 0 <= weight < math.inf for name, weight in weights.items()
        ) or not any(weights.values()):
            raise ConfigError(
                f"edits.families {dict(weights)}: expected weights of 0 or more, not all 0, of {', '.join(known)}"
            )
        if not 0 <= self.composed <= 1:
            raise ConfigError(f"edits.composed {self.composed}: expected a probability, 0 to 1")
        for name, (least, most) in _LIMITS.items():
            value = getattr(self, name)
            low, high = value if isinstance(value, tuple) else (0.0, value)
            if not least <= low <= high <= most:
                raise ConfigError(
                    f"edits.{name} {value}: expected numbers from {least:g} to {most:g}, in order"
                )


_LIMITS: dict[str, Range] = {
    "rotation": (-180, 180), "turn": (0, 180), "crop": (0.05, 1), "band": (0, 0.9), "frame": (0.1, 1),
    "patch": (0, 1), "light": (0, 3), "saturation": (0, 10), "hue": (0, 0.5), "blur": (0.01, 20), "jpeg": (1, 100),
}  # fmt: skip


@dataclass
class View:
    """One random edit of one picture.

    Attributes:
        theta: where a point of the canvas lies in the picture, both from −1 to 1: x and y as a·x + b·y + c each.
        fill: grey level beyond the picture, 0 to 1.
        patch: centre, half sides, colour and opacity of a box or an oval: x, y, w, h, r, g, b, opacity, is oval.
        brightness, contrast, saturation: factors.
        hue: shift in turns.
        blur: standard deviation, pixels of the result.
        jpeg: quality.
    """

    theta: Theta | None = None
    fill: float = 0.0
    patch: tuple[float, ...] | None = None
    brightness: float | None = None
    contrast: float | None = None
    saturation: float | None = None
    hue: float | None = None
    blur: float | None = None
    jpeg: float | None = None


def draw(rng: random.Random, aspect: float, settings: EditSettings) -> View:
    """One edit, or two.

    Args:
        rng: the picture's own.
        aspect: its width over its height, which a square of pixels does not tell.
        settings: what is drawn from.
    """
    view = View()
    families = {name: weight for name, weight in settings.families.items() if weight}
    first = rng.choices(list(families), list(families.values()))[0]
    _add(first, view, rng, aspect, settings)
    others = {name: w for name, w in families.items() if (name in GEOMETRIC) != (first in GEOMETRIC)}
    if rng.random() < settings.composed and others:
        _add(rng.choices(list(others), list(others.values()))[0], view, rng, aspect, settings)
    return view


def rotation(degrees: float, aspect: float) -> Theta:
    """A counter-clockwise rotation, on a canvas that grows to hold the whole picture."""
    angle = math.radians(degrees)
    c, s = math.cos(angle), math.sin(angle)
    width, height = aspect * abs(c) + abs(s), aspect * abs(s) + abs(c)
    return c * width / aspect, -s * height / aspect, 0.0, s * width, c * height, 0.0


def window(left: float, top: float, right: float, bottom: float) -> Theta:
    """The part of a picture that is seen, as shares of its sides; beyond 0 and 1 there is canvas."""
    return right - left, 0.0, left + right - 1, 0.0, bottom - top, top + bottom - 1


def _add(family: Family, view: View, rng: random.Random, aspect: float, settings: EditSettings) -> None:
    """Draw an edit's parameters."""
    match family:
        case "rotation":
            view.theta = rotation(rng.uniform(*settings.rotation), aspect)
        case "turn":
            view.theta = rotation(rng.choice((-1, 1)) * rng.uniform(*settings.turn), aspect)
        case "crop":
            side = math.sqrt(rng.uniform(*settings.crop))
            left, top = rng.uniform(0, 1 - side), rng.uniform(0, 1 - side)
            view.theta = window(left, top, left + side, top + side)
        case "band":
            share = rng.uniform(*settings.band)
            blank = share / (1 - share)  # in heights of the picture
            view.theta = window(0, -blank, 1, 1) if rng.random() < 0.7 else window(0, 0, 1, 1 + blank)
            view.fill = rng.choice((0.0, 1.0, 1.0))
        case "frame":
            across, down = 1 / rng.uniform(*settings.frame), 1 / rng.uniform(*settings.frame)
            left, top = rng.uniform(0, across - 1), rng.uniform(0, down - 1)
            view.theta = window(-left, -top, across - left, down - top)
            view.fill = rng.choice((0.0, 1.0, rng.random()))
        case "patch":
            colour = (rng.random(), rng.random(), rng.random())
            width, height = rng.uniform(*settings.patch), rng.uniform(*settings.patch)
            centre = rng.uniform(-0.8, 0.8), rng.uniform(-0.8, 0.8)
            view.patch = (*centre, width, height, *colour, rng.uniform(0.5, 1), rng.random() < 0.5)
        case "brightness" | "contrast":
            setattr(view, family, math.exp(rng.uniform(-settings.light, settings.light)))
        case "hue":
            view.hue = rng.uniform(-settings.hue, settings.hue)
        case "saturation" | "blur" | "jpeg":
            setattr(view, family, rng.uniform(*getattr(settings, family)))
        case _:
            assert_never(family)


_TOGETHER = 8
_SCALARS = ("brightness", "contrast", "saturation", "hue", "blur", "jpeg")
_COLUMNS = {
    "theta": slice(0, 6), "fill": slice(6, 7), "place": slice(7, 11), "colour": slice(11, 14), "opacity": slice(14, 15),
    "is_oval": slice(15, 16), **{name: slice(16 + i, 17 + i) for i, name in enumerate(_SCALARS)},
}  # fmt: skip


@dataclass(frozen=True)
class Edits:
    """One edit of each of B pictures.

    Attributes:
        views: B.
        numbers: B×22 float64, on the pictures' device: the views' parameters, 0 where a view has no such edit.
    """

    views: Sequence[View]
    numbers: Tensor

    def some(self, chosen: Sequence[int]) -> "Edits":
        """The edits of some of the pictures."""
        rows = self.numbers.unbind()
        return Edits([self.views[i] for i in chosen], torch.stack([rows[i] for i in chosen]))

    def get(self, name: str, like: Tensor) -> Tensor:
        """One parameter of each edit, B×n×1×1: a single number, except θ and a patch's place and colour."""
        return self.numbers[:, _COLUMNS[name]].to(like.dtype)[:, :, None, None]


def sent(drawn: Sequence[Sequence[View]], device: torch.device | str) -> list[Edits]:
    """Edits of B pictures each, moved to a device in one transfer, because every transfer waits for a GPU."""
    if not drawn:
        return []
    numbers = torch.tensor([[_numbers(view) for view in views] for views in drawn], dtype=torch.float64)
    _jpeg_constants(numbers.to(device).device)  # kept from now on
    return [Edits(views, rows) for views, rows in zip(drawn, numbers.to(device), strict=True)]


def _numbers(view: View) -> list[float]:
    scalars = [getattr(view, name) or 0.0 for name in _SCALARS]
    return [*(view.theta or (0.0,) * 6), view.fill, *(view.patch or (0.0,) * 9), *scalars]


def edited(pictures: Tensor, edits: Edits, size: int) -> Tensor:
    """Each picture after its edit.

    No picture's pixels depend on the others in its batch, not even in their last digits.

    Args:
        pictures: B×3×S×S in [0, 1], S a multiple of R.
        edits: of these B pictures, on their device.
        size: R.

    Returns:
        B×3×R×R in [0, 1].
    """
    factor = pictures.shape[-1] // size
    rows = _those(pictures, edits, "jpeg", compressed)
    rows = _those(rows, edits, "theta", warped)
    rows = F.avg_pool2d(rows, factor) if factor > 1 else rows
    rows = _those(rows, edits, "patch", patched)
    rows = _those(rows, edits, "hue", shifted)
    rows = _those(rows, edits, "saturation", lambda x, e: _blend(_grey(x), x, e.get("saturation", x)))
    rows = _those(rows, edits, "contrast", contrasted)
    rows = _those(rows, edits, "brightness", lambda x, e: (x * e.get("brightness", x)).clamp(0, 1))
    return _those(rows, edits, "blur", blurred)


def warped(pictures: Tensor, edits: Edits) -> Tensor:
    """Each picture on its canvas, B×3×S×S, bilinear; beyond it the view's grey."""
    axis = _axis(pictures)
    a, b, c, d, e, f = edits.get("theta", pictures).unbind(1)  # B×1×1 each
    across, down = axis.view(1, 1, -1), axis.view(1, -1, 1)
    grid = torch.stack([a * across + b * down + c, d * across + e * down + f], dim=-1)  # B×S×S×2
    fill = edits.get("fill", pictures)
    if pictures.device.type != "cpu":
        return ordered.grid_sample(pictures - fill, grid) + fill
    return F.grid_sample(pictures - fill, grid, padding_mode="zeros", align_corners=False) + fill


def patched(pictures: Tensor, edits: Edits) -> Tensor:
    """Each picture with a box or an oval of one colour on it."""
    axis = _axis(pictures)
    x, y, width, height = edits.get("place", pictures).unbind(1)  # B×1×1 each
    across, down = ((axis - x) / width).abs(), ((axis[:, None] - y) / height).abs()  # B×1×S, B×S×1
    oval, box = across.square() + down.square() <= 1, (across <= 1) & (down <= 1)
    is_oval, opacity = edits.get("is_oval", pictures) > 0, edits.get("opacity", pictures)
    cover = torch.where(is_oval, oval[:, None], box[:, None]) * opacity
    return pictures * (1 - cover) + edits.get("colour", pictures) * cover


def contrasted(pictures: Tensor, edits: Edits) -> Tensor:
    """Each picture's colours nearer to its mean grey, or farther from it."""
    return _blend(_apart(_grey(pictures), edits, _mean), pictures, edits.get("contrast", pictures))


def shifted(pictures: Tensor, edits: Edits) -> Tensor:
    """Each picture with its colours turned around the circle; brightest and darkest channel of a pixel stay."""
    red, green, blue = pictures.unbind(1)
    most, least = (many(many(red, green), blue) for many in (torch.maximum, torch.minimum))
    chroma = most - least
    divisor = chroma.masked_fill(chroma == 0, 1)
    from_green, from_blue = 2 + (blue - red) / divisor, 4 + (red - green) / divisor
    hue = torch.where(most == green, from_green, from_blue)
    hue = torch.where(most == red, (green - blue) / divisor, hue)  # in sixths of the circle
    hue = hue + 6 * edits.get("hue", pictures)[:, 0]
    away = torch.stack([(hue + start) % 6 for start in (5, 3, 1)], dim=1)
    return most[:, None] - chroma[:, None] * torch.minimum(away, 4 - away).clamp(0, 1)


def blurred(pictures: Tensor, edits: Edits) -> Tensor:
    """Each picture under its Gaussian blur, cut at three standard deviations."""
    return _apart(pictures, edits, _smoothed)


def _smoothed(pictures: Tensor, edits: Edits) -> Tensor:
    widest = min(pictures.shape[-2:]) - 1
    if pictures.device.type != "cpu":
        deviations = edits.get("blur", pictures).flatten()
        return ordered.gaussian_blur(pictures, (3 * deviations).ceil().clamp(max=widest), deviations)
    deviation = edits.views[0].blur or 0.0  # of one
    radius = min(math.ceil(3 * deviation), widest)
    smooth: Tensor = tvf.gaussian_blur(pictures, [2 * radius + 1] * 2, [deviation] * 2)
    return smooth


def compressed(pictures: Tensor, edits: Edits) -> Tensor:
    """Each picture as JPEG would give it back; gradients pass as if nothing had happened.

    Source of the tables: ITU-T T.81, annex K; their scaling by quality is that of the IJG's library.

    Args:
        pictures: B×3×H×W in [0, 1].
        edits: with qualities of 1 to 100, with any fraction.
    """
    with torch.no_grad():
        loss = _apart(pictures, edits, _jpeg_decoded) - pictures
    return pictures + loss


def _jpeg_decoded(pictures: Tensor, edits: Edits) -> Tensor:
    height, width = pictures.shape[-2:]
    to_ycc, to_rgb, luminance, chrominance, dct = _jpeg_constants(pictures.device)
    quality = edits.get("jpeg", edits.numbers)
    scale = (torch.where(quality < 50, 5000 / quality, 200 - 2 * quality) / 100).to(pictures.dtype)
    padded = F.pad(pictures, (0, -width % 16, 0, -height % 16), mode="replicate")
    planes = _mixed(to_ycc, 255 * padded)  # Y and the two chroma planes about zero
    coarse = F.avg_pool2d(planes[:, 1:], 2)
    bright = _quantised(planes[:, :1] - 128, (luminance * scale).round().clamp(1, 255), dct)
    colour = _quantised(coarse, (chrominance * scale).round().clamp(1, 255), dct)
    colour = F.interpolate(colour, scale_factor=2, mode="bilinear")
    decoded = _mixed(to_rgb, torch.cat([bright + 128, colour], dim=1))
    return (decoded[..., :height, :width].round() / 255).clamp(0, 1)


def _mixed(matrix: Tensor, planes: Tensor) -> Tensor:
    """Each picture's channels, B×3×H×W, as the matrix 3×3 mixes them."""
    return (matrix.expand(len(planes), 3, 3) @ planes.flatten(2)).view(planes.shape)


def _quantised(planes: Tensor, tables: Tensor, dct: Tensor) -> Tensor:
    """B×C×H×W in blocks of 8×8, their coefficients rounded to multiples of the tables', B×1×8×8."""
    count, channels, height, width = planes.shape
    blocks = planes.reshape(count, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    tables = tables[:, None, None]
    coefficients = dct @ blocks @ dct.T
    rounded = (coefficients / tables).round() * tables
    decoded: Tensor = (dct.T @ rounded @ dct).transpose(3, 4)
    return decoded.reshape(planes.shape)


@lru_cache(maxsize=16)
def _jpeg_constants(device: torch.device) -> tuple[Tensor, ...]:
    """Matrices to and from YCbCr, quantisation tables of luminance and chrominance, matrix of the DCT."""
    to_ycc = torch.tensor([
        [0.299, 0.587, 0.114],
        [-0.299 / 1.772, -0.587 / 1.772, 0.5],
        [0.5, -0.587 / 1.402, -0.114 / 1.402],
    ])  # fmt: skip
    luminance = torch.tensor([
        [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56], [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
    ], dtype=torch.float32)  # fmt: skip
    chrominance = torch.full((8, 8), 99.0)
    chrominance[:4, :4] = torch.tensor(
        [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
    )
    position = torch.arange(8, dtype=torch.float32)
    dct = torch.cos((2 * position + 1) * position[:, None] * math.pi / 16) / 2
    dct[0] /= math.sqrt(2)
    parts = (to_ycc, torch.linalg.inv(to_ycc), luminance, chrominance, dct)
    return tuple(part.to(device) for part in parts)


def _those(rows: Tensor, edits: Edits, name: str, edit: Callable[[Tensor, Edits], Tensor]) -> Tensor:
    """Rows with an edit applied to those whose view has it."""
    chosen = [i for i, view in enumerate(edits.views) if getattr(view, name) is not None]
    if not chosen:
        return rows
    # as views: the numbers of the rows as a tensor would have to be sent, and each rows[i] has a gradient of all rows
    pieces = list(rows.unbind())
    changed = edit(torch.stack([pieces[i] for i in chosen]), edits.some(chosen))
    for i, row in zip(chosen, changed.unbind(), strict=True):
        pieces[i] = row
    return torch.stack(pieces)


def _apart(rows: Tensor, edits: Edits, edit: Callable[[Tensor, Edits], Tensor]) -> Tensor:
    """Apply an edit whose rounding depends on the number of rows (matrix products, means) to equally many each time.

    On a CPU that is one row, where more would not be faster; on a GPU eight, and the last block is filled up.
    """
    count, size = len(rows), 1 if rows.device.type == "cpu" else _TOGETHER
    pieces = rows.unbind()
    changed = []
    for first in range(0, count, size):
        some = [min(i, count - 1) for i in range(first, first + size)]
        changed.append(edit(torch.stack([pieces[i] for i in some]), edits.some(some)))
    return torch.cat(changed)[:count]


def _axis(like: Tensor) -> Tensor:
    """Centres of a row's pixels, from −1 to 1."""
    size = like.shape[-1]
    return (torch.arange(size, dtype=like.dtype, device=like.device) * 2 + 1) / size - 1


def _blend(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
    return (one * (1 - share) + other * share).clamp(0, 1)


def _grey(rows: Tensor) -> Tensor:
    """B×3×R×R → B×1×R×R; the weights are those of torchvision, which differ from others in the fourth digit."""
    return 0.2989 * rows[:, :1] + 0.587 * rows[:, 1:2] + 0.114 * rows[:, 2:]


def _mean(planes: Tensor, edits: Edits) -> Tensor:
    # one axis after the other: a sum over all pixels of one picture alone would be split among threads
    return planes.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)
