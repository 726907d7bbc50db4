"""Files appear whole or not at all, folders vanish in one step, and only what aindex wrote is replaced or removed."""

import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aindex.errors import OutputError

_LEFTOVER = re.compile(r"\..*\.[0-9a-f]{8}\.partial(\.[^.]*)?", re.DOTALL)
_WAY_OUT = "make room or give a writable folder, then run again"


@contextmanager
def replace_when_done(path: Path | str) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success it is flushed to disk and takes the final name.

    The temporary name is hidden, ends like the final one (libraries choose a format by the ending) and is
    removed when the body fails.

    Raises:
        OutputError: the folder or file cannot be written (no permission, disk full), or something else than a file is
            in the way: a folder, a link, a device.
    """
    path = Path(path)
    # A random part, because process numbers repeat over machines that share a disk.
    temporary = path.with_name(f"{_leftover_stem(path)}{secrets.token_hex(4)}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
            raise OSError(f"it is a {_kind(path)}, which is never replaced")
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror or error}; {_WAY_OUT}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_where_told(path: Path | str, content: bytes, *, sources: Collection[Path] = ()) -> None:
    """Write a file that the user named: a link is followed, a device or a pipe is written to.

    Args:
        path: where.
        content: all of it.
        sources: files that the command read, which it must not write over.

    Raises:
        OutputError: it cannot be written, or is one of the sources.
    """
    path = Path(path)
    with suppress(OSError):
        state = os.stat(path)
        if any(os.path.samestat(state, os.stat(source)) for source in sources if os.path.exists(source)):
            raise OutputError(f"{str(path)!r} is one of the files that were read: give another one to write")
    if not os.path.lexists(path) or stat.S_ISREG(os.lstat(path).st_mode):
        with replace_when_done(path) as temporary:
            temporary.write_bytes(content)
        return
    try:
        with open(path, "wb") as file:
            file.write(content)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror or error}; {_WAY_OUT}") from error


def _kind(path: Path) -> str:
    mode = os.lstat(path).st_mode
    kinds = {stat.S_IFDIR: "folder", stat.S_IFLNK: "link", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")


def _leftover_stem(path: Path) -> str:
    return f".{path.stem[:40]}."


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left in a folder that only aindex uses, and below; nobody may be writing there."""
    for path in folder.rglob(".*.partial*"):
        if _LEFTOVER.fullmatch(path.name):
            with suppress(OSError):
                path.unlink()


def remove_leftovers_of(paths: Collection[Path]) -> None:
    """Remove what killed processes left of these files, which may lie among others; nobody may be writing them."""
    by_folder: dict[Path, set[tuple[str, str]]] = {}
    for path in paths:
        by_folder.setdefault(path.parent, set()).add((_leftover_stem(path), path.suffix))
    for folder, expected in by_folder.items():
        with suppress(OSError):
            for name in os.listdir(folder):
                stem, dot, suffix = name.rpartition(".partial")
                if _LEFTOVER.fullmatch(name) and dot and (stem[:-8], suffix) in expected:
                    os.unlink(folder / name)


def remove_tree(folder: Path) -> None:
    """Remove a folder of this program's own: in one step it is gone from its place.

    A kill afterwards leaves a hidden folder beside it, which the next removal clears.
    """
    removed = re.compile(re.escape(f".{folder.name}.") + r"[0-9a-f]{8}\.removed")
    if folder.is_dir():
        with suppress(OSError):
            os.rename(folder, folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.removed"))
    with suppress(OSError):
        for name in os.listdir(folder.parent):
            if removed.fullmatch(name):
                shutil.rmtree(folder.parent / name, ignore_errors=True)


@contextmanager
def exclusive(folder: Path | str, *, wait: bool = True) -> Iterator[None]:
    """Make ``folder`` if needed and hold it alone. A killed holder lets go by itself.

    Args:
        folder: its holder may remove it.
        wait: for another holder to let go, instead of an error.

    Raises:
        OutputError: the folder cannot be made or written, or another command holds it.
    """
    folder = Path(folder)
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = open(folder / ".lock", "a")  # noqa: SIM115
        except (FileExistsError, FileNotFoundError) as error:
            if os.path.lexists(folder) and not folder.is_dir():
                raise OutputError(
                    f"cannot write into {str(folder)!r}: it is no folder; give another"
                ) from error
            continue  # its last holder has removed it just now
        except OSError as error:
            raise OutputError(
                f"cannot write into {str(folder)!r}: {error.strerror}; give a writable folder"
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise OutputError(
                    f"{str(folder)!r} is in use by another command: wait for its end, or give another folder"
                ) from error
            if not _is_still(folder / ".lock", lock.fileno()):
                continue  # its last holder has removed the folder
            yield
            return


def lock_of(folder: Path, *, wait: bool) -> int | None:
    """A lock on a folder itself, which leaves no file in it, as a file descriptor to be closed.

    It ends with the process. None where another holds it (and is not waited for), or the file system knows no locks.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False
