"""A picture opened for activation, and its released form as a file.

Released pictures have 8 bits per sample. Those that are grey stay so; palette, CMYK and 16-bit pictures are released
as red, green, blue. Pure black and pure white pixels stay what they are. Orientation is applied to the pixels and
reset in the metadata. Transparency is kept as it is; what lies behind it counts as white; the change goes into the
colours wherever something shows. Of an animation the first frame is released. ICC profile, EXIF, XMP and resolution
are carried over.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from aindex.data.images import one_line, open_image
from aindex.data.metadata import Metadata, read_metadata
from aindex.data.pixels import bits_per_sample, on_white, upright
from aindex.data.pixels import decode as decoded
from aindex.data.tiff import NOTE
from aindex.descriptors.preprocess import IMAGENET_STD
from aindex.errors import ConfigError, OutputError

Format = Literal["png", "webp", "tiff", "jpeg"]
_STRIP_PIXELS = 1 << 19
SUFFIXES: dict[Format, str] = {"png": ".png", "webp": ".webp", "tiff": ".tiff", "jpeg": ".jpg"}


class PictureError(OutputError):
    """One picture cannot be released in the wanted form; the others can."""


@dataclass(frozen=True, kw_only=True)
class FileSettings:
    """What released files are like.

    Attributes:
        format: of the files.
        jpeg_quality: 1 to 100.
        compress_level: of PNG, 0 to 9; pixels are the same at all.
        min_psnr: PSNR in dB that a saved file keeps; None: whatever comes of the change as it is.
    """

    format: Format = "png"
    jpeg_quality: int = 95
    compress_level: int = 6
    min_psnr: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.jpeg_quality <= 100:
            raise ConfigError(f"jpeg_quality {self.jpeg_quality}: expected 1 to 100; the default is 95")
        if not 0 <= self.compress_level <= 9:
            raise ConfigError(f"compress_level {self.compress_level}: expected 0 to 9; the default is 6")


@dataclass(frozen=True, kw_only=True)
class OpenedPicture:
    """A picture to activate.

    Attributes:
        seen: H×W×3 uint8, as the extractor and people see it, on white where it is transparent.
        colours: H×W×3 uint8, the stored colours; `seen` where nothing is transparent.
        alpha: H×W uint8, None for an opaque picture.
        is_grey: whether all colours are greys; they stay so.
        metadata: what the file holds beside its pixels.
        notes: what the released form does not keep, for the manifest.
    """

    seen: Tensor
    colours: Tensor
    alpha: Tensor | None
    is_grey: bool
    metadata: Metadata
    notes: tuple[str, ...]


def open_picture(path: Path) -> OpenedPicture:
    """Decode a picture with its transparency and metadata.

    Raises:
        ImageReadError: for whatever reason.
    """
    with open_image(path) as stored:
        notes = form_notes(stored)
        pixels = upright(decoded(stored), stored)
        rgba = _pixels(pixels)
        is_grey = bool((rgba[..., 1:3] == rgba[..., :1]).all())
        metadata, dropped = read_metadata(stored, is_grey=is_grey)
    is_opaque = pixels.mode == "RGB"
    seen = rgba if is_opaque else _pixels(on_white(pixels))
    return OpenedPicture(
        seen=seen,
        colours=seen if is_opaque else rgba[..., :3].contiguous(),
        alpha=None if is_opaque else rgba[..., 3].contiguous(),
        is_grey=is_grey,
        metadata=metadata,
        notes=(*notes, *dropped),
    )


def form_notes(stored: Image.Image) -> list[str]:
    """What the released form does not keep; to be asked before the pixels are decoded, whose depth the header knows."""
    notes = []
    bits = bits_per_sample(stored) or 8
    if bits > 8:
        notes.append(f"{bits} bits per sample released as 8")
    elif stored.mode == "1":
        notes.append("black and white released as grey")
    elif stored.mode not in ("RGB", "RGBA", "P", "PA", "L", "LA"):
        notes.append(f"{stored.mode} released as RGB")
    frames = getattr(stored, "n_frames", 1)
    if frames > 1 and stored.format != "MPO":
        notes.append(f"first of {frames} frames")
    return notes + ([stored.info[NOTE]] if NOTE in stored.info else [])


def changed_colours(picture: OpenedPicture, change: Tensor, scale: float) -> Tensor:
    """The released colours, H×W×3 uint8: the change added, clamped, rounded.

    Args:
        picture: the original.
        change: x' − x in normalised space, 3×H×W, on the CPU.
        scale: how much of it; 1 is all.
    """
    factors = scale * torch.tensor(IMAGENET_STD)[:, None, None]
    released = torch.empty_like(picture.colours)
    for rows in strips(*picture.colours.shape[:2]):
        pixels = (picture.colours[rows].permute(2, 0, 1).float() / 255).addcmul(change[:, rows], factors)
        released[rows] = pixels.clamp_(0, 1).mul_(255).round_().to(torch.uint8).permute(1, 2, 0)
    if picture.is_grey:
        # the channels of the change are equal but for rounding
        released[..., 1:] = released[..., :1]
    if picture.alpha is not None:
        released = torch.where(picture.alpha[..., None] > 0, released, picture.colours)
    return released


def strips(height: int, width: int, *, overlap: int = 0) -> Iterator[slice]:
    """Ranges of rows of about _STRIP_PIXELS, each with `overlap` rows of the next, none shorter than that."""
    step = max(1, _STRIP_PIXELS // width)
    for start in range(0, height - overlap, step):
        yield slice(start, min(start + step + overlap, height))


def as_seen(picture: OpenedPicture, colours: Tensor) -> Tensor:
    """Released colours as `read_image` sees them in a lossless file, H×W×3 uint8."""
    return colours if picture.alpha is None else _pixels(on_white(_image(picture, colours).convert("RGBA")))


def encode(picture: OpenedPicture, colours: Tensor, settings: FileSettings) -> bytes:
    """The released picture as the content of a file; pixels survive exactly but in JPEG.

    Raises:
        PictureError: the format cannot hold it.
    """
    image, format = _image(picture, colours), settings.format
    by_format: dict[Format, dict[str, Any]] = {
        "png": {"compress_level": settings.compress_level},
        "webp": {"lossless": True, "exact": True, "quality": 75, "method": 4},
        # Pillow compresses through libtiff, which takes no EXIF.
        "tiff": {} if picture.metadata.exif else {"compression": "tiff_adobe_deflate"},
        "jpeg": {"quality": settings.jpeg_quality, "subsampling": 0},
    }
    if format == "jpeg" and picture.alpha is not None:
        image = on_white(image.convert("RGBA")).convert("L" if image.mode == "LA" else "RGB")
    content = io.BytesIO()
    try:
        image.save(
            content, format.upper(), **by_format[format], **picture.metadata.save_options(format.upper())
        )
    # Encoders fail in their own ways: WebP above 16,383 pixels, JPEG above 65,500.
    except Exception as error:
        width, height = image.size
        raise PictureError(
            f"{format} cannot hold the picture of {width}×{height} pixels ({one_line(error)}): take format png"
        ) from error
    return content.getvalue()


def decode(content: bytes) -> Tensor:
    """H×W×3 uint8 of a file's content as `read_image` sees it."""
    with Image.open(io.BytesIO(content)) as image:
        return _pixels(on_white(decoded(image)))


def _image(picture: OpenedPicture, colours: Tensor) -> Image.Image:
    """In the form in which it is saved: grey pictures as grey, unless their colour profile is one for RGB."""
    if picture.is_grey and not picture.metadata.has_rgb_profile:
        colours = colours[..., 0]
    image = Image.fromarray(colours.contiguous().numpy())
    if picture.alpha is not None:
        image.putalpha(Image.fromarray(picture.alpha.numpy()))
    return image


def _pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image))
