"""How visible a change is: the just-noticeable-difference map, PSNR, L∞ and SSIM."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of R, G, B in luminance (ITU-R BT.601)."""

_WINDOWS, _BAND_PIXELS = 1 << 17, 1 << 20
"""How many windows, and pixels of an image, are treated at a time."""

_SSIM_RADIUS, _SSIM_SIGMA = 5, 1.5
_SSIM_C1, _SSIM_C2 = 0.01**2, 0.03**2

_BACKGROUND_KERNEL = (
    (1.0, 1.0, 1.0, 1.0, 1.0),
    (1.0, 2.0, 2.0, 2.0, 1.0),
    (1.0, 2.0, 0.0, 2.0, 1.0),
    (1.0, 2.0, 2.0, 2.0, 1.0),
    (1.0, 1.0, 1.0, 1.0, 1.0),
)


def _mirrored(position: Tensor, length: Tensor) -> Tensor:
    """Positions of an axis, up to any number beyond its ends, mirrored into it as often as a short axis needs."""
    period = (2 * (length - 1)).clamp(min=1)
    position = position.abs() % period
    return torch.minimum(position, period - position)


def _reflected(length: int, pad: int, device: torch.device) -> Tensor:
    """Indices that extend an axis by `pad` on both ends."""
    return _mirrored(torch.arange(-pad, length + pad, device=device), torch.tensor(length))


def pad_by_reflection(plane: Tensor, pad: int) -> Tensor:
    """A plane H×W with `pad` pixels more on each side, reflected; also where it is smaller, down to one pixel."""
    height, width = plane.shape
    if min(height, width) > pad:
        return F.pad(plane.unsqueeze(0), (pad, pad, pad, pad), mode="reflect").squeeze(0)
    rows = _reflected(height, pad, plane.device)
    columns = _reflected(width, pad, plane.device)
    return plane.index_select(0, rows).index_select(1, columns)


def _box_sum(plane: Tensor, size: int) -> Tensor:
    """Sums over size×size windows (valid ones only), as two passes along the axes."""
    height, width = plane.shape[0] - size + 1, plane.shape[1] - size + 1
    vertical = plane[:height] + plane[1 : height + 1]
    for k in range(2, size):
        vertical += plane[k : height + k]
    total = vertical[:, :width] + vertical[:, 1 : width + 1]
    for k in range(2, size):
        total += vertical[:, k : width + k]
    return total


def _squared_gradient(plane: Tensor) -> Tensor:
    """Squared Sobel magnitude, kernels ±1, ±2, ±1 not normalised; (H+2)×(W+2) → H×W."""
    across = plane[:, 2:] - plane[:, :-2]
    horizontal = across[:-2].add(across[1:-1], alpha=2).add_(across[2:])
    down = plane[2:] - plane[:-2]
    vertical = down[:, :-2].add(down[:, 1:-1], alpha=2).add_(down[:, 2:])
    return horizontal.square_().addcmul_(vertical, vertical)


def _dark_masking(background: Tensor) -> Tensor:
    return 20 - 17 * torch.sqrt(background / 127 + 1e-3)


def _bright_masking(background: Tensor) -> Tensor:
    return 3 / 128 * (background - 127) + 3


def _luminance_masking(background: Tensor, pixels_around: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """LA of a background H×W: one branch up to 127, one above.

    The larger branch is the right one but between 126.9 and 127, where they cross before they change over
    with a jump. Pictures of 8 bits hit 127 exactly, so there the background is computed in float64: rounding
    must not take sides.
    """
    masking = torch.maximum(_dark_masking(background), _bright_masking(background))
    rows, columns = ((background - 126.95).abs_() < 0.06).nonzero(as_tuple=True)
    # a flat grey sky may have all of its pixels here, each with a window of its own
    parts = zip(torch.split(rows, _WINDOWS), torch.split(columns, _WINDOWS), strict=True)
    for some_rows, some_columns in parts:
        pixels = pixels_around(some_rows, some_columns).double()  # 3×n×5×5
        luminance = 255 * sum(weight * plane for weight, plane in zip(LUMINANCE, pixels, strict=True))
        exact = (luminance * luminance.new_tensor(_BACKGROUND_KERNEL)).sum((1, 2)) / 32
        chosen = torch.where(exact <= 127, _dark_masking(exact), _bright_masking(exact))
        masking[some_rows, some_columns] = chosen.float()
    return masking


@torch.no_grad()
def jnd_map(image: Tensor) -> Tensor:
    """Just-noticeable difference of each pixel, from luminance masking and contrast masking.

    Source: Wu et al., "Enhanced just noticeable difference model for images with pattern complexity",
    IEEE Transactions on Image Processing 26(6), 2017 (document 7885108), with padding by reflection, since
    zeros would draw a visible frame.

    Args:
        image: 3×H×W in [0, 1].

    Returns:
        1×H×W float32, in units of the [0, 1] range; never below 5/255. No gradient flows through it.
    """
    _, height, width = image.shape
    step = max(1, _BAND_PIXELS // width)
    if height <= step or image.device.type != "cpu":
        return _jnd_map(image)
    # in bands, so that a large image needs memory for its map alone; a pixel's value depends on two rows around it
    jnd = torch.empty(1, height, width)
    for begin in range(0, height, step):
        end, top = min(height, begin + step), max(0, begin - 2)
        jnd[:, begin:end] = _jnd_map(image[:, top : end + 2])[:, begin - top : end - top]
    return jnd


def _jnd_map(image: Tensor) -> Tensor:
    image = image.float()
    _, height, width = image.shape
    window = torch.arange(5, device=image.device)

    def pixels_around(rows: Tensor, columns: Tensor) -> Tensor:
        row_window = _reflected(height, 2, image.device)[rows[:, None] + window]  # n×5
        column_window = _reflected(width, 2, image.device)[columns[:, None] + window]
        return image[:, row_window[:, :, None], column_window[:, None, :]]

    return _jnd(pad_by_reflection(_luminance(image), 2), pixels_around).unsqueeze(0)


@torch.no_grad()
def jnd_maps(pixels: Tensor, shapes: Sequence[Sequence[int]], begins: Sequence[int]) -> list[Tensor]:
    """What jnd_map gives for each of several images, in a few kernels: they become one tall picture.

    Args:
        pixels: of all images, in [0, 1], float32.
        shapes: 3×H×W of each.
        begins: which of the pixels' elements is an image's first.

    Returns:
        1×H×W each.
    """
    device, flat = pixels.device, pixels.view(-1)
    # each row of the tall picture: which image's row, mirrored at two rows beyond its ends
    table = np.array([[*shape, begin] for shape, begin in zip(shapes, begins, strict=True)])
    bordered = table[:, 1] + 4
    tops = np.cumsum([0, *bordered])
    height, width, begin = np.repeat(table[:, 1:], bordered, axis=0).T
    positions = np.arange(tops[-1]) - np.repeat(tops[:-1], bordered) - 2
    rows = _mirrored(torch.from_numpy(positions), torch.from_numpy(height)).numpy()
    sent = torch.from_numpy(np.stack([begin + rows * width, width, height * width])).to(device)
    first, width_of, plane = sent[..., None].unbind()  # T×1 each
    across = torch.arange(-2, int(table[:, 2].max()) + 2, device=device)
    places = first + _mirrored(across, width_of)  # T×P
    tall = torch.stack([flat[places + channel * plane] for channel in range(3)])
    window = torch.arange(5, device=device)

    def pixels_around(rows: Tensor, columns: Tensor) -> Tensor:
        return tall[:, (rows[:, None] + window)[:, :, None], (columns[:, None] + window)[:, None, :]]

    jnd = _jnd(_luminance(tall), pixels_around)  # T−4×P−4
    return [jnd[None, top : top + shape[1], : shape[2]] for top, shape in zip(tops[:-1], shapes, strict=True)]


def _luminance(image: Tensor) -> Tensor:
    """3×H×W in [0, 1] → H×W in grey levels."""
    red, green, blue = (255 * weight for weight in LUMINANCE)
    return (red * image[0]).add_(image[1], alpha=green).add_(image[2], alpha=blue)


def _jnd(padded: Tensor, pixels_around: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """JND map of a luminance with borders of two, (H+4)×(W+4) → H×W, where n pixels have 3×n×5×5 around them."""
    inner = padded[1:-1, 1:-1]
    # the 5×5 kernel (outer ring 1, inner ring 2, centre 0) is a 5×5 box plus a 3×3 box less twice the centre
    background = _box_sum(padded, 5).add_(_box_sum(inner, 3)).sub_(padded[2:-2, 2:-2], alpha=2).div_(32)
    masking = _luminance_masking(background.clamp_(min=0), pixels_around)
    squared = _squared_gradient(inner)
    contrast = squared.pow(1.2).mul_(0.117 * 16).div_(squared.add_(26**2))
    overlap = torch.minimum(masking, contrast)
    jnd = masking.add_(contrast).sub_(overlap, alpha=0.3)
    return jnd.clamp_(min=5).div_(255)


def unit_range(image: Tensor) -> Tensor:
    """Float image in [0, 1] from one that is so already or has 8 bits."""
    return image.float() / 255 if image.dtype == torch.uint8 else image.float()


def psnr_db(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB over all elements, infinite for equal images; 0-d, no synchronisation.

    Args:
        a: image of any layout, float in [0, 1] or uint8.
        b: the same shape; may be of the other kind.
    """
    return -10 * torch.log10((unit_range(a) - unit_range(b)).square().mean())


def linf_grey_levels(a: Tensor, b: Tensor) -> Tensor:
    """Largest absolute difference in grey levels (of 255); 0-d, no synchronisation. Arguments as psnr_db."""
    return 255 * (unit_range(a) - unit_range(b)).abs().max()


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
    radius = min(_SSIM_RADIUS, (a.shape[-2] - 1) // 2, (a.shape[-1] - 1) // 2)
    weights = [math.exp(-((k - radius) ** 2) / (2 * _SSIM_SIGMA**2)) for k in range(2 * radius + 1)]
    window = [weight / sum(weights) for weight in weights]
    x, y = unit_range(a), unit_range(b)
    # variances are differences of squares, in which values far from it would lose their digits
    offset = x.mean()
    x, y = x - offset, y - offset
    maps = torch.cat([x, y, x * x + y * y, x * y])
    for _ in range(2):
        maps = _weighted_rows(maps, window).transpose(1, 2)
    mean_x, mean_y, squares, products = torch.split(maps, len(x))
    covariance = products - mean_x * mean_y
    variances = squares - mean_x * mean_x - mean_y * mean_y
    mean_x, mean_y = mean_x + offset, mean_y + offset
    top = (2 * mean_x * mean_y + _SSIM_C1) * (2 * covariance + _SSIM_C2)
    return float((top / ((mean_x**2 + mean_y**2 + _SSIM_C1) * (variances + _SSIM_C2))).mean())


def _weighted_rows(planes: Tensor, window: list[float]) -> Tensor:
    """Weighted sums of as many neighbouring rows as the window has weights: a fraction of a convolution's time."""
    count = planes.shape[1] - len(window) + 1
    total = planes[:, :count] * window[0]
    for k in range(1, len(window)):
        total.add_(planes[:, k : k + count], alpha=window[k])
    return total
