"""Any picture file to RGB pixels, or a one-line reason why not.

What is decided here, once: a file's content decides its format, never its name; the first frame of an
animation counts; EXIF orientation is applied; transparent pixels lie on white; more than 8 bits are scaled
(not clipped) to 8; more than ``PIL.Image.MAX_IMAGE_PIXELS`` pixels are refused, or more than the environment
variable ``AINDEX_MAX_PIXELS`` says.
"""

import codecs
import csv
import io
import json
import os
import stat
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Self

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from aindex.data.atomic import replace_when_done
from aindex.data.pixels import LARGER, LIMIT_VARIABLE, decode, first_bytes, on_white, require_size, upright
from aindex.data.tiff import MAGIC, pillow_reads, read_tiff
from aindex.errors import ConfigError, DataError, ImageReadError

IMAGE_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff", ".gif", ".bmp"}
    | {".dib", ".heic", ".heif", ".hif", ".avif", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"}
    | {".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"}
)
_OWN_HIDDEN = {".aindex", ".lock"}
"""Hidden names that aindex itself leaves beside pictures."""
# Formats are named, because the rest of Pillow's list starts other programs (EPS) or is no picture (PDF).
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "GIF", "BMP", "DIB", "HEIF", "AVIF", "PPM", "JPEG2000")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def list_images(source: Path) -> list[Path]:
    """The picture files of a folder, a list file, or one picture.

    A folder is walked recursively, symbolic links followed (a link back to a folder above is not entered
    again), in the order of the relative POSIX path; hidden names (``.…``) and files that do not end like
    pictures are left out, and a warning says how many. A list file holds one path per line, relative to the
    file's own folder or absolute; its order is kept, and a path that stands there twice counts once, with a
    warning. Files are listed, not opened: whether one can be read shows in ``read_image``.

    Raises:
        DataError: the source is missing, unreadable or holds no picture.
    """
    source = Path(source)
    left_out: Counter[str] = Counter()
    if os.path.isdir(source):
        # All begin with the folder's own path, so this is the order of what follows it.
        paths = [Path(path) for path in sorted(_walk(source, left_out))]
    elif source.suffix.lower() in IMAGE_EXTENSIONS and os.path.lexists(source):
        paths = [source]
    elif os.path.isfile(source):
        paths = _once(source, [source.parent / name for name in read_names(source)])
    else:
        raise DataError(
            f"{str(source)!r} does not exist: give a folder of pictures or a list file, a path per line"
        )
    if not paths:
        expected = " ".join(sorted(IMAGE_EXTENSIONS))
        raise DataError(
            f"{str(source)!r} holds no picture: expected files that end in {expected}{_told(left_out)}"
        )
    if left_out:
        warnings.warn(f"folder {str(source)!r}{_told(left_out)}", stacklevel=1)
    return paths


def _told(left_out: "Counter[str]") -> str:
    kinds = ", ".join(f"{kind} {count}" for kind, count in left_out.most_common(8))
    return (
        f"; left out because they do not end like pictures: {left_out.total()} ({kinds})" if left_out else ""
    )


def _once(source: Path, paths: Sequence[Path]) -> list[Path]:
    """The paths of a list, each where it stands first."""
    first = {path.absolute(): path for path in reversed(paths)}
    kept = [path for path in paths if first.get(path.absolute()) is path]
    if len(kept) < len(paths):
        warnings.warn(
            f"list file {str(source)!r} names {len(paths) - len(kept)} of its {len(paths)} pictures again that stand "
            "in it already: each counts once, duplicate lines are left out",
            # one place for all callers, so that a command says it once
            stacklevel=1,
        )
    return kept


def _walk(folder: Path, left_out: "Counter[str]") -> Iterable[str]:
    """The pictures below a folder; counts what else there is, by its ending."""

    def fail(error: OSError) -> None:
        raise DataError(f"folder {str(error.filename)!r} cannot be listed: {error.strerror}") from error

    above = {str(folder): frozenset({os.path.realpath(folder)})}
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=fail):
        passed = above.pop(parent)
        hidden = {name for name in (*folders, *files) if name.startswith(".")}
        left_out.update("hidden" for name in hidden - _OWN_HIDDEN)
        inside = []
        for name in sorted(set(folders) - hidden):
            path = os.path.join(parent, name)
            target = os.path.realpath(path)
            # A link to a folder that the walk came through would be walked for ever.
            if target not in passed:
                above[path] = passed | {target}
                inside.append(name)
        folders[:] = inside
        for name in sorted(set(files) - hidden):
            ending = os.path.splitext(name)[1].lower()
            if ending in IMAGE_EXTENSIONS:
                yield os.path.join(parent, name)
            else:
                left_out[ending if ending.isprintable() and ending else "no ending"] += 1


def image_names(paths: Sequence[Path], root: Path) -> list[str]:
    """The pictures' names: POSIX paths relative to ``root``, absolute for pictures outside of it."""
    prefix = "" if Path(root) == Path() else f"{Path(root).as_posix().rstrip('/')}/"
    return [Path(path).as_posix().removeprefix(prefix) for path in paths]


def names_root(source: Path) -> Path:
    """The folder that the names of ``list_images(source)`` are relative to."""
    return Path(source) if os.path.isdir(source) else Path(source).parent


def read_names(path: Path) -> list[str]:
    """The lines of a name list as ``write_names`` writes them; empty lines are left out.

    A byte order mark, as other systems write it, is no part of the first name, and may say that the text is UTF-16.
    Lines end in line feeds alone: names may hold all else that some call a line end.

    Raises:
        DataError: the file cannot be read, is not text, or a line is no path: a quoted one that is no JSON string,
            one with a character that no file name has.
    """
    try:
        data = Path(path).read_bytes()
        is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16" if is_utf16 else "utf-8-sig")
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
    if not isinstance(name, str) or not is_path(name):
        raise DataError(f"{str(path)!r} line {number} is {line!r}: expected the path of a file")
    return name


def is_path(name: str) -> bool:
    """Whether a file can have this path; there need not be one."""
    try:
        return b"\0" not in os.fsencode(name)
    # half of a pair of surrogates, which JSON can hold and no file name
    except UnicodeEncodeError:
        return False


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
        return on_white(upright(decode(image), image))


def read_picture(picture: Image.Image) -> Image.Image:
    """The RGB pixels of a PIL picture: what `read_image` finds in its file, unless the picture was changed since.

    Raises:
        ImageReadError: for whatever reason.
    """
    try:
        content = _content(picture)
        if content is not None:
            with _opened(io.BytesIO(content)) as image:
                return on_white(upright(decode(image), image))
        if picture.format == "TIFF" and hasattr(picture, "tag_v2") and not pillow_reads(picture):
            raise ImageReadError("Pillow does not decode this TIFF rightly: give its path")
        return on_white(upright(decode(picture), picture))
    except Exception as error:
        raise ImageReadError(f"cannot read picture {picture_name(picture)!r}: {one_line(error)}") from error


def picture_name(picture: Image.Image) -> str:
    """The path of a PIL picture's file; empty if it has none."""
    return str(getattr(picture, "filename", "") or "")


def _content(picture: Image.Image) -> bytes | None:
    """The bytes of a PIL picture's file; None if there are none, or the picture has been changed since."""
    is_open = getattr(picture, "fp", None) is not None
    if is_open and getattr(picture, "tile", None) and picture.tell() == 0:
        return first_bytes(picture)
    path = picture_name(picture)
    if not path or not os.path.isfile(path):
        return None
    content = Path(path).read_bytes()
    with Image.open(io.BytesIO(content), formats=_formats()) as stored:
        return content if stored == picture else None


@contextmanager
def open_image(path: Path | str) -> Iterator[Image.Image]:
    """The picture as it is stored, its header read and its size checked, its pixels not decoded yet.

    A TIFF that Pillow does not read rightly is decoded at once, and upright.

    Raises:
        ImageReadError: for whatever reason, also in the body; the message is one line with path and reason.
    """
    try:
        # A pipe or a device would block for ever instead of failing.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ImageReadError("not a regular file")
        with open(path, "rb") as file, _opened(file) as image:
            yield image
    # Decoders meet hostile bytes with exceptions of every type.
    except Exception as error:
        raise ImageReadError(f"cannot read picture {str(path)!r}: {one_line(error)}") from error


@contextmanager
def _opened(file: IO[bytes]) -> Iterator[Image.Image]:
    try:
        image = Image.open(file, formats=_formats())
    except Image.DecompressionBombError as error:
        raise ImageReadError(f"{one_line(error).rstrip('.')}: {LARGER}") from error
    except UnidentifiedImageError as error:
        file.seek(0)
        head = file.read(16)
        if not head.startswith(MAGIC):
            raise ImageReadError(_unknown(head)) from error
        yield read_tiff(file, Image.MAX_IMAGE_PIXELS)
        return
    with image:
        require_size(*image.size, Image.MAX_IMAGE_PIXELS)
        if image.format == "TIFF" and not pillow_reads(image):
            yield read_tiff(file, Image.MAX_IMAGE_PIXELS)
        else:
            yield image


def _unknown(head: bytes) -> str:
    """Why a file is none of the known formats, by its first bytes."""
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    if brand in _HEIF_BRANDS:
        return "HEIF is read by a plugin: pip install pillow-heif"
    if brand in (b"avif", b"avis"):
        return "this Pillow reads no AVIF: pip install --upgrade pillow"
    return "its content is no picture of a known format"


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    if find_spec("pillow_heif") is not None:
        import pillow_heif  # type: ignore[import-not-found,unused-ignore]

        pillow_heif.register_heif_opener()
    limit = os.environ.get(LIMIT_VARIABLE)
    if limit is not None:
        if not limit.isdecimal() or int(limit) < 1:
            raise ConfigError(f"{LIMIT_VARIABLE} {limit!r}: expected a number of pixels, 1 or more")
        Image.MAX_IMAGE_PIXELS = int(limit)
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def to_tensor(image: Image.Image) -> torch.Tensor:
    """A PIL picture as a float32 tensor 3×H×W in [0, 1]."""
    pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().to(torch.float32).div_(255)


def one_line(error: BaseException) -> str:
    """An exception's text on one line, its type where it has none."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


LEFT_OUT_COPIES = "edited copies left out"


@dataclass
class SkippedImages:
    """The pictures that batch work left out.

    Attributes:
        what: what happened to them, for people.
        rows: path and reason of each.
    """

    what: str = "unreadable picture(s) skipped"
    rows: list[tuple[str, str]] = field(default_factory=list)

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
        if not path.is_file():
            return cls()
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            return cls(rows=[(row[0], row[1]) for row in csv.reader(file) if len(row) == 2][1:])
