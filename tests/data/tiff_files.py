"""TIFF files byte by byte, independent of the libraries that read them."""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

Compression = Literal["none", "deflate", "packbits", "lzw"]
_CODES: dict[Compression, int] = {"none": 1, "lzw": 5, "deflate": 8, "packbits": 32773}
_SHORT, _LONG = 3, 4


def write_tiff(
    path: Path,
    samples: np.ndarray,
    *,
    bits: int,
    photometric: int,
    order: Literal["<", ">"] = "<",
    planar: bool = False,
    compression: Compression = "none",
    sample_format: int = 1,
    extra_samples: Sequence[int] = (),
    colours: np.ndarray | None = None,
    fill_order: int = 1,
    strips: int = 1,
    tiled: bool = False,
) -> Path:
    """Write one page.

    Args:
        path: where to.
        samples: H×W or H×W×S; of a dtype that holds `bits`.
        bits: per sample: 1, 2, 4, 12, or those of the dtype.
        photometric: 0 white is zero, 1 black is zero, 2 RGB, 3 palette, 5 CMYK.
        order: of the bytes.
        planar: plane after plane instead of pixel after pixel.
        compression: of the strips.
        sample_format: 1 unsigned, 2 signed, 3 floating point.
        extra_samples: 1 premultiplied alpha, 2 alpha, 0 something else; one per sample beyond the colours.
        colours: of a palette, 3×2^bits uint16.
        fill_order: 2 has the bits of each byte in reverse.
        strips: how many; H must be a multiple.
        tiled: in tiles of 16×16.
    """
    pixels = samples if samples.ndim == 3 else samples[..., None]
    height, width, count = pixels.shape
    planes = [pixels[..., [plane]] for plane in range(count)] if planar else [pixels]
    parts = [part for plane in planes for part in (_tiles(plane) if tiled else np.split(plane, strips))]
    blocks = [_compressed(_packed(part, bits, order, fill_order), compression) for part in parts]
    starts = np.cumsum([8, *(len(block) + len(block) % 2 for block in blocks)]).tolist()
    data = b"".join(block + b"\0" * (len(block) % 2) for block in blocks)
    place, place_sizes, place_rows = (324, 325, 323) if tiled else (273, 279, 278)
    tags = {
        256: (_LONG, [width]),
        257: (_LONG, [height]),
        258: (_SHORT, [bits] * count),
        259: (_SHORT, [_CODES[compression]]),
        262: (_SHORT, [photometric]),
        266: (_SHORT, [fill_order]),
        place: (_LONG, starts[:-1]),
        277: (_SHORT, [count]),
        place_rows: (_LONG, [16 if tiled else height // strips]),
        place_sizes: (_LONG, [len(block) for block in blocks]),
        284: (_SHORT, [2 if planar else 1]),
        339: (_SHORT, [sample_format] * count),
    }
    if tiled:
        tags[322] = (_LONG, [16])
    if extra_samples:
        tags[338] = (_SHORT, list(extra_samples))
    if colours is not None:
        tags[320] = (_SHORT, colours.ravel().tolist())
    magic = b"II" if order == "<" else b"MM"
    head = magic + struct.pack(order + "HI", 42, starts[-1])
    path.write_bytes(head + data + _directory(tags, starts[-1], order))
    return path


def _directory(tags: dict[int, tuple[int, list[int]]], start: int, order: str) -> bytes:
    entries, more = b"", b""
    after = start + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        raw = struct.pack(f"{order}{len(values)}{'H' if kind == _SHORT else 'I'}", *values)
        if len(raw) > 4:
            field = struct.pack(order + "I", after + len(more))
            more += raw + b"\0" * (len(raw) % 2)
        else:
            field = raw.ljust(4, b"\0")
        entries += struct.pack(order + "HHI", tag, kind, len(values)) + field
    return struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", 0) + more


def _tiles(plane: np.ndarray) -> list[np.ndarray]:
    height, width, _ = plane.shape
    padded = np.pad(plane, ((0, -height % 16), (0, -width % 16), (0, 0)))
    rows = [padded[row : row + 16] for row in range(0, height, 16)]
    return [band[:, column : column + 16] for band in rows for column in range(0, width, 16)]


def _packed(part: np.ndarray, bits: int, order: str, fill_order: int) -> bytes:
    if bits == 8 * part.dtype.itemsize:
        data = part.astype(part.dtype.newbyteorder(order)).tobytes()
    else:
        # each row begins with a new byte
        rows = part.reshape(len(part), -1)
        places = np.arange(bits - 1, -1, -1)
        data = np.packbits(
            (rows[..., None] >> places & 1).reshape(len(part), -1).astype(np.uint8), axis=1
        ).tobytes()
    if fill_order == 2:
        bytes_ = np.frombuffer(data, np.uint8)
        data = np.packbits(np.unpackbits(bytes_).reshape(-1, 8)[:, ::-1], axis=1).tobytes()
    return data


def _compressed(data: bytes, compression: Compression) -> bytes:
    if compression == "deflate":
        return zlib.compress(data)
    if compression == "packbits":
        chunks = [data[at : at + 128] for at in range(0, len(data), 128)]
        return b"".join(bytes([len(chunk) - 1]) + chunk for chunk in chunks)
    if compression == "lzw":
        # literals alone, and a new table before codes would need a tenth bit
        codes: list[int] = []
        for at in range(0, len(data), 250):
            codes += [256, *data[at : at + 250]]
        places = np.arange(8, -1, -1)
        return np.packbits((np.array([*codes, 257])[:, None] >> places & 1).astype(np.uint8)).tobytes()
    return data
