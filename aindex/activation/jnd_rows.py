"""The just-noticeable-difference map on a CPU, row by row; perceptual.py says what it is, and has the form for GPUs."""

import numpy as np
import numpy.typing as npt

from aindex.compiling import compiled, part

Floats = npt.NDArray[np.float32]

_RED, _GREEN, _BLUE = np.float32(255 * 0.299), np.float32(255 * 0.587), np.float32(255 * 0.114)
_HALF, _TWO = np.float32(0.5), np.float32(2)
_RING, _TURN = np.float32(1 / 32), np.float32(126.95)
_DARK, _DARK_SLOPE, _DARK_SCALE, _DARK_OFFSET = map(np.float32, (20, 17, 1 / 127, 1e-3))
_BRIGHT, _BRIGHT_SLOPE = np.float32(3 - 3 / 128 * 127), np.float32(3 / 128)
_CONTRAST, _CONTRAST_OFFSET = np.float32(0.117 * 16), np.float32(26**2)
_SHARED, _LEAST, _UNIT = np.float32(0.3), np.float32(5), np.float32(1 / 255)
_NEAR, _TINY = np.float32(0.06), np.float32(1e-6)
_FIFTH, _FOUR_FIFTHS = np.float32(0.2), np.float32(0.8)
_ROOT_BITS = np.int32(0.8 * 127 * 2**23)
"""Exponent and mantissa of x^(1/5) are a fifth of those of x, but for this and 6 %."""


@compiled
def jnd_rows(image: Floats, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], out: Floats) -> None:
    """Write the map of an image.

    Args:
        image: 3×H×W in [0, 1].
        rows: of the image that a padding of two on each side shows, H + 4.
        columns: the same, W + 4.
        out: H×W, written.
    """
    height, width = out.shape
    luminance = np.empty((5, width + 4), np.float32)
    sums = np.empty((4, width + 4), np.float32)
    background = np.empty(width, np.float32)
    squared = np.empty(width, np.float32)
    for p in range(height + 4):
        _luminance(image[0, rows[p]], image[1, rows[p]], image[2, rows[p]], luminance[p % 5, 2 : width + 2])
        for side in (0, 1, width + 2, width + 3):
            luminance[p % 5, side] = luminance[p % 5, 2 + columns[side]]
        if p < 4:
            continue
        above, middle, below = luminance[(p - 3) % 5], luminance[(p - 2) % 5], luminance[(p - 1) % 5]
        _sum(above, middle, below, sums[0])
        _sum(sums[0], luminance[(p - 4) % 5], luminance[p % 5], sums[1])
        # the 5×5 kernel (outer ring 1, inner ring 2, centre 0) is a 5×5 box plus a 3×3 box less twice the centre
        _background(sums[1], sums[0], middle, background)
        _smooth(above, middle, below, sums[2])
        _difference(above, below, sums[3])
        _gradient(sums[2], sums[3], squared)
        if _masking(background, out[p - 4]):
            _decide(background, image, rows[p - 4 : p + 1], columns, out[p - 4])
        _combine(squared, out[p - 4])


@part
def _luminance(red: Floats, green: Floats, blue: Floats, out: Floats) -> None:
    for w in range(len(out)):
        out[w] = _RED * red[w] + _GREEN * green[w] + _BLUE * blue[w]


@part
def _sum(a: Floats, b: Floats, c: Floats, out: Floats) -> None:
    for w in range(len(out)):
        out[w] = a[w] + b[w] + c[w]


@part
def _background(five: Floats, three: Floats, centre: Floats, out: Floats) -> None:
    for w in range(len(out)):
        wide = five[w] + five[w + 1] + five[w + 2] + five[w + 3] + five[w + 4]
        narrow = three[w + 1] + three[w + 2] + three[w + 3]
        out[w] = _RING * (wide + narrow - _TWO * centre[w + 2])


@part
def _smooth(above: Floats, middle: Floats, below: Floats, out: Floats) -> None:
    for w in range(len(out)):
        out[w] = above[w] + _TWO * middle[w] + below[w]


@part
def _difference(above: Floats, below: Floats, out: Floats) -> None:
    for w in range(len(out)):
        out[w] = below[w] - above[w]


@part
def _gradient(smooth: Floats, difference: Floats, out: Floats) -> None:
    """Squared Sobel magnitude, kernels ±1, ±2, ±1 not normalised."""
    for w in range(len(out)):
        across = smooth[w + 3] - smooth[w + 1]
        down = difference[w + 1] + _TWO * difference[w + 2] + difference[w + 3]
        out[w] = across * across + down * down


@part
def _masking(background: Floats, out: Floats) -> int:
    """Luminance masking; returns how many backgrounds are so near to the turn that rounding may take sides."""
    near = 0
    for w in range(len(out)):
        shade = max(background[w], np.float32(0))
        dark = _DARK - _DARK_SLOPE * np.sqrt(shade * _DARK_SCALE + _DARK_OFFSET)
        bright = _BRIGHT + _BRIGHT_SLOPE * shade
        out[w] = max(dark, bright)
        near += abs(shade - _TURN) < _NEAR
    return near


@part
def _decide(
    background: Floats,
    image: Floats,
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    out: Floats,
) -> None:
    """Masking near the turn, by backgrounds in float64."""
    for w in range(len(out)):
        if abs(background[w] - _TURN) >= _NEAR:
            continue
        total = 0.0
        for i in range(5):
            for j in range(5):
                weight = 0.0 if i == 2 and j == 2 else 2.0 if 0 < i < 4 and 0 < j < 4 else 1.0
                y, x = rows[i], columns[w + j]
                red, green, blue = (
                    np.float64(image[0, y, x]),
                    np.float64(image[1, y, x]),
                    np.float64(image[2, y, x]),
                )
                total += weight * 255 * (0.299 * red + 0.587 * green + 0.114 * blue)
        exact = total / 32
        if exact <= 127:
            out[w] = 20 - 17 * np.sqrt(exact / 127 + 1e-3)
        else:
            out[w] = 3 / 128 * (exact - 127) + 3


@part
def _combine(squared: Floats, jnd: Floats) -> None:
    """Contrast masking, and its overlap with the luminance masking that `jnd` holds."""
    root = np.empty(len(jnd), np.float32)
    bits, guess = squared.view(np.int32), root.view(np.int32)
    for w in range(len(jnd)):
        squared[w] = max(squared[w], _TINY)
    for w in range(len(jnd)):
        guess[w] = np.int32(bits[w] * _FIFTH) + _ROOT_BITS
    for w in range(len(jnd)):
        x, y = squared[w], root[w]
        for _ in range(4):  # Newton's steps to x^(1/5)
            y = _FOUR_FIFTHS * y + _FIFTH * x / (y * y * y * y)
        contrast = _CONTRAST * x * y / (x + _CONTRAST_OFFSET)
        overlap = min(jnd[w], contrast)
        jnd[w] = max(jnd[w] + contrast - _SHARED * overlap, _LEAST) * _UNIT
