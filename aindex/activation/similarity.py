"""Structural similarity of two images, on the CPU, row by row."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aindex.compiling import compiled, part

Floats = npt.NDArray[np.float32]

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = np.float32(0.01**2), np.float32(0.03**2)
_ZERO, _TWO = np.float32(0), np.float32(2)


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity, mean over channels and over the windows that lie inside.

    Source: Wang et al., IEEE Transactions on Image Processing 13(4), 2004: Gaussian window of 11 pixels and
    σ = 1.5. An image less than 11 pixels wide or high gets the largest odd window that fits.

    Args:
        a: 3×H×W, float in [0, 1] or uint8.
        b: the same shape.

    Raises:
        ValueError: the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"images of {tuple(a.shape)} and {tuple(b.shape)}: expected one shape")
    size = min(_WINDOW, *a.shape[-2:])
    size -= 1 - size % 2
    position = np.arange(size) - size // 2
    window = np.exp(-(position**2) / (2 * _SIGMA**2))
    window = (window / window.sum()).astype(np.float32)
    planes = [(_unit_range(x), _unit_range(y)) for x, y in zip(a, b, strict=True)]
    sums = [_similarities(x, y, window, x.mean()) for x, y in planes]
    height, width = a.shape[-2:]
    return float(sum(sums) / (len(sums) * (height - size + 1) * (width - size + 1)))


def _unit_range(plane: Tensor) -> Floats:
    scale = 255 if plane.dtype == torch.uint8 else 1
    values: Floats = (plane.float() / scale).cpu().contiguous().numpy()
    return values


@compiled
def _similarities(a: Floats, b: Floats, window: Floats, offset: np.float32) -> float:
    """Sum of the similarities of all windows of a plane, H×W.

    Variances are differences of squares, in which values far from `offset` would lose their last digits.
    """
    height, width = a.shape
    size = len(window)
    inside = width - size + 1
    # of the last rows the means along the row: of a, of b, of a² + b², of ab
    means = np.zeros((size, 4, inside), np.float32)
    row = np.empty((4, width), np.float32)
    whole = np.empty((4, inside), np.float32)
    total = 0.0
    for h in range(height):
        for w in range(width):
            row[0, w] = a[h, w] - offset
            row[1, w] = b[h, w] - offset
        for w in range(width):
            row[2, w] = row[0, w] * row[0, w] + row[1, w] * row[1, w]
            row[3, w] = row[0, w] * row[1, w]
        for q in range(4):
            _weighted(row[q], window, means[h % size, q])
        if h < size - 1:
            continue
        for q in range(4):
            whole[q] = _ZERO
            for k in range(size):
                _add(whole[q], window[k], means[(h + 1 + k) % size, q])
        total += float(_row_similarities(whole[0], whole[1], whole[2], whole[3], offset))
    return total


@part
def _weighted(row: Floats, window: Floats, out: Floats) -> None:
    out[:] = _ZERO
    for k in range(len(window)):
        _add(out, window[k], row[k : k + len(out)])


@part
def _add(out: Floats, weight: np.float32, row: Floats) -> None:
    for w in range(len(out)):
        out[w] += weight * row[w]


@part
def _row_similarities(
    mean_a: Floats, mean_b: Floats, squares: Floats, product: Floats, offset: np.float32
) -> np.float32:
    total = _ZERO
    for w in range(len(mean_a)):
        x, y = mean_a[w] + offset, mean_b[w] + offset
        covariance = product[w] - mean_a[w] * mean_b[w]
        variances = squares[w] - (mean_a[w] * mean_a[w] + mean_b[w] * mean_b[w])
        top = (_TWO * x * y + _C1) * (_TWO * covariance + _C2)
        total += top / ((x * x + y * y + _C1) * (variances + _C2))
    return total
