"""Edits that the activation loop never draws, so that a gain on them does not come from having seen them."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from aindex.edits import augly_repairs

Pixels = npt.NDArray[np.float32]


def _perspective(image: Image.Image, tilt: float) -> Image.Image:
    """Seen from the side: the left edge shrinks by `tilt` of its length, above and below alike."""
    width, height = image.size
    inset = tilt / 2 * height
    shown = [(0, inset), (width, 0), (width, height), (0, height - inset)]
    return _moved_corners(image, shown)


def _moved_corners(image: Image.Image, shown: Sequence[Sequence[float]]) -> Image.Image:
    """A picture whose corners, clockwise from the upper left, are shown elsewhere on a black canvas of its size."""
    width, height = image.size
    corners = [(0, 0), (width, 0), (width, height), (0, height)]
    rows, sides = [], []
    for (x, y), (u, v) in zip(shown, corners, strict=True):  # from canvas to picture
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        sides += [u, v]
    coefficients = np.linalg.solve(np.array(rows, float), np.array(sides, float))
    return image.transform(
        image.size, Image.Transform.PERSPECTIVE, tuple(coefficients), Image.Resampling.BILINEAR
    )


def _gaussian_noise(image: Image.Image, deviation: float, rng: np.random.Generator) -> Image.Image:
    pixels = _pixels(image)
    return _picture(pixels + 255 * deviation * rng.standard_normal(pixels.shape, dtype=np.float32))


def _salt_and_pepper(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    pixels, drawn = _pixels(image), rng.random((image.height, image.width, 1), dtype=np.float32)
    return _picture(np.where(drawn < share / 2, 0, np.where(drawn < share, 255, pixels)))


def _vignette(image: Image.Image, strength: float) -> Image.Image:
    """Corners darkened by `strength`, the middle not."""
    x, y = _axes(image)
    return _picture(_pixels(image) * (1 - strength * (x**2 + y**2) / 2)[..., None])


def _temperature(image: Image.Image, warmth: float) -> Image.Image:
    """Red up and blue down by a share, or the other way round below 0."""
    return _picture(_pixels(image) * np.array([1 + warmth, 1, 1 - warmth], np.float32))


def _aspect(image: Image.Image, ratio: float) -> Image.Image:
    return image.resize((max(1, round(image.width * ratio)), image.height), Image.Resampling.BILINEAR)


def _swirl(image: Image.Image, turn: float) -> Image.Image:
    """Turned by `turn` radians in the middle, not at all at the border."""
    x, y = _axes(image)
    angle = turn * np.clip(1 - np.hypot(x, y), 0, 1) ** 2
    cosine, sine = np.cos(angle), np.sin(angle)
    return _sampled(image, x * cosine - y * sine, x * sine + y * cosine)


def _sampled(image: Image.Image, x: Pixels, y: Pixels) -> Image.Image:
    """Bilinear samples at x, y from −1 to 1."""
    pixels = _pixels(image)
    height, width, _ = pixels.shape
    column = np.clip((x + 1) / 2 * width - 0.5, 0, width - 1)
    row = np.clip((y + 1) / 2 * height - 0.5, 0, height - 1)
    left, top = column.astype(int), row.astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = (column - left)[..., None], (row - top)[..., None]
    above = pixels[top, left] * (1 - across) + pixels[top, right] * across
    below = pixels[bottom, left] * (1 - across) + pixels[bottom, right] * across
    return _picture(above * (1 - down) + below * down)


def _longest_side(image: Image.Image, side: float) -> Image.Image:
    scale = side / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=None)


def _emoji(image: Image.Image, size: float) -> Image.Image:
    """The first of AugLy's emoji, so many of the picture's heights high, a little below the middle."""
    path = augly_repairs.emoji_path(augly_repairs.emoji_names()[0])
    return augly_repairs.augly_function("overlay_emoji")(
        image, emoji_path=path, emoji_size=size, x_pos=0.3, y_pos=0.4
    )


def _text(image: Image.Image, size: float) -> Image.Image:
    """A line of glyphs, so many of the picture's heights high."""
    return augly_repairs.augly_function("overlay_text")(
        image, text=list(range(10)), font_size=max(size, 1.01 / min(image.size)), x_pos=0.05, y_pos=0.4
    )


def _photographed_screen(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A screen photographed by hand: askew, a moiré of its lines, a glare, a little blurred and noisy."""
    width, height = image.size
    inset = rng.uniform(0.02, 0.1, size=(4, 2)) * (width, height)
    signs = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)])
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)]) + signs * inset
    askew = _moved_corners(image, corners.tolist())
    x, y = _axes(image)
    angle, waves = rng.uniform(0, math.pi), rng.uniform(20, 40)
    moire = 1 + 0.12 * np.sin(math.pi * waves * (x * math.cos(angle) + y * math.sin(angle)))
    centre_x, centre_y = rng.uniform(-0.7, 0.7, size=2)
    glare = 90 * np.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / 0.15)
    pixels = _pixels(askew.filter(ImageFilter.GaussianBlur(0.7)))
    lit = pixels * moire[..., None].astype(np.float32) + glare[..., None].astype(np.float32)
    return _picture(lit + 5 * rng.standard_normal(lit.shape))


def _axes(image: Image.Image) -> tuple[Pixels, Pixels]:
    """Across and down, H×W each, from −1 to 1."""
    across = (np.arange(image.width, dtype=np.float32) * 2 + 1) / image.width - 1
    down = (np.arange(image.height, dtype=np.float32) * 2 + 1) / image.height - 1
    return np.meshgrid(across, down)


def _pixels(image: Image.Image) -> Pixels:
    return np.asarray(image, np.float32)


def _picture(pixels: npt.NDArray[np.floating]) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


UNSEEN: dict[str, tuple[float | None, Callable[[Image.Image, float, np.random.Generator], Image.Image]]] = {
    "perspective": (0.5, lambda image, param, rng: _perspective(image, param)),
    "gaussian_noise": (0.1, _gaussian_noise),
    "salt_and_pepper": (0.05, _salt_and_pepper),
    "sharpen": (5, lambda image, param, rng: ImageEnhance.Sharpness(image).enhance(param)),
    "posterise": (2, lambda image, param, rng: ImageOps.posterize(image, int(param))),
    "vignette": (0.8, lambda image, param, rng: _vignette(image, param)),
    "temperature": (0.3, lambda image, param, rng: _temperature(image, param)),
    "hflip": (None, lambda image, param, rng: ImageOps.mirror(image)),
    "aspect": (2, lambda image, param, rng: _aspect(image, param)),
    "swirl": (1.5, lambda image, param, rng: _swirl(image, param)),
    "longest_side": (128, lambda image, param, rng: _longest_side(image, param)),
    "emoji": (0.4, lambda image, param, rng: _emoji(image, param)),
    "text": (0.2, lambda image, param, rng: _text(image, param)),
    "screenshot_mobile": (None, lambda image, param, rng: augly_repairs.on_screenshot(image, "mobile")),
    "photographed_screen": (None, lambda image, param, rng: _photographed_screen(image, rng)),
}
"""By name: the parameter of the evaluation's list, and the edit."""
