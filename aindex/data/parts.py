"""What is finished, batch by batch, in append-only files, one per process: a killed run goes on from there."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from aindex.errors import OutputError


class PartFiles:
    """Records of finished batches below a folder, found again whatever the number of processes.

    A record is one JSON line, written at once; a line that a kill cut short is not counted. Files hold what
    was appended, memory holds only where it is.

    Args:
        folder: where the files are; all ranks must see it.
        name: of this series of records.
        rank: of the process that appends.
    """

    def __init__(self, folder: Path, name: str, *, rank: int = 0) -> None:
        self.folder, self.name = folder, name
        self._own = folder / f"{name}.rank{rank}.jsonl"

    def files(self) -> list[Path]:
        """All ranks' files, in the order of their names."""
        return sorted(self.folder.glob(f"{self.name}.rank*.jsonl"))

    def append(self, batch: int, record: dict[str, Any]) -> None:
        """Note a batch as finished.

        Raises:
            OutputError: the file cannot be written.
        """
        with suppress(OSError):
            # its parent is the run's folder, which is not made anew when it disappears
            self.folder.mkdir(exist_ok=True)
        append_lines(self._own, json.dumps({"batch": batch, **record}, ensure_ascii=False) + "\n")

    def offsets(self) -> dict[int, tuple[Path, int]]:
        """Per finished batch the file and the place of its (first) record."""
        found: dict[int, tuple[Path, int]] = {}
        for path in self.files():
            with open(path, "rb") as file:
                start = 0
                for line in file:
                    record = _parsed(line)
                    if record is not None:
                        found.setdefault(int(record["batch"]), (path, start))
                    start += len(line)
        return found

    def records(self) -> Iterator[dict[str, Any]]:
        """The records in the order of their batches, each batch once, one in memory at a time."""
        for _, (path, start) in sorted(self.offsets().items()):
            with open(path, "rb") as file:
                file.seek(start)
                record = _parsed(file.readline())
            assert record is not None
            yield record

    def remove(self) -> None:
        """Delete all ranks' files."""
        for path in self.files():
            path.unlink(missing_ok=True)


def append_lines(path: Path, lines: str) -> None:
    """Write whole lines at the end of a file, after whatever a kill or a full disk has left there.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        with open(path, "a+b", buffering=0) as file:
            data = lines.encode()
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                # a line that was cut short must not swallow these
                data = data if file.read(1) == b"\n" else b"\n" + data
            while data:
                data = data[file.write(data) :]
    except OSError as error:
        raise OutputError(
            f"cannot write {str(path)!r}: {error.strerror}; make room or give a writable folder, then run again: "
            "what is finished stays"
        ) from error


def read_lines(path: Path) -> Iterator[Any]:
    """What `append_lines` wrote, parsed; a line that a kill cut short is left out. Nothing where there is no file."""
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        with suppress(ValueError):
            yield json.loads(line)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "batch" in record and line.endswith(b"\n") else None
