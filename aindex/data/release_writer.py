"""Writes released images as PNG files in the background, and notes batch by batch what is on disk."""

import zlib
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from aindex.data.atomic import replace_when_done
from aindex.data.parts import PartFiles
from aindex.errors import OutputError

_PENDING_BATCHES = 4
"""Batches that may wait for the disk; more would let memory grow where the disk is slow."""


class ReleaseWriter:
    """A few threads that encode; their work hides behind the activation of the next batches.

    Args:
        folder: of the released images.
        parts: where finished batches are noted, once all their files have their final names.
        compress_level: zlib level of the PNG files, 0 to 9; pixels are the same at all.
        threads: number of encoders.
    """

    def __init__(self, folder: Path, parts: PartFiles, *, compress_level: int = 1, threads: int = 2) -> None:
        self._folder, self._parts, self._level = folder, parts, compress_level
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="png")
        self._pending: deque[tuple[int, dict[str, Any], list[Future[None]]]] = deque()

    def submit(
        self,
        batch: int,
        images: Sequence[npt.NDArray[np.uint8]],
        records: Sequence[dict[str, Any]],
        failed: Sequence[dict[str, Any]] = (),
    ) -> None:
        """Take a batch over.

        Args:
            batch: its number.
            images: H×W×3 uint8, the released ones.
            records: what is noted of each of them; `file` says where in the folder it goes.
            failed: `name` and `reason` of each image that is not released.

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
            self._pool.submit(write_png, self._folder / record["file"], pixels, self._level)
            for record, pixels in zip(records, images, strict=True)
        ]
        self._pending.append((batch, {"images": records, "failed": failed}, futures))
        self._settle(leave=_PENDING_BATCHES)

    def flush(self) -> None:
        """Wait until everything is on disk and noted.

        Raises:
            OutputError: a batch could not be written.
        """
        self._settle(leave=0)

    def close(self) -> None:
        """Drop what has not begun, wait for what has; nothing more is noted."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _settle(self, *, leave: int) -> None:
        while self._pending and (len(self._pending) > leave or all(f.done() for f in self._pending[0][2])):
            batch, noted, futures = self._pending.popleft()
            for future in futures:
                future.result()
            self._parts.append(batch, noted)


def write_png(path: Path, pixels: npt.NDArray[np.uint8], compress_level: int = 1) -> None:
    """Write H×W×3 uint8 as a PNG file that appears whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    with replace_when_done(path) as temporary:
        # run lengths alone: as small as the lowest level makes photographs, and faster
        fast = {"compress_type": zlib.Z_RLE} if compress_level == 1 else {}
        Image.fromarray(pixels).save(temporary, format="PNG", compress_level=compress_level, **fast)


def finished_batches(parts: PartFiles, folder: Path) -> set[int]:
    """Batches whose images are noted and still there."""
    return {
        int(record["batch"])
        for record in parts.records()
        if all((folder / image["file"]).is_file() for image in record["images"])
    }


def release_records(parts: PartFiles) -> list[dict[str, Any]]:
    """What is noted of all finished images, in the order of the list of images."""
    return [image for record in parts.records() for image in record["images"]]


def failed_images(parts: PartFiles) -> list[tuple[str, str]]:
    """Name and reason of all images that could not be activated, in the order of the list of images."""
    return [(image["name"], image["reason"]) for record in parts.records() for image in record["failed"]]
