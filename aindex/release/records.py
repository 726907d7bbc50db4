"""What a release has finished, what decided all of it, and which files are its own: append-only files in its folder."""

import json
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from aindex.data.atomic import remove_leftovers_of, remove_tree, replace_when_done
from aindex.data.parts import append_lines, read_lines
from aindex.errors import ConfigError, OutputError
from aindex.release.manifest import MANIFEST, SKIPPED

STATE_FOLDER = ".aindex"
_CONFIGURATION, _RECORDS, _FILES = "release.json", "released.jsonl", "files.jsonl"


class Records:
    """The finished pictures of an output folder.

    Args:
        folder: of the released pictures.

    Attributes:
        state: folder of what is not for people; held while a command works.
        work: where descriptors are kept until the release is whole.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self.state = folder, folder / STATE_FOLDER
        self.work = self.state / "originals"

    def check(self) -> None:
        """See that the folder is new, empty or a release's.

        Raises:
            OutputError: it holds other things, which are never written over.
        """
        if (self.state / _CONFIGURATION).is_file():
            return
        try:
            others = [name for name in os.listdir(self._folder) if name != STATE_FOLDER]
        except FileNotFoundError:
            return
        except OSError as error:
            raise OutputError(
                f"cannot write into {str(self._folder)!r}: {error.strerror}; give a writable folder"
            ) from error
        if others:
            raise OutputError(
                f"folder {str(self._folder)!r} holds other things ({min(others)!r}): give a new or empty folder for "
                "the released pictures"
            )

    def claim(self, configuration: dict[str, Any], *, overwrite: bool, sources: Collection[Path]) -> None:
        """Make the folder this release's own; with overwrite, remove the files of an earlier one, and no others.

        Raises:
            OutputError: it holds other things, or the sources.
            ConfigError: it holds a release that was configured differently.
        """
        self.check()
        path = self.state / _CONFIGURATION
        if path.is_file():
            if not overwrite:
                self._compare(path, configuration)
                return
            self._remove_release(sources)
        with replace_when_done(path) as temporary:
            temporary.write_text(json.dumps(configuration, indent=1) + "\n")

    def reserve(self, files: Sequence[str], sources: Collection[Path]) -> None:
        """Note the files that will be written, all before the first one; then what a killed command left of them goes.

        Raises:
            OutputError: one is there and not the release's, is one of the sources, or lies outside.
        """
        own = set(self._own_files())
        self._refuse_sources([self._folder / file for file in files], sources)
        for file in files:
            path = self._folder / file
            if not self._is_inside(file):
                raise OutputError(
                    f"{str(path.parent)!r} leads out of the folder of the release: remove the link"
                )
            if file not in own and os.path.lexists(path):
                raise OutputError(
                    f"{str(path)!r} is there, and no release made it: move it away, or give another folder"
                )
        new = [file for file in files if file not in own]
        if new:
            append_lines(self.state / _FILES, "".join(json.dumps(file) + "\n" for file in new))
        remove_leftovers_of([self._folder / file for file in (*files, MANIFEST, SKIPPED)])

    def _refuse_sources(self, paths: Sequence[Path], sources: Collection[Path]) -> None:
        originals = {os.path.realpath(path) for path in sources}
        for path in paths:
            if os.path.realpath(path) in originals:
                raise OutputError(
                    f"{str(path)!r} is one of the pictures themselves: give another folder, originals are never "
                    "overwritten"
                )

    def _own_files(self) -> list[str]:
        """What this release wrote or was about to write."""
        return [file for file in read_lines(self.state / _FILES) if isinstance(file, str)]

    def _is_inside(self, file: str) -> bool:
        folder = os.path.realpath(self._folder)
        parent = os.path.realpath((self._folder / file).parent)
        return ".." not in Path(file).parts and os.path.commonpath([folder, parent]) == folder

    def _remove_release(self, sources: Collection[Path]) -> None:
        """Remove the files of a release by its own list, its measures, and at last the list."""
        files = [self._folder / file for file in self._own_files() if self._is_inside(file)]
        self._refuse_sources(files, sources)
        files += [self._folder / MANIFEST, self._folder / SKIPPED]
        remove_leftovers_of(files)
        for path in files:
            if path.is_file() and not path.is_symlink():
                path.unlink()
        for folder in sorted({parent for path in files for parent in path.parents}, reverse=True):
            if folder != self._folder and folder.is_relative_to(self._folder):
                with suppress(OSError):  # it holds other things
                    folder.rmdir()
        remove_tree(self.work)
        for name in (_RECORDS, _FILES):
            (self.state / name).unlink(missing_ok=True)

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
        found = {}
        for record in read_lines(self.state / _RECORDS):
            with suppress(KeyError, TypeError, OSError):  # no record, or no file
                if os.path.getsize(self._folder / record["file"]) == record["bytes"]:
                    found[record["name"]] = record
        return found

    def append(self, record: dict[str, Any]) -> None:
        """Note one picture as finished, once its file has its name.

        Raises:
            OutputError: the file cannot be written.
        """
        append_lines(self.state / _RECORDS, json.dumps(record) + "\n")
