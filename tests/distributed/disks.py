"""A small disk of a process's own, that fills up, forbids or vanishes while a command runs on it."""

import contextlib
import ctypes
import os
import shutil
import sys
from pathlib import Path

import misfortunes

CANNOT = 77
"""Exit code where the system lets nobody mount anything."""
_NEW_NAMESPACES = 0x00020000 | 0x10000000
_REMOUNT, _BIND, _DETACH = 32, 4096, 2
_libc = ctypes.CDLL(None, use_errno=True)


def _mount(source: Path | str, target: Path, flags: int = 0, options: str = "") -> None:
    words = [str(source).encode(), str(target).encode(), b"tmpfs"]
    if _libc.mount(*words, ctypes.c_ulong(flags), options.encode()):
        raise OSError(ctypes.get_errno(), "mount")


def _own_disk(folder: Path, size_kb: int) -> None:
    user, group = os.getuid(), os.getgid()
    try:
        if _libc.unshare(_NEW_NAMESPACES):
            raise OSError(ctypes.get_errno(), "unshare")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        # one mount to keep the disk, the other to take it away
        for name in ("disk", "place"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        _mount("none", folder / "disk", options=f"size={size_kb}k")
        _mount(folder / "disk", folder / "place", _BIND)
    except OSError:
        os._exit(CANNOT)


def _fails(args: list[str]) -> None:
    from aindex.cli import main

    with contextlib.suppress(SystemExit):
        main(args)
        print("the command did not fail")


def _again(args: list[str], folder: Path) -> None:
    """The same command, which now succeeds; its files are taken to where they can be seen."""
    from aindex.cli import main

    main(args)
    shutil.copytree(folder / "place" / "run", folder / "copy")
    sys.exit(0)


def full(*, args: list[str], folder: Path, size_kb: int) -> None:
    """The disk is too small; then it grows."""
    _own_disk(folder, size_kb)
    _fails(args)
    _mount("none", folder / "disk", _REMOUNT, "size=100m")
    _again(args, folder)


def forbidden(*, args: list[str], folder: Path, event: int) -> None:
    """Nothing new can be written any more from some moment on; later it can."""
    _be_nobody_special()
    place = folder / "place"
    place.mkdir()
    _at(event, place, lambda: _set_modes(place, 0o555))
    _fails(args)
    _set_modes(place, 0o755)
    _again(args, folder)


def _be_nobody_special() -> None:
    """Give up what lets root write everywhere."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    if _libc.capset(header, (ctypes.c_uint32 * 6)()):
        os._exit(CANNOT)


def _set_modes(place: Path, mode: int) -> None:
    for folder, _, _ in os.walk(place):
        os.chmod(folder, mode)


def gone(*, args: list[str], folder: Path, event: int) -> None:
    """The disk is taken away at some moment, and comes back."""
    _own_disk(folder, 100_000)
    place = folder / "place"
    _at(event, place, lambda: _libc.umount2(str(place).encode(), _DETACH))
    _fails(args)
    _mount(folder / "disk", place, _BIND)
    _again(args, folder)


def _at(event: int, place: Path, happens) -> None:  # type: ignore[no-untyped-def]
    misfortunes.on_file_event(str(place), lambda number: happens() if number == event else None)
