"""What a picture file holds beside its pixels, carried over to the released file: ICC profile, EXIF, XMP, dpi."""

import re
import struct
from dataclasses import dataclass
from typing import Any

from PIL import Image, PngImagePlugin

_ORIENTATION, _XMP = 0x0112, 700
# description, camera, date, rights, …
_DESCRIPTIVE = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)
_SUB_FOLDERS = (0x8769, 0x8825)  # Exif and GPS


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """Metadata of an upright RGB or grey picture.

    Attributes:
        icc: colour profile for RGB, or for grey.
        exif: EXIF block, its orientation "as stored".
        xmp: XMP packet, likewise.
        dpi: horizontal, vertical.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None

    @property
    def has_rgb_profile(self) -> bool:
        """Whether the colour profile is one for RGB."""
        return self.icc is not None and _space(self.icc) == b"RGB "

    def save_options(self, format: str) -> dict[str, Any]:
        """Arguments of `Image.save` for a format of Pillow."""
        options: dict[str, Any] = {} if self.icc is None else {"icc_profile": self.icc}
        if self.dpi is not None and format != "WEBP":
            options["dpi"] = self.dpi
        if format == "TIFF":
            tags = Image.Exif()
            if self.exif is not None:
                tags.load(self.exif)
            if self.xmp is not None:
                tags[_XMP] = self.xmp
            return options | ({"exif": tags} if len(tags) else {})
        if self.exif is not None:
            options["exif"] = self.exif
        # A JPEG segment holds no more.
        if self.xmp is not None and (format == "WEBP" or (format == "JPEG" and len(self.xmp) < 65_000)):
            options["xmp"] = self.xmp
        if self.xmp is not None and format == "PNG":
            options["pnginfo"] = PngImagePlugin.PngInfo()
            options["pnginfo"].add_itxt("XML:com.adobe.xmp", self.xmp.decode("utf-8", "replace"))
        return options


def _space(icc: bytes) -> bytes:
    """The colour space that a profile is for: bytes 16 to 20."""
    return bytes(icc[16:20])


def read_metadata(image: Image.Image, *, is_grey: bool = False) -> tuple[Metadata, list[str]]:
    """The metadata of a decoded picture as they hold for its upright pixels, and what had to be dropped.

    Args:
        image: decoded.
        is_grey: whether its pixels are greys, for which a grey profile holds too.
    """
    notes = []
    icc = image.info.get("icc_profile")
    # a profile for CMYK says nothing about RGB pixels, one for grey nothing about colours
    if icc is not None and _space(icc) not in ((b"RGB ", b"GRAY") if is_grey else (b"RGB ",)):
        notes.append(f"ICC profile for {_space(icc).decode('ascii', 'replace').strip()} dropped")
        icc = None
    try:
        exif = _exif(image)
    # Broken metadata beside good pixels, in whatever way.
    except Exception:
        exif = None
        notes.append("damaged EXIF dropped")
    xmp = image.info.get("xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode()
    if xmp is not None:
        xmp = re.sub(rb'(tiff:Orientation(?:="|>)\s*)[2-8]', rb"\g<1>1", xmp)
    return Metadata(icc=icc or None, exif=exif, xmp=xmp or None, dpi=_dpi(image.info.get("dpi"))), notes


def _exif(image: Image.Image) -> bytes | None:
    raw = image.info.get("exif")
    if raw:
        return reset_orientation(raw)
    stored = image.getexif()
    # Of a TIFF's own tags most say where its pixels lie, which holds for that file alone.
    kept = Image.Exif()
    for tag in _DESCRIPTIVE:
        if tag in stored:
            kept[tag] = stored[tag]
    for folder in _SUB_FOLDERS:
        if entries := dict(stored.get_ifd(folder)):
            kept[folder] = entries
    return kept.tobytes() if len(kept) else None


def reset_orientation(exif: bytes) -> bytes:
    """An EXIF block, with its head, whose orientation says "as stored"; every other byte as it was.

    Raises:
        ValueError, struct.error: the block is damaged.
    """
    # WebP stores the block without its head, JPEG needs it, and Pillow removes it where it must.
    head = b"Exif\0\0"
    exif, start = head + exif.removeprefix(head), len(head)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[start : start + 4])
    if order is None:
        raise ValueError("no TIFF header")
    data = bytearray(exif)
    (folder,) = struct.unpack_from(order + "I", data, start + 4)
    (count,) = struct.unpack_from(order + "H", data, start + folder)
    for entry in range(start + folder + 2, start + folder + 2 + 12 * count, 12):
        if struct.unpack_from(order + "H", data, entry)[0] == _ORIENTATION:
            struct.pack_into(order + "HIHH", data, entry + 2, 3, 1, 1, 0)
    return bytes(data)


def _dpi(value: object) -> tuple[float, float] | None:
    try:
        horizontal, vertical = (float(side) for side in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (horizontal, vertical) if 1 < horizontal < 65_535 and 1 < vertical < 65_535 else None
