"""Files appear under their final name whole or not at all."""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aindex.errors import OutputError


@contextmanager
def replace_when_done(path: Path | str) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success it is flushed to disk and takes the final name.

    The temporary name is hidden, ends like the final one (libraries choose a format by the ending) and is
    removed when the body fails.

    Raises:
        OutputError: the folder or file cannot be written (no permission, disk full, a folder is in the way).
    """
    path = Path(path)
    # A random part, because process numbers repeat over machines that share a disk.
    temporary = path.with_name(f".{path.stem[:40]}.{secrets.token_hex(4)}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"cannot write {str(path)!r}: {reason}; make room or give a writable folder, then run again"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left of files that never got their final names.

    Args:
        folder: with its subfolders; nobody may be writing there.
    """
    for path in folder.rglob(".*.partial*"):
        with suppress(OSError):
            path.unlink()


@contextmanager
def exclusive(folder: Path | str) -> Iterator[None]:
    """Make ``folder`` if needed and hold it alone; others wait. A killed holder lets go by itself.

    Raises:
        OutputError: the folder cannot be made or written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")  # noqa: SIM115
    except OSError as error:
        raise OutputError(
            f"cannot write into {str(folder)!r}: {error.strerror}; give a writable folder"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
