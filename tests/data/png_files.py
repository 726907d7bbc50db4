"""PNG and BMP files byte by byte, independent of the libraries that read them."""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def write_png(
    path: Path,
    samples: np.ndarray,
    *,
    bits: int,
    colour_type: int,
    interlaced: bool = False,
    transparent: Sequence[int] | bytes = (),
    palette: np.ndarray | None = None,
) -> Path:
    """Write a PNG.

    Args:
        path: where to.
        samples: H×W or H×W×S unsigned.
        bits: per sample.
        colour_type: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha.
        interlaced: in the seven passes of Adam7.
        transparent: the transparent colour in the depth of the samples; of a palette the alpha of its first colours.
        palette: n×3.
    """
    pixels = samples if samples.ndim == 3 else samples[..., None]
    height, width, _ = pixels.shape
    passes = [pixels[y::dy, x::dx] for y, x, dy, dx in _ADAM7] if interlaced else [pixels]
    data = b"".join(b"\0" + _row(row, bits) for part in passes if part.size for row in part)
    content = b"\x89PNG\r\n\x1a\n" + _chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, int(interlaced))
    )
    if palette is not None:
        content += _chunk(b"PLTE", palette.astype(np.uint8).tobytes())
    if transparent:
        raw = (
            transparent
            if isinstance(transparent, bytes)
            else struct.pack(f">{len(transparent)}H", *transparent)
        )
        content += _chunk(b"tRNS", raw)
    path.write_bytes(content + _chunk(b"IDAT", zlib.compress(data)) + _chunk(b"IEND", b""))
    return path


def _row(row: np.ndarray, bits: int) -> bytes:
    if bits >= 8:
        return row.astype(f">u{bits // 8}").tobytes()
    places = np.arange(bits - 1, -1, -1)
    return np.packbits((row.reshape(-1, 1) >> places & 1).astype(np.uint8)).tobytes()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_bmp(
    path: Path, samples: np.ndarray, *, bits: int, masks: Sequence[int] = (), upwards: bool = True
) -> Path:
    """Write a BMP: 16 bits with masks or five per colour, 24, or 32; H×W unsigned words or H×W×3 bytes."""
    height, width = samples.shape[:2]
    rows = samples[..., ::-1] if bits == 24 else samples.astype(f"<u{bits // 8}")
    lines = [row.tobytes() for row in np.ascontiguousarray(rows)]
    data = b"".join(line + b"\0" * (-len(line) % 4) for line in (lines[::-1] if upwards else lines))
    extra = b"".join(struct.pack("<I", mask) for mask in masks)
    shape = (40, width, height if upwards else -height, 1, bits, 3 if masks else 0)
    head = struct.pack("<IiiHHIIiiII", *shape, len(data), 2835, 2835, 0, 0)
    start = 54 + len(extra)
    path.write_bytes(b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + head + extra + data)
    return path
