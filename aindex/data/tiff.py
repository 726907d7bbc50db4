"""TIFF files that Pillow does not read, or reads wrongly, by tifffile."""

import logging
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from aindex.data.pixels import (
    BITS,
    EXIF_ORIENTATION,
    integers_to_eight_bits,
    require_size,
    turned,
    unit_to_eight_bits,
)
from aindex.errors import ImageReadError

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
NOTE = "note"
"""Key of `Image.info` with what is to be said about a picture."""
_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR = 258, 259, 262, 277, 284
_INK_SET, _EXTRA, _FORMAT, _SUBSAMPLING, _ICC = 332, 338, 339, 530, 34675
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4}
_UNSIGNED, _FLOAT = 1, 3
_JPEG = (6, 7)
_PREMULTIPLIED, _ALPHA = 1, 2


def pillow_reads(image: Image.Image) -> bool:
    """Whether Pillow decodes an opened TIFF rightly.

    What is listed here is what the tests compare with files made by hand, in every byte order and compression.
    """
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    bits, formats = _all(tags.get(_BITS, 1)), _all(tags.get(_FORMAT, _UNSIGNED))
    photometric, samples = tags.get(_PHOTOMETRIC), tags.get(_SAMPLES, 1)
    if len(bits) > 1 or len(formats) > 1 or tags.get(_INK_SET, 1) != 1:
        return False
    if photometric not in _COLOURS and photometric != _YCBCR:
        return False
    depth, (kind,) = bits.pop(), formats
    if kind == _FLOAT:
        little_endian = bool(tags.prefix == b"II")
        return depth == 32 and samples == 1 and photometric == _BLACK_IS_ZERO and little_endian
    if kind != _UNSIGNED:
        return False
    if photometric == _YCBCR and tags.get(_COMPRESSION) not in _JPEG:
        return tuple(tags.get(_SUBSAMPLING, (1, 1))) == (1, 1)
    if tags.get(_PLANAR) == 2 and samples > 1:
        return not tags.get(_EXTRA) and (depth == 8 or tags.get(_COMPRESSION, 1) > 1)
    return depth <= 8 or (depth == 16 and photometric in (_BLACK_IS_ZERO, _RGB, _CMYK))


def read_tiff(file: IO[bytes], max_pixels: int | None) -> Image.Image:
    """The first page, upright, in mode RGB or RGBA, its depth and colour profile noted in its `info`.

    Raises:
        ImageReadError: it cannot be read rightly.
    """
    import tifffile

    # what it has to say comes as an exception, or shows in the pixels; the terminal is not its own
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    file.seek(0)
    with tifffile.TiffFile(file) as opened:
        page: Any = opened.pages[0]
        require_size(page.imagewidth, page.imagelength, max_pixels)
        image = turned(_image(page), page.tags.valueof(EXIF_ORIENTATION, 1))
        image.info[BITS] = int(page.bitspersample)
        image.format = "TIFF"
        icc = page.tags.valueof(_ICC)
        if icc is not None:
            image.info["icc_profile"] = bytes(icc)
        image.info[NOTE] = "metadata but the ICC profile dropped"
    return image


def _image(page: Any) -> Image.Image:
    samples = _samples(page)
    photometric = int(page.photometric)
    count = _COLOURS.get(photometric)
    if count is None or samples.shape[2] < count or page.tags.valueof(_INK_SET, 1) != 1:
        raise ImageReadError(
            f"a TIFF of {samples.shape[2]} samples of photometric interpretation {photometric}: expected grey, RGB, "
            "palette or CMYK"
        )
    if photometric == _PALETTE:
        table = integers_to_eight_bits(np.asarray(page.colormap), 16)
        colours = table.T[samples[..., 0]]
    else:
        colours = _eight_bits(samples[..., :count], int(page.bitspersample))
    if photometric == _WHITE_IS_ZERO:
        colours = 255 - colours
    if count == 1 and photometric != _PALETTE:
        colours = np.repeat(colours, 3, axis=2)
    if photometric == _CMYK:
        return Image.frombytes("CMYK", colours.shape[1::-1], colours.tobytes()).convert("RGB")
    return _with_alpha(colours, samples, count, page)


def _with_alpha(
    colours: npt.NDArray[np.uint8], samples: npt.NDArray[Any], count: int, page: Any
) -> Image.Image:
    """Colours H×W×3, with the first extra sample that is an alpha channel, if there is one."""
    for place, meaning in enumerate(map(int, page.extrasamples), count):
        if meaning in (_PREMULTIPLIED, _ALPHA) and place < samples.shape[2]:
            alpha = _eight_bits(samples[..., [place]], int(page.bitspersample))
            mode = "RGBA" if meaning == _ALPHA else "RGBa"
            rgba = np.concatenate([colours, alpha], axis=2)
            return Image.frombytes(mode, rgba.shape[1::-1], rgba.tobytes()).convert("RGBA")
    return Image.fromarray(np.ascontiguousarray(colours))


def _samples(page: Any) -> npt.NDArray[Any]:
    """All samples of a page, H×W×S."""
    values: npt.NDArray[Any] = page.asarray()
    if page.axes == "YX":
        return values[..., None]
    if page.axes == "SYX":
        return np.moveaxis(values, 0, -1)
    if page.axes != "YXS":
        raise ImageReadError(f"a TIFF with the axes {page.axes}: expected a plane of pixels")
    return values


def _eight_bits(values: npt.NDArray[Any], bits: int) -> npt.NDArray[np.uint8]:
    if values.dtype.kind == "f":
        return unit_to_eight_bits(values)
    if values.dtype.kind not in "ub":
        raise ImageReadError("signed samples that do not say which of them is white: save it unsigned")
    return integers_to_eight_bits(values, bits)


def _all(value: Any) -> set[int]:
    return set(value) if isinstance(value, tuple | list) else {int(value)}
