"""Any picture file to RGB pixels, or a one-line reason why not.

What is decided here, once: a file's content decides its format, never its name; the first frame of an
animation counts; EXIF orientation is applied; transparent pixels lie on white; 16-bit grey is scaled (not
clipped) to 8 bits; ICC profiles are not applied; more than ``PIL.Image.MAX_IMAGE_PIXELS`` are refused.
"""

import csv
import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from aindex.data.atomic import replace_when_done
from aindex.errors import DataError, ImageReadError

IMAGE_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp"}
    | {".heic", ".heif", ".avif", ".ppm", ".pgm", ".jp2"}
)
# Formats are named, because the rest of Pillow's list starts other programs (EPS) or is no picture (PDF).
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "GIF", "BMP", "DIB", "HEIF", "AVIF", "PPM", "JPEG2000")
_EXIF_ORIENTATION = 0x0112
_UNDO_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def list_images(source: Path) -> list[Path]:
    """The picture files of a folder, a list file, or one picture.

    A folder is walked recursively, symbolic links followed (a link back to a folder above is not entered
    again), hidden names (``.…``) left out, in the order of the relative POSIX path. A list file holds one
    path per line, relative to the file's own folder or absolute; its order is kept. Files are listed, not
    opened: whether one can be read shows in ``read_image``.

    Raises:
        DataError: the source is missing, unreadable or holds no picture.
    """
    source = Path(source)
    if os.path.isdir(source):
        # All begin with the folder's own path, so this is the order of what follows it.
        paths = [Path(path) for path in sorted(_walk(source))]
    elif source.suffix.lower() in IMAGE_EXTENSIONS and os.path.lexists(source):
        paths = [source]
    elif os.path.isfile(source):
        paths = [source.parent / name for name in read_names(source)]
    else:
        raise DataError(
            f"{str(source)!r} does not exist: give a folder of pictures or a list file, a path per line"
        )
    if not paths:
        expected = " ".join(sorted(IMAGE_EXTENSIONS))
        raise DataError(f"{str(source)!r} holds no picture: expected files that end in {expected}")
    return paths


def _walk(folder: Path) -> Iterable[str]:
    def fail(error: OSError) -> None:
        raise DataError(f"folder {str(error.filename)!r} cannot be listed: {error.strerror}") from error

    above = {str(folder): frozenset({os.path.realpath(folder)})}
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=fail):
        passed = above.pop(parent)
        inside = []
        for name in folders:
            path = os.path.join(parent, name)
            target = os.path.realpath(path)
            # A link to a folder that the walk came through would be walked for ever.
            if not name.startswith(".") and target not in passed:
                above[path] = passed | {target}
                inside.append(name)
        folders[:] = inside
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS:
                yield os.path.join(parent, name)


def image_names(paths: Sequence[Path], root: Path) -> list[str]:
    """The pictures' names: POSIX paths relative to ``root``, absolute for pictures outside of it."""
    prefix = "" if Path(root) == Path() else f"{Path(root).as_posix().rstrip('/')}/"
    return [Path(path).as_posix().removeprefix(prefix) for path in paths]


def names_root(source: Path) -> Path:
    """The folder that the names of ``list_images(source)`` are relative to."""
    return Path(source) if os.path.isdir(source) else Path(source).parent


def read_names(path: Path) -> list[str]:
    """The lines of a name list as ``write_names`` writes them; empty lines are left out.

    Raises:
        DataError: the file cannot be read, is not text, or a quoted line is not a JSON string.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"list file {str(path)!r} cannot be read as UTF-8 text: {one_line(error)}") from error
    return [
        _unquote(line, path, number) for number, line in enumerate(text.split("\n"), 1) if line.strip("\r\t ")
    ]


def _unquote(line: str, path: Path, number: int) -> str:
    line = line.removesuffix("\r")
    if not line.startswith('"'):
        name: object = line
    else:
        try:
            name = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{str(path)!r} line {number} begins with a quote but is no JSON string: {error}"
            ) from error
    if not isinstance(name, str) or "\0" in name:
        raise DataError(f"{str(path)!r} line {number} is {line!r}: expected the path of a file")
    return name


def write_names(path: Path, names: Iterable[str]) -> None:
    """Write one name per line; a name that would not survive as a plain line becomes a JSON string."""
    with replace_when_done(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(_quote(name) + "\n" for name in names)


def _quote(name: str) -> str:
    plain = name.isprintable() and name == name.strip() and not name.startswith('"') and name != ""
    return name if plain else json.dumps(name)


def read_image(path: Path | str) -> Image.Image:
    """Decode one picture: mode RGB, first frame, EXIF orientation applied, pixels loaded, file closed.

    Raises:
        ImageReadError: for whatever reason; the message is one line with path and reason.
    """
    with open_image(path) as image:
        image.load()
        return upright(_to_rgb(image), image)


@contextmanager
def open_image(path: Path | str) -> Iterator[Image.Image]:
    """The picture as it is stored, its header read and its size checked, its pixels not decoded yet.

    Raises:
        ImageReadError: for whatever reason, also in the body; the message is one line with path and reason.
    """
    try:
        # A pipe or a device would block for ever instead of failing.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ImageReadError("not a regular file")
        with open(path, "rb") as file, Image.open(file, formats=_formats()) as image:
            width, height = image.size
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and width * height > limit:
                raise ImageReadError(f"{width}×{height} pixels exceed PIL.Image.MAX_IMAGE_PIXELS = {limit}")
            yield image
    except UnidentifiedImageError as error:
        raise ImageReadError(
            f"cannot read picture {str(path)!r}: its content is no picture of a known format"
        ) from error
    # Decoders meet hostile bytes with exceptions of every type.
    except Exception as error:
        raise ImageReadError(f"cannot read picture {str(path)!r}: {one_line(error)}") from error


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    if find_spec("pillow_heif") is not None:
        import pillow_heif  # type: ignore[import-not-found,unused-ignore]

        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def upright(pixels: Image.Image, source: Image.Image) -> Image.Image:
    """Pixels decoded from ``source``, turned as its EXIF orientation says."""
    try:
        orientation = source.getexif().get(_EXIF_ORIENTATION, 1)
    # Broken metadata beside good pixels: there is no orientation to apply.
    except Exception:
        return pixels
    undo = _UNDO_ORIENTATION.get(orientation) if isinstance(orientation, int) else None
    return pixels if undo is None else pixels.transpose(undo)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return Image.fromarray(_to_eight_bits(np.asarray(image), image.mode)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _to_eight_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """Grey H×W of more than 8 bits to uint8; 32-bit files do not tell their range, so the maximum decides."""
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ImageReadError("pixels with NaN or infinite values")
    ranges = (1.0, 255.0, 65535.0) if mode == "F" else (255.0, 65535.0, 2.0**31 - 1)
    high = 65535.0 if mode.startswith("I;16") else next((r for r in ranges if values.max() <= r), None)
    if high is None:
        raise ImageReadError(
            f"floating-point pixels up to {values.max():g}: expected a maximum of at most 65535"
        )
    return np.rint(np.clip(values / high, 0, 1) * 255).astype(np.uint8)


def to_tensor(image: Image.Image) -> torch.Tensor:
    """A PIL picture as a float32 tensor 3×H×W in [0, 1]."""
    pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().to(torch.float32).div_(255)


def one_line(error: BaseException) -> str:
    """An exception's text on one line, its type where it has none."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


class SkippedImages:
    """The pictures that batch work left out, each with its reason.

    Args:
        what: what happened to them, for people.
    """

    def __init__(self, what: str = "unreadable picture(s) skipped") -> None:
        self.what = what
        self.rows: list[tuple[str, str]] = []

    @property
    def count(self) -> int:
        """How many pictures were left out."""
        return len(self.rows)

    def record(self, path: Path | str, reason: BaseException | str) -> None:
        """Note one picture and why it was left out."""
        self.rows.append((str(path), reason if isinstance(reason, str) else one_line(reason)))

    def summary(self) -> str:
        """One line for people: how many, and the first of them; empty if none."""
        if not self.rows:
            return ""
        more = f", and {self.count - 1} more" if self.count > 1 else ""
        return f"{self.count} {self.what}: {self.rows[0][1]}{more}"

    def write(self, path: Path) -> None:
        """Write a csv with the columns path and reason."""
        with (
            replace_when_done(path) as temporary,
            open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(("path", "reason"))
            writer.writerows(self.rows)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The pictures that ``write`` noted; none if there is no such file."""
        skipped = cls()
        if Path(path).is_file():
            with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
                skipped.rows = [(row[0], row[1]) for row in csv.reader(file) if len(row) == 2][1:]
        return skipped
