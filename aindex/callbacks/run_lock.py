"""The lock of a run's folder: held by all processes of one run together, and by no other run."""

import contextlib
import fcntl
import time
from pathlib import Path
from typing import IO

from aindex.errors import OutputError

LOCK_FILE = ".lock"
_POLL_S = 0.2


class RunLock:
    """A lock that ends with the process that holds it, and is not inherited by the processes that it starts.

    Where the file system knows no locks it is always free.

    Args:
        folder: what is locked; must exist.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_FILE
        self._file: IO[str] | None = None

    def take_alone(self, token: str, *, patience_s: float = 60.0) -> None:
        """Wait until no other process holds the lock, then hold it alone.

        Args:
            token: written into the file, for `join`.
            patience_s: the processes of a run whose first one was killed need a moment to notice.

        Raises:
            OutputError: another run holds it, or the folder cannot be written.
        """
        try:
            self._file = open(self._path, "a+")  # noqa: SIM115
            if not self._wait(fcntl.LOCK_EX, patience_s):
                raise OutputError(
                    f"output_dir {str(self._path.parent)!r} is in use by another run: wait for its end, or choose "
                    "another --output_dir"
                )
            self._file.truncate(0)
            self._file.write(token)
            self._file.flush()
        except OSError as error:
            raise OutputError(
                f"cannot write {str(self._path)!r}: {error.strerror}; make room or give a writable output_dir"
            ) from error

    def share(self) -> None:
        """Let the other processes of this run in."""
        self._wait(fcntl.LOCK_SH, 0)

    def join(self, token: str, *, patience_s: float = 20.0) -> None:
        """Hold the lock together with the process that wrote the token.

        Args:
            token: as that process wrote it.
            patience_s: for network file systems, which show new files late.

        Raises:
            OutputError: this folder is not the one of the other process.
        """
        limit = time.monotonic() + patience_s
        while self._found() != token:
            if time.monotonic() > limit:
                raise OutputError(
                    f"output_dir {str(self._path.parent)!r} is another folder here than on rank 0's machine: give a "
                    "folder that all machines share"
                )
            time.sleep(_POLL_S)
        with contextlib.suppress(OSError):
            self._file = open(self._path, "r+")  # noqa: SIM115
            self._wait(fcntl.LOCK_SH, patience_s)

    def release(self) -> None:
        """Let go."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _found(self) -> str | None:
        try:
            return self._path.read_text()
        except OSError:
            return None

    def _wait(self, kind: int, patience_s: float) -> bool:
        assert self._file is not None
        limit = time.monotonic() + patience_s
        while True:
            try:
                fcntl.lockf(self._file, kind | fcntl.LOCK_NB)
                return True
            except (BlockingIOError, PermissionError):
                if time.monotonic() > limit:
                    return False
                time.sleep(_POLL_S)
            except OSError:
                return True
