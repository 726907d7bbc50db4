"""A picture opened for activation, and its released form as a file.

Released pictures have 8 bits per channel and the colours red, green, blue: grey, palette, CMYK and 16-bit pictures
are released in that form. Orientation is applied to the pixels and reset in the metadata. Transparency is kept as it
is; what lies behind it counts as white; the change goes into the colours wherever something shows. Of an animation
the first frame is released. ICC profile (for RGB), EXIF, XMP and resolution are carried over.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from aindex.collection.metadata import Metadata, read_metadata
from aindex.data.images import one_line, open_image, read_image, upright
from aindex.descriptors.preprocess import IMAGENET_STD
from aindex.errors import OutputError

Format = Literal["png", "webp", "tiff", "jpeg"]
SUFFIXES: dict[Format, str] = {"png": ".png", "webp": ".webp", "tiff": ".tiff", "jpeg": ".jpg"}
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


class ReleaseError(OutputError):
    """One picture cannot be released in the wanted form; the others can."""


@dataclass(frozen=True, kw_only=True)
class OpenedPicture:
    """A picture to activate.

    Attributes:
        seen: H×W×3 uint8, as the extractor and people see it, on white where it is transparent.
        colours: H×W×3 uint8, the stored colours; `seen` where nothing is transparent.
        alpha: H×W uint8, None for an opaque picture.
        metadata: what the file holds beside its pixels.
        notes: what the released form does not keep, for the manifest.
    """

    seen: Tensor
    colours: Tensor
    alpha: Tensor | None
    metadata: Metadata
    notes: tuple[str, ...]


def open_picture(path: Path) -> OpenedPicture:
    """Decode a picture with its transparency and metadata.

    Raises:
        ImageReadError: for whatever reason.
    """
    seen = _pixels(read_image(path))
    with open_image(path) as stored:
        stored.load()
        metadata, dropped = read_metadata(stored)
        notes = [*_form_notes(stored), *dropped]
        if not stored.has_transparency_data:
            return OpenedPicture(seen=seen, colours=seen, alpha=None, metadata=metadata, notes=tuple(notes))
        rgba = _pixels(upright(stored.convert("RGBA"), stored))
    return OpenedPicture(
        seen=seen,
        colours=rgba[..., :3].contiguous(),
        alpha=rgba[..., 3].contiguous(),
        metadata=metadata,
        notes=tuple(notes),
    )


def form_notes(path: Path) -> tuple[str, ...]:
    """What the released form would not keep, from the header alone.

    Raises:
        ImageReadError: the header cannot be read.
    """
    with open_image(path) as stored:
        return tuple(_form_notes(stored))


def _form_notes(stored: Image.Image) -> list[str]:
    notes = []
    if stored.mode not in ("RGB", "RGBA", "P", "PA"):
        notes.append(
            f"{stored.mode} released as RGB" if stored.mode in _EIGHT_BIT_MODES else "more than 8 bits"
        )
    frames = getattr(stored, "n_frames", 1)
    if frames > 1 and stored.format != "MPO":
        notes.append(f"first of {frames} frames")
    return notes


def changed_colours(picture: OpenedPicture, change: Tensor, scale: float) -> Tensor:
    """The released colours, H×W×3 uint8: the change added, clamped, rounded.

    Args:
        picture: the original.
        change: x' − x in normalised space, 3×H×W, on the CPU.
        scale: how much of it; 1 is all.
    """
    factors = scale * torch.tensor(IMAGENET_STD)[:, None, None]
    pixels = (picture.colours.permute(2, 0, 1).float() / 255).addcmul(change, factors)
    released = pixels.clamp_(0, 1).mul_(255).round_().to(torch.uint8).permute(1, 2, 0).contiguous()
    if picture.alpha is not None:
        released = torch.where(picture.alpha[..., None] > 0, released, picture.colours)
    return released


def as_seen(picture: OpenedPicture, colours: Tensor) -> Tensor:
    """Released colours as `read_image` sees them in a lossless file, H×W×3 uint8."""
    return colours if picture.alpha is None else _pixels(_on_white(_image(picture, colours)))


def encode(
    picture: OpenedPicture, colours: Tensor, format: Format, *, jpeg_quality: int, compress_level: int
) -> bytes:
    """The released picture as the content of a file; pixels survive exactly but in JPEG.

    Raises:
        ReleaseError: the format cannot hold it.
    """
    image = _image(picture, colours)
    by_format: dict[Format, dict[str, Any]] = {
        "png": {"compress_level": compress_level},
        "webp": {"lossless": True, "exact": True, "quality": 75, "method": 4},
        # Pillow compresses through libtiff, which takes no EXIF.
        "tiff": {} if picture.metadata.exif else {"compression": "tiff_adobe_deflate"},
        "jpeg": {"quality": jpeg_quality, "subsampling": 0},
    }
    if format == "jpeg" and image.mode == "RGBA":
        image = _on_white(image)
    content = io.BytesIO()
    try:
        image.save(
            content, format.upper(), **by_format[format], **picture.metadata.save_options(format.upper())
        )
    # Encoders fail in their own ways: WebP above 16,383 pixels, JPEG above 65,500.
    except Exception as error:
        width, height = image.size
        raise ReleaseError(
            f"{format} cannot hold the picture of {width}×{height} pixels ({one_line(error)}): take format png"
        ) from error
    return content.getvalue()


def decode(content: bytes) -> Tensor:
    """H×W×3 uint8 of a file's content as `read_image` sees it."""
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        return _pixels(_on_white(image.convert("RGBA")) if image.mode == "RGBA" else image.convert("RGB"))


def _image(picture: OpenedPicture, colours: Tensor) -> Image.Image:
    if picture.alpha is None:
        return Image.fromarray(colours.numpy())
    return Image.fromarray(torch.cat([colours, picture.alpha[..., None]], dim=2).numpy())


def _on_white(rgba: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image))
