"""The pixels of an opened picture, red, green, blue and perhaps alpha of 8 bits each; or a reason why not.

White is what the file's format says: the largest integer of the sample's depth, 1 for floating-point samples. A file
that does not say it is unreadable, never guessed at. ICC profiles are not applied.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from aindex.errors import ImageReadError

EXIF_ORIENTATION = 0x0112
_UNDO_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BITS = "bits per sample"
"""Key of `Image.info` where a reader other than Pillow's notes the depth of the file."""
_HEAD_BYTES = 4096
LIMIT_VARIABLE = "AINDEX_MAX_PIXELS"
LARGER = f"set the environment variable {LIMIT_VARIABLE} to a larger number of pixels to let it in"


def decode(image: Image.Image) -> Image.Image:
    """The picture in mode RGB, or RGBA where something may be transparent; not turned.

    Raises:
        ImageReadError: which values are black, white or transparent is not known.
    """
    # asked before the pixels are decoded, when the header is still at hand
    bits = bits_per_sample(image) if _has_transparent_colour(image) else None
    image.load()
    if _has_transparent_colour(image):
        return _keyed(image, image.info["transparency"], bits)
    if is_deep_grey(image):
        return Image.fromarray(_grey(image)).convert("RGB")
    if image.has_transparency_data:
        # Pillow knows no direct way from premultiplied grey
        return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def on_white(pixels: Image.Image) -> Image.Image:
    """RGB pixels of a decoded picture, what is transparent on white."""
    if pixels.mode == "RGB":
        return pixels
    return Image.alpha_composite(Image.new("RGBA", pixels.size, "white"), pixels).convert("RGB")


def upright(pixels: Image.Image, source: Image.Image) -> Image.Image:
    """Pixels decoded from ``source``, turned as its EXIF orientation says."""
    try:
        orientation = source.getexif().get(EXIF_ORIENTATION, 1)
    # Broken metadata beside good pixels: there is no orientation to apply.
    except Exception:
        return pixels
    return turned(pixels, orientation)


def turned(pixels: Image.Image, orientation: object) -> Image.Image:
    """Pixels turned by an EXIF orientation; unchanged where the number is none."""
    undo = _UNDO_ORIENTATION.get(orientation) if isinstance(orientation, int) else None
    return pixels if undo is None else pixels.transpose(undo)


def is_deep_grey(image: Image.Image) -> bool:
    """Whether Pillow holds it as grey of more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;")


def bits_per_sample(image: Image.Image) -> int | None:
    """The depth of a picture's file; None where it is not told, as in a picture that was decoded already."""
    if BITS in image.info:
        return int(image.info[BITS])
    if is_deep_grey(image):
        return 16 if image.mode.startswith("I;16") else 32
    if image.format == "PNG":
        return _png_bits(image)
    if image.format == "TIFF" and hasattr(image, "tag_v2"):
        return int(np.max(image.tag_v2.get(258, 1)))
    if image.format in ("JPEG2000", "AVIF", "HEIF"):
        return _declared_bits(first_bytes(image, _HEAD_BYTES))
    return 1 if image.mode == "1" else 8


def require_size(width: int, height: int, limit: int | None) -> None:
    """Raise an ImageReadError if a picture has more pixels than the user lets in; with None, any number is let in."""
    if limit is not None and width * height > limit:
        raise ImageReadError(f"{width}×{height} pixels exceed the limit of {limit}: {LARGER}")


def _has_transparent_colour(image: Image.Image) -> bool:
    """Whether one colour of a PNG, named in the depth of its samples, is transparent."""
    return (
        image.format == "PNG"
        and "transparency" in image.info
        and (image.mode in ("1", "L", "RGB") or image.mode.startswith("I;16"))
    )


def _keyed(image: Image.Image, key: Any, bits: int | None) -> Image.Image:
    """A PNG's pixels, those of the transparent colour transparent."""
    if bits is None or (image.mode == "RGB" and bits == 16):
        raise ImageReadError(
            "one of its colours is transparent, and the depth that names it is lost: save it with an alpha channel"
        )
    if image.mode == "RGB":
        return image.convert("RGBA")
    samples = np.asarray(image)
    grey = _grey(image) if is_deep_grey(image) else np.asarray(image.convert("L"))
    # Pillow has stretched samples of fewer than 8 bits to 0…255
    hidden = samples == key if bits == 16 else grey == key * 255 // (2**bits - 1)
    alpha = np.where(hidden, np.uint8(0), np.uint8(255))
    return Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]).convert("RGBA")


def _grey(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Grey of more than 8 bits, H×W, as uint8; an ImageReadError where it is not known which value is white."""
    values = np.asarray(image)
    if image.mode == "F":
        return unit_to_eight_bits(values)
    # Pillow scales the depths of PNM above 8 bits to 16
    if image.mode.startswith("I;16") or image.format == "PPM":
        return integers_to_eight_bits(values, 16)
    raise ImageReadError("32-bit integers that do not say which of them is white: save it with 8 or 16 bits")


def integers_to_eight_bits(values: npt.NDArray[Any], bits: int) -> npt.NDArray[np.uint8]:
    """Unsigned samples of a depth as uint8: 0 is 0, the largest is 255, rounded to the nearest."""
    if bits == 8:
        return values.astype(np.uint8, copy=False)
    # in integers for the depth of large pictures, to spare memory
    scaled = (
        (values.astype(np.uint32) + 128) // 257 if bits == 16 else np.rint(values * (255 / (2**bits - 1)))
    )
    return scaled.astype(np.uint8)


def unit_to_eight_bits(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Floating-point samples, 0 black and 1 white, as uint8.

    Raises:
        ImageReadError: some are not in this range, or not finite.
    """
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ImageReadError("pixels with NaN or infinite values")
    if low < 0 or high > 1:
        raise ImageReadError(
            f"floating-point pixels from {low:g} to {high:g}: expected 0 (black) to 1 (white); save it in that range"
        )
    eight: npt.NDArray[np.uint8] = np.rint(values * 255).astype(np.uint8)
    return eight


def _png_bits(image: Image.Image) -> int | None:
    tiles = getattr(image, "tile", None)
    if not tiles:
        return 1 if image.mode == "1" else None
    # "L;2", "RGB;16B", …: how the samples lie in the file; 8 bits have no number
    depth = str(tiles[0].args).partition(";")[2].rstrip("B")
    return int(depth) if depth else 1 if image.mode == "1" else 8


def _declared_bits(head: bytes) -> int | None:
    """The depth that JPEG 2000's SIZ marker, or the pixel information of AVIF and HEIF, declares."""
    at = head.find(b"\xff\x4f\xff\x51")
    if at >= 0 and len(head) > at + 42:
        return (head[at + 42] & 0x7F) + 1
    at = head.find(b"pixi")
    return head[at + 9] if at >= 0 and len(head) > at + 9 else None


def first_bytes(image: Image.Image, count: int = -1) -> bytes:
    """Of the file that a picture was opened from, by default all; none if it is closed."""
    file = getattr(image, "fp", None)
    if file is None:
        return b""
    place = file.tell()
    file.seek(0)
    content = bytes(file.read(count))
    file.seek(place)
    return content
