"""Pictures that are broken, odd or hostile."""

import builtins
import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from aindex.data import images
from tests.faults.table import Room, fault, truncate

PICTURES = "Pictures"


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return start + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


@fault(PICTURES, "a JPEG that breaks off in the middle", recorded="truncated")
def truncated(room: Room) -> None:
    def spoil(path: Path) -> None:
        room.picture().save(path)
        truncate(path)

    room.beside_good_ones(spoil)


@fault(PICTURES, "a file of zero bytes", recorded="no picture of a known format")
def zero_byte(room: Room) -> None:
    room.beside_good_ones(lambda path: path.touch())


@fault(PICTURES, "text under the name of a picture", recorded="no picture of a known format")
def not_a_picture(room: Room) -> None:
    room.beside_good_ones(lambda path: path.write_text("<html>not found</html>"))


@fault(
    PICTURES,
    "a PostScript file under the name of a picture: no other program is started",
    recorded="no picture of a known format",
)
def postscript(room: Room) -> None:
    room.beside_good_ones(lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"))


@fault(PICTURES, "a decompression bomb: a small file that claims 60,000×60,000 pixels", recorded="exceed")
def decompression_bomb(room: Room) -> None:
    room.beside_good_ones(lambda path: path.write_bytes(png_header(60_000, 60_000)))


@fault(PICTURES, "a PNG that claims more pixels than it holds", recorded="cannot read picture")
def header_alone(room: Room) -> None:
    room.beside_good_ones(lambda path: path.write_bytes(png_header(50, 50)))


@fault(PICTURES, "no permission to read", recorded="Permission denied")
def unreadable(room: Room) -> None:
    real = builtins.open

    def refuse(path: Any, *args: Any, **more: Any) -> Any:
        # Tests may run as root, whom no permission stops.
        if str(path).endswith("P000001x.jpg"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **more)

    room.patch.setattr(images, "open", refuse, raising=False)
    room.beside_good_ones(lambda path: room.picture().save(path))


@fault(PICTURES, "a symbolic link to nothing", recorded="No such file")
def dangling_link(room: Room) -> None:
    room.beside_good_ones(lambda path: path.symlink_to("nowhere.jpg"))


@fault(PICTURES, "a symbolic link to itself", recorded="Too many levels of symbolic links")
def looping_link(room: Room) -> None:
    room.beside_good_ones(lambda path: path.symlink_to(path.name))


@fault(
    PICTURES, "a pipe under the name of a picture, which would block for ever", recorded="not a regular file"
)
def pipe(room: Room) -> None:
    room.beside_good_ones(lambda path: os.mkfifo(path))


@fault(PICTURES, "a floating-point TIFF with NaN", recorded="NaN or infinite")
def nan_pixels(room: Room) -> None:
    values = np.full((8, 8), np.nan, np.float32)
    room.beside_good_ones(lambda path: Image.fromarray(values).save(path, "TIFF"))


@fault(PICTURES, "the wrong extension: a PNG named .jpg", treated="the content decides the format")
def wrong_extension(room: Room) -> None:
    assert room.treated("a.jpg", lambda path: room.picture().save(path, "PNG")).shape == (40, 48, 3)


@fault(PICTURES, "a folder that a link inside leads back to", treated="every picture is listed once")
def looping_folder(room: Room) -> None:
    folder = room.good_pictures()
    (folder / "again").symlink_to(folder, target_is_directory=True)
    assert len(room.extract(folder)) == 3


@fault(PICTURES, "20,000 pixels wide", treated="like any other")
def wide(room: Room) -> None:
    assert room.treated("a.png", lambda path: Image.new("RGB", (20_000, 3)).save(path)).shape == (
        3,
        20_000,
        3,
    )


@fault(PICTURES, "1 pixel wide", treated="like any other")
def narrow(room: Room) -> None:
    assert room.treated("a.png", lambda path: Image.new("RGB", (1, 50)).save(path)).shape == (50, 1, 3)


@fault(PICTURES, "CMYK", treated="converted to RGB")
def cmyk(room: Room) -> None:
    pixels = room.treated("a.jpg", lambda path: Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(path))
    assert pixels[0, 0].tolist()[0] > 200


@fault(PICTURES, "16 bits per pixel", treated="scaled, not clipped, to 8 bits")
def sixteen_bits(room: Room) -> None:
    values = np.full((8, 8), 32_768, np.uint16)
    assert room.treated("a.png", lambda path: Image.fromarray(values).save(path)).max() == 128


@fault(PICTURES, "transparency", treated="what lies behind is white")
def alpha(room: Room) -> None:
    assert room.treated("a.png", lambda path: Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(path)).min() == 255


@fault(PICTURES, "a palette", treated="converted to RGB")
def palette(room: Room) -> None:
    assert room.treated("a.gif", lambda path: room.picture().convert("P").save(path)).shape == (40, 48, 3)


@fault(PICTURES, "an animation", treated="its first frame counts")
def animated(room: Room) -> None:
    def save(path: Path) -> None:
        Image.new("L", (8, 8), 0).save(path, save_all=True, append_images=[Image.new("L", (8, 8), 255)])

    assert room.treated("a.gif", save).max() == 0


@fault(PICTURES, "rotated by its EXIF", treated="turned upright")
def rotated(room: Room) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert room.treated("a.jpg", lambda path: room.picture().save(path, exif=exif)).shape == (48, 40, 3)


@fault(PICTURES, "damaged EXIF beside good pixels", treated="the pixels count")
def damaged_exif(room: Room) -> None:
    content = io.BytesIO()
    room.picture().save(content, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert room.treated("a.jpg", lambda path: path.write_bytes(content.getvalue())).shape == (40, 48, 3)


@fault(PICTURES, "none of the pictures can be read", error="none of the 2 pictures can be read")
def all_broken(room: Room) -> None:
    folder = room.tmp / "pictures"
    folder.mkdir()
    for name in ("a.jpg", "b.png"):
        (folder / name).touch()
    room.extract(folder)


@fault(PICTURES, "a folder without pictures", error="holds no picture: expected files that end in")
def empty_folder(room: Room) -> None:
    (room.tmp / "empty").mkdir()
    room.extract(room.tmp / "empty")


@fault(
    PICTURES, "a folder that is not there", error="does not exist: give a folder of pictures or a list file"
)
def missing_folder(room: Room) -> None:
    room.extract(room.tmp / "nowhere")


@fault(PICTURES, "the folder vanishes midway", error="vanished while its pictures were read")
def vanishing_folder(room: Room) -> None:
    folder = room.good_pictures()
    real = images.read_image

    def vanish(path: str) -> Image.Image:
        if folder.is_dir():
            folder.rename(folder.with_name("unplugged"))
        return real(path)

    room.patch.setattr("aindex.descriptors.extract.read_image", vanish)
    room.extract(folder)


@fault(PICTURES, "a list file that is no text", error="cannot be read as UTF-8 text")
def binary_list(room: Room) -> None:
    (room.tmp / "list.txt").write_bytes(b"\xff\xfe\x00")
    room.extract(room.tmp / "list.txt")


@fault(PICTURES, "a list file with a path that leads nowhere", recorded="No such file")
def list_with_a_gap(room: Room) -> None:
    folder = room.good_pictures(1)
    (room.tmp / "list.txt").write_text(f"{folder.name}/P000000.png\nnowhere.jpg\n")
    assert len(room.extract(room.tmp / "list.txt")) == 1


@fault(
    PICTURES, "names with a line break, quotes, an emoji, HTML", treated="kept, and quoted where lines count"
)
def odd_names(room: Room) -> None:
    names = ["a\nb.png", 'say "hi".png', "🏖️.png", "<b onclick=x>.png"]
    folder = room.tmp / "pictures"
    folder.mkdir()
    for name in names:
        room.picture().save(folder / name)
    assert len(room.extract(folder)) == 4
    assert sorted(images.read_names(room.tmp / "features" / "filenames.txt")) == sorted(names)
