"""Writes pictures as PNG files in the background, and notes batch by batch what is on disk."""

import zlib
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from aindex.data.atomic import replace_when_done
from aindex.data.parts import PartFiles
from aindex.errors import OutputError

_THREADS = 2
_PENDING_BATCHES = 4
"""Batches that may wait for the disk; more would let memory grow where the disk is slow."""


class PictureWriter:
    """A few threads that encode; their work hides behind the activation of the next batches.

    Args:
        folder: of the pictures.
        parts: where finished batches are noted, once all their files have their final names.
        compress_level: zlib level of the PNG files, 0 to 9; pixels are the same at all.
    """

    def __init__(self, folder: Path, parts: PartFiles, *, compress_level: int) -> None:
        self._folder, self._parts, self._level = folder, parts, compress_level
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="png")
        self._pending: deque[tuple[int, dict[str, Any], list[Future[None]]]] = deque()

    def submit(
        self, batch: int, pictures: Mapping[str, npt.NDArray[np.uint8]], record: dict[str, Any]
    ) -> None:
        """Take a batch over.

        Args:
            batch: its number.
            pictures: by file, relative to the folder, H×W×3.
            record: what is noted of the batch once they are on disk.

        Raises:
            OutputError: an earlier batch could not be written, or the run's folder is gone.
        """
        if not self._folder.parent.is_dir():
            # else the images would make it anew, without all that was in it
            raise OutputError(
                f"folder {str(self._folder.parent)!r} is gone: bring it back and run again to continue, or run again "
                "to start anew"
            )
        futures = [
            self._pool.submit(write_png, self._folder / file, pixels, self._level)
            for file, pixels in pictures.items()
        ]
        self._pending.append((batch, record, futures))
        self.flush(leave=_PENDING_BATCHES)

    def flush(self, *, leave: int = 0) -> None:
        """Wait until no more than so many batches are left to be written and noted.

        Raises:
            OutputError: a batch could not be written.
        """
        while self._pending and (len(self._pending) > leave or all(f.done() for f in self._pending[0][2])):
            batch, record, futures = self._pending.popleft()
            for future in futures:
                future.result()
            self._parts.append(batch, record)

    def close(self) -> None:
        """Drop what has not begun, wait for what has; nothing more is noted."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def write_png(path: Path, pixels: npt.NDArray[np.uint8], compress_level: int) -> None:
    """Write H×W×3 uint8 as a PNG file that appears whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    with replace_when_done(path) as temporary:
        # run lengths alone: as small as the lowest level makes photographs, and faster
        fast = {"compress_type": zlib.Z_RLE} if compress_level == 1 else {}
        Image.fromarray(pixels).save(temporary, format="PNG", compress_level=compress_level, **fast)
