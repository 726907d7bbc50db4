"""Pictures that are broken, odd or hostile."""

import builtins
import io
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aindex.data import images
from tests.data.png_files import write_png
from tests.data.tiff_files import write_tiff
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


@fault(PICTURES, "floating-point pixels from 0 to 255", recorded="expected 0 (black) to 1 (white)")
def wide_float(room: Room) -> None:
    values = np.linspace(0, 255, 64, dtype=np.float32).reshape(8, 8)
    room.beside_good_ones(lambda path: Image.fromarray(values).save(path, "TIFF"))


@fault(PICTURES, "signed integers, of which no white is known", recorded="do not say which of them is white")
def signed(room: Room) -> None:
    room.beside_good_ones(
        lambda path: write_tiff(path, np.ones((8, 8), np.int16), bits=16, photometric=1, sample_format=2)
    )


@fault(PICTURES, "one transparent colour among 16-bit colours", recorded="save it with an alpha channel")
def deep_transparent_colour(room: Room) -> None:
    pixels = np.full((8, 8, 3), 300, np.uint16)
    room.beside_good_ones(lambda path: write_png(path, pixels, bits=16, colour_type=2, transparent=(1, 2, 3)))


@fault(
    PICTURES, "a colour space that is neither grey nor RGB nor CMYK", recorded="photometric interpretation 8"
)
def lab(room: Room) -> None:
    room.beside_good_ones(lambda path: write_tiff(path, np.ones((8, 8, 3), np.uint8), bits=8, photometric=8))


@fault(PICTURES, "HEIF where its plugin is not installed", recorded="pip install pillow-heif")
def heif_without_plugin(room: Room) -> None:
    room.patch.setattr(images, "_formats", lambda: ("JPEG", "PNG"))
    room.beside_good_ones(lambda path: path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)))


@fault(PICTURES, "more pixels than the limit", recorded="set the environment variable AINDEX_MAX_PIXELS")
def over_the_limit(room: Room) -> None:
    room.patch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    room.beside_good_ones(lambda path: room.picture().resize((60, 60)).save(path))


@fault(PICTURES, "a planar TIFF of 16 bits", treated="like any other")
def planar_tiff(room: Room) -> None:
    deep = np.full((8, 8, 3), 1000, np.uint16)
    found = room.treated("a.tif", lambda path: write_tiff(path, deep, bits=16, photometric=2, planar=True))
    assert found.min() == found.max() == 4


@fault(PICTURES, "a TIFF of 16 bits whose white is zero", treated="turned to black at zero")
def white_is_zero(room: Room) -> None:
    white = np.zeros((8, 8), np.uint16)
    assert room.treated("b.tif", lambda path: write_tiff(path, white, bits=16, photometric=0)).min() == 255


@fault(PICTURES, "one transparent colour of fewer than 8 bits", treated="white where it stands")
def transparent_grey(room: Room) -> None:
    samples = np.array([[0, 1, 2, 3]], np.uint8)
    found = room.treated(
        "a.png", lambda path: write_png(path, samples, bits=2, colour_type=0, transparent=(1,))
    )
    assert found[0, :, 0].tolist() == [0, 255, 170, 255]


@fault(PICTURES, "a dark PNM of 16 bits", treated="dark: its header says what white is")
def dark_pgm(room: Room) -> None:
    content = b"P5 8 8 65535\n" + np.full((8, 8), 200, ">u2").tobytes()
    assert room.treated("a.pgm", lambda path: path.write_bytes(content)).max() == 1


@fault(PICTURES, "files that do not end like pictures, and hidden ones", treated="left out, counted and said")
def other_files(room: Room) -> None:
    folder = room.good_pictures(1)
    for name in ("notes.txt", "no ending", ".hidden.png"):
        (folder / name).touch()
    with pytest.warns(UserWarning, match=r"left out .*: 3 \("):
        assert len(room.extract(folder)) == 1


@fault(PICTURES, "a query that cannot be read, in jsonl or csv", treated="its record has an error")
def unreadable_query(room: Room) -> None:
    good = room.good_pictures(1) / "P000000.png"
    told = room.command(
        "search", str(good), str(room.tmp / "absent.jpg"), f"--index={room.index}", f"--extractor={room.script}",
        "--resize_size=32", "--num_workers=0", "--device=cpu", "--format=jsonl", "--nprobe=4",
    )  # fmt: skip
    first, second = map(json.loads, told.splitlines())
    assert "error" not in first
    assert "No such file" in second["error"]


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

    room.patch.setattr("aindex.descriptors.extraction.read_image", vanish)
    room.extract(folder)


@fault(PICTURES, "a list file that is no text", error="cannot be read as UTF-8 text")
def binary_list(room: Room) -> None:
    (room.tmp / "list.txt").write_bytes(b"\xff\xfe\x00")
    room.extract(room.tmp / "list.txt")


@fault(PICTURES, "a list file of UTF-16, or with a byte order mark", treated="read like any other")
def foreign_list(room: Room) -> None:
    folder = room.good_pictures(1)
    for encoding in ("utf-16", "utf-8-sig"):
        (room.tmp / "list.txt").write_text(f"{folder.name}/P000000.png\r\n", encoding=encoding)
        assert len(room.extract(room.tmp / "list.txt", encoding)) == 1


@fault(PICTURES, "a path that stands in a list twice", treated="counts once, and is said")
def listed_twice(room: Room) -> None:
    folder = room.good_pictures(2)
    (room.tmp / "list.txt").write_text(f"{folder.name}/P000000.png\n{folder}/P000000.png\n")
    with pytest.warns(UserWarning, match="1 of its 2 pictures again"):
        assert len(room.extract(room.tmp / "list.txt")) == 1


@fault(PICTURES, "lines of a list that are folders: . .. /", recorded="not a regular file")
def folders_in_a_list(room: Room) -> None:
    folder = room.good_pictures(1)
    (room.tmp / "list.txt").write_text(f"{folder.name}/P000000.png\n.\n..\n/\n")
    assert len(room.extract(room.tmp / "list.txt")) == 1
    room.command(
        "activate", f"--images={room.tmp / 'list.txt'}", f"--out={room.tmp / 'out'}", f"--index={room.index}",
        f"--extractor={room.script}", "--resize_size=32", "--num_workers=0", "--device=cpu", "--progress=false",
        "--iterations=1",
    )  # fmt: skip


@fault(PICTURES, "a name of 300 characters", recorded="File name too long")
def long_name(room: Room) -> None:
    folder = room.good_pictures(1)
    (room.tmp / "list.txt").write_text(f"{folder.name}/P000000.png\n{'n' * 300}.png\n")
    assert len(room.extract(room.tmp / "list.txt")) == 1


@fault(PICTURES, "a name that no file can have", error="expected the path of a file")
def impossible_name(room: Room) -> None:
    (room.tmp / "list.txt").write_text('"\\ud800.png"\n')
    room.extract(room.tmp / "list.txt")


@fault(PICTURES, "a name that begins with ~ and is no home folder", treated="kept")
def tilde(room: Room) -> None:
    room.patch.chdir(room.tmp)
    room.picture().save("~a.jpg")
    told = room.command(
        "search", "~a.jpg", f"--index={room.index}", f"--extractor={room.script}", "--resize_size=32",
        "--num_workers=0", "--device=cpu",
    )  # fmt: skip
    assert "1 pictures searched" in told


@fault(PICTURES, "names with a form feed or another line end of Unicode", treated="kept as one name")
def odd_line_ends(room: Room) -> None:
    names = ["a\x0cb.png", "a\x85b.png", "a\u2028b.png"]
    for name in names:
        room.picture().save(room.tmp / name)
    (room.tmp / "list.txt").write_text("\n".join(names), encoding="utf-8")
    assert len(room.extract(room.tmp / "list.txt")) == 3


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
