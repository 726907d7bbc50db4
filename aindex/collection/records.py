"""What a release has finished: one line per picture in an append-only file, and what decided all of them."""

import json
import os
from pathlib import Path
from typing import Any

from aindex.data.atomic import replace_when_done
from aindex.errors import ConfigError, OutputError

STATE_FOLDER = ".aindex"
_CONFIGURATION, _RECORDS = "release.json", "released.jsonl"


class Records:
    """The finished pictures of an output folder.

    Args:
        folder: of the released pictures.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._state = folder / STATE_FOLDER

    @property
    def work(self) -> Path:
        """Where descriptors are kept until the release is whole."""
        return self._state / "originals"

    def claim(self, configuration: dict[str, Any], *, overwrite: bool) -> None:
        """Make the folder this release's own.

        Raises:
            OutputError: it holds other things.
            ConfigError: it holds a release that was configured differently.
        """
        path = self._state / _CONFIGURATION
        if path.is_file() and not overwrite:
            self._compare(path, configuration)
            return
        if not path.is_file() and self._folder.is_dir() and any(self._folder.iterdir()) and not overwrite:
            raise OutputError(
                f"folder {str(self._folder)!r} holds other things ({min(os.listdir(self._folder))!r}): give a new or "
                "empty folder for the released pictures"
            )
        with replace_when_done(path) as temporary:
            temporary.write_text(json.dumps(configuration, indent=1) + "\n")
        (self._state / _RECORDS).unlink(missing_ok=True)

    def _compare(self, path: Path, configuration: dict[str, Any]) -> None:
        try:
            stored = json.loads(path.read_text())
            keys = [key for key in configuration if stored.get(key) != configuration[key]]
        except (ValueError, AttributeError, OSError) as error:
            raise ConfigError(
                f"{str(path)!r} is damaged: give another folder for the released pictures, or say overwrite"
            ) from error
        if keys:
            difference = ", ".join(
                f"{key} {stored.get(key)!r:.60} → {configuration[key]!r:.60}" for key in keys
            )
            raise ConfigError(
                f"{str(self._folder)!r} holds pictures released with other settings (stored → given: {difference}): "
                "give the stored settings, another folder, or overwrite"
            )

    def read(self) -> dict[str, dict[str, Any]]:
        """By name, the last record of each picture whose file is still as it was written."""
        path = self._state / _RECORDS
        if not path.is_file():
            return {}
        found = {}
        for line in path.read_bytes().splitlines():
            try:
                record = json.loads(line)
                name, file, size = record["name"], record["file"], record["bytes"]
            # A line that a kill cut short is not counted.
            except (ValueError, KeyError, TypeError):
                continue
            if _size(self._folder / file) == size:
                found[name] = record
        return found

    def append(self, record: dict[str, Any]) -> None:
        """Note one picture as finished, once its file has its name.

        Raises:
            OutputError: the file cannot be written.
        """
        path = self._state / _RECORDS
        line = json.dumps(record) + "\n"
        try:
            with open(path, "a+b") as file:
                if file.tell() > 0:
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read(1) == b"\n" else "\n" + line
                file.write(line.encode())
        except OSError as error:
            raise OutputError(
                f"cannot write {str(path)!r}: {error.strerror}; make room or give a writable folder, then run again: "
                "what is finished stays"
            ) from error


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
