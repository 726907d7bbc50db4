"""Places that cannot be written, or must not be."""

import errno
import os
from pathlib import Path
from typing import Any

from aindex.errors import OutputError
from aindex.release.activating import activate
from tests.faults.table import QUIET, Room, fault

OUTPUTS = "Outputs"


def released(room: Room, out: Path, **options: Any) -> Any:
    result = activate(room.tmp / "pictures", out, index=room.index, iterations=1, settings=QUIET, **options)
    room.skipped = result.skipped
    return result


@fault(OUTPUTS, "a read-only output folder", error="Read-only file system")
def read_only(room: Room) -> None:
    room.good_pictures()

    def refuse(self: Path, *_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    room.patch.setattr(Path, "mkdir", refuse)
    released(room, room.tmp / "out")


@fault(OUTPUTS, "a file in the place of the output folder", error="cannot write")
def file_in_the_way(room: Room) -> None:
    room.good_pictures()
    (room.tmp / "out").write_text("a file")
    released(room, room.tmp / "out" / "below")


@fault(
    OUTPUTS,
    "the disk is full midway: what is finished stays, and the next run goes on",
    error="No space left on device",
)
def full_disk(room: Room) -> None:
    room.good_pictures(4)
    real, left = Path.write_bytes, 2

    def fill(self: Path, content: bytes) -> int:
        nonlocal left
        if self.suffix == ".png":
            left -= 1
            if left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, content)

    with room.patch.context() as patch:
        patch.setattr(Path, "write_bytes", fill)
        try:
            released(room, room.tmp / "out")
        except OutputError:
            files = sorted(path.name for path in (room.tmp / "out").glob("*.png"))
            assert len(files) == 2
            assert not list((room.tmp / "out").rglob("*.partial*"))
            patch.undo()
            assert len(released(room, room.tmp / "out").table) == 4
            raise


@fault(OUTPUTS, "an output folder that holds other things", error="holds other things ('diary.txt')")
def other_things(room: Room) -> None:
    room.good_pictures()
    (room.tmp / "out").mkdir()
    (room.tmp / "out" / "diary.txt").touch()
    released(room, room.tmp / "out")


@fault(OUTPUTS, "the folder of the pictures as output folder", error="originals are never overwritten")
def onto_itself(room: Room) -> None:
    released(room, room.good_pictures())


@fault(
    OUTPUTS,
    "an earlier release with other settings",
    error="released with other settings (stored → given: scaling 4.0 → 1.0)",
)
def other_settings(room: Room) -> None:
    room.good_pictures()
    released(room, room.tmp / "out", scaling=4.0)
    released(room, room.tmp / "out", scaling=1.0)


@fault(OUTPUTS, "pictures of the same name in two folders", treated="the tree is kept, so both are released")
def same_names(room: Room) -> None:
    folder = room.good_pictures(1)
    (folder / "more").mkdir()
    room.picture(9).save(folder / "more" / "P000000.png")
    assert released(room, room.tmp / "out").table["file"].tolist() == ["P000000.png", "more/P000000.png"]


@fault(
    OUTPUTS,
    "a picture and another one that differ in their endings",
    treated="both keep their endings: a.jpg.png, a.png.png",
)
def same_stems(room: Room) -> None:
    folder = room.good_pictures(0)
    for name in ("a.jpg", "a.png"):
        room.picture().save(folder / name)
    assert released(room, room.tmp / "out").table["file"].tolist() == ["a.jpg.png", "a.png.png"]


@fault(OUTPUTS, "a list with ../ in a path", treated="its released form stays inside the output folder")
def upwards(room: Room) -> None:
    room.good_pictures(1)
    (room.tmp / "lists").mkdir()
    (room.tmp / "lists" / "list.txt").write_text("../pictures/P000000.png\n")
    out = room.tmp / "lists" / "out"
    result = activate(room.tmp / "lists" / "list.txt", out, index=room.index, iterations=1, settings=QUIET)
    (file,) = result.table["file"]
    assert (out / file).resolve().is_relative_to(out.resolve())


@fault(
    OUTPUTS, "names with a line break, an emoji, HTML, 250 bytes", treated="kept; the manifest quotes them"
)
def odd_names(room: Room) -> None:
    import pandas as pd

    folder = room.good_pictures(0)
    names = ["a\nb.png", "<i>&amp;.png", "x" * 246 + ".png", "🏖" * 60 + ".png"]
    for name in names:
        room.picture().save(folder / name)
    released(room, room.tmp / "out")
    assert sorted(pd.read_csv(room.tmp / "out" / "manifest.csv")["name"]) == sorted(names)


@fault(OUTPUTS, "a released name that the file system cannot take", recorded="File name too long")
def long_name(room: Room) -> None:
    folder = room.good_pictures(2)
    # both get a longer name, because their endings must tell them apart
    room.picture().save(folder / ("x" * 251 + ".png"))
    room.picture().save(folder / ("x" * 251 + ".bmp"))
    assert len(released(room, room.tmp / "out").table) == 2


@fault(
    OUTPUTS,
    "a picture that the format cannot hold",
    recorded="webp cannot hold the picture of 17000×1 pixels",
)
def format_limit(room: Room) -> None:
    from PIL import Image

    folder = room.good_pictures(2)
    Image.new("RGB", (17_000, 1)).save(folder / "wide.png")
    assert len(released(room, room.tmp / "out", format="webp").table) == 2


@fault(
    OUTPUTS, "a picture that breaks between description and release", recorded="no picture of a known format"
)
def broken_meanwhile(room: Room) -> None:
    from aindex.release import under_way

    folder = room.good_pictures(3)
    real = under_way.open_picture

    def spoil(path: Path) -> Any:
        if path.name == "P000001.png":
            path.write_bytes(b"overwritten by something else")
        return real(path)

    room.patch.setattr(under_way, "open_picture", spoil)
    assert len(released(room, room.tmp / "out").table) == 2
    assert folder.is_dir()
