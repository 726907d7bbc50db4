"""What lies around a command: the terminal, the pipe, the person at the keys, the temporary folder."""

import io
import os
import sys
import tempfile
from multiprocessing import current_process
from pathlib import Path
from typing import Any

import pytest

from aindex.cli import main
from tests.faults.table import Room, fault

TERMINALS = "Terminals and pipes"


class Stream(io.TextIOWrapper):
    """A terminal of some encoding, or a pipe."""

    def __init__(
        self, encoding: str = "utf-8", *, terminal: bool = False, error: OSError | None = None
    ) -> None:
        super().__init__(io.BytesIO(), encoding=encoding)
        self._is_terminal, self._error, self._is_begun = terminal, error, False

    def isatty(self) -> bool:
        return self._is_terminal

    def write(self, text: str) -> int:
        self._is_begun = True
        return super().write(text)

    def flush(self) -> None:
        if self._error is not None and self._is_begun:
            raise self._error
        super().flush()

    def text(self) -> str:
        super().flush()
        buffer: Any = self.buffer
        return str(buffer.getvalue().decode(self.encoding))


def ends(code: int, *args: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(list(args))
    assert stopped.value.code == code


def searched(room: Room, *more: str) -> list[str]:
    machine = ["--device=cpu", "--num_workers=0", f"--extractor={room.script}", "--resize_size=32"]
    return ["search", str(room.good_pictures()), f"--index={room.index}", *machine, *more]


@fault(TERMINALS, "Ctrl-C", treated="one line, exit code 130; the same command goes on")
def interrupted(room: Room) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    room.patch.setattr("aindex.matching.searching.open_equipment", interrupt)
    ends(130, *searched(room))
    told = room.output.readouterr().err
    assert told == "aindex: error: interrupted: what is finished stays, the same command goes on\n"


@fault(TERMINALS, "a pipe that its reader has closed", treated="no line, exit code 141")
def closed_pipe(room: Room) -> None:
    room.patch.setattr(sys, "stdout", Stream(error=BrokenPipeError()))
    ends(141, "index", "info", f"--index={room.index}")
    assert room.output.readouterr().err == ""


@fault(TERMINALS, "an output that is closed from the start", treated="nobody is told, and all is done")
def closed_output(room: Room) -> None:
    room.patch.setattr(sys, "stdout", None)
    room.patch.setattr(sys, "stderr", None)
    main(searched(room, f"--output={room.tmp / 'found.txt'}"))
    assert (room.tmp / "found.txt").stat().st_size


@fault(TERMINALS, "results to a full disk", error="No space left on device: make room")
def full_disk(room: Room) -> None:
    room.patch.setattr(sys, "stdout", Stream(error=OSError(28, "No space left on device")))
    room.command("index", "info", f"--index={room.index}")


@fault(TERMINALS, "another error of the system", error="('model.pt'): run the same command again")
def another_error(room: Room) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(5, "Input/output error", "model.pt")

    room.patch.setattr("aindex.matching.searching.open_equipment", fail)
    room.command(*searched(room))


@fault(TERMINALS, "a terminal that knows ASCII alone", treated="signs that it lacks are spelled with others")
def ascii_terminal(room: Room) -> None:
    stream = Stream("ascii")
    room.patch.setattr(sys, "stdout", stream)
    (room.good_pictures() / "P000001.png").rename(room.tmp / "pictures" / "Größe→.png")
    main(searched(room, "--k=1"))
    assert "Gr\\xf6\\xdfe->.png" in stream.text()
    assert stream.errors == "strict"


@fault(TERMINALS, "output that is no terminal", treated="no bars in it; with --quiet no notes either")
def no_terminal(room: Room) -> None:
    for terminal, options in ((True, ()), (False, ()), (True, ("--quiet",))):
        stream = Stream(terminal=terminal)
        room.patch.setattr(sys, "stderr", stream)
        main(searched(room, "--progress=true", "--format=csv", *options))
        assert ("extract:" in stream.text()) == (terminal and not options)
        assert ("3 pictures searched" in stream.text()) == (not options)
    assert room.output.readouterr().out.count("query,rank") == 3


@fault(TERMINALS, "a temporary folder with a long path", treated="sockets of processes lie elsewhere")
def long_temporary_folder(room: Room) -> None:
    from aindex.data.loading import _keep_sockets_short

    folder = room.tmp / ("x" * 120)
    folder.mkdir()
    room.patch.setattr(tempfile, "tempdir", str(folder))
    room.patch.setattr(current_process(), "_config", {})
    _keep_sockets_short()
    place = Path(current_process()._config["tempdir"])  # type: ignore[attr-defined]
    assert place.is_dir()
    assert len(os.fsencode(place)) < 40
