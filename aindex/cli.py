"""The command line: which commands there are, and how errors reach people."""

import difflib
import errno
import os
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple, NoReturn

import aindex
from aindex.errors import AindexError
from aindex.memory import keep_freed_memory
from aindex.terminal import command_line, notes_are_shown
from aindex.waiting import wait_asleep_soon


class Command(NamedTuple):
    """A command: one line for people, and what runs it: a module in `aindex.commands` and a function."""

    summary: str
    place: str

    def run(self, args: list[str]) -> None:
        """Run it with the rest of the command line; its module is imported now: torch and Lightning take seconds."""
        resolve_name(f"aindex.commands.{self.place}")(args)


COMMANDS = {
    "fit": Command(
        "activate images against an index, write the released images, evaluate them", "pipeline:fit"
    ),
    "evaluate": Command("evaluate released images, or plain ones, without activating", "pipeline:evaluate"),
    "prepare": Command("lay out a data set in the form of DISC21", "prepare:main"),
    "extract": Command("describe images, into fts.pth and filenames.txt", "extract:main"),
    "train": Command("train an extractor on a folder of images", "train:main"),
    "index": Command("build, add to and look into index folders", "index:main"),
    "augment": Command("write edited copies of images, and what was done to each", "augment:main"),
    "compare": Command("set finished runs side by side", "compare:main"),
    "activate": Command("release pictures of your own, activated against an index", "activate:main"),
    "search": Command("find the originals of pictures in an index", "search:main"),
    "calibrate": Command(
        "set an index's threshold from pictures that match nothing", "search:calibrate_main"
    ),
    "completion": Command(
        "print a script that completes commands and options in bash or zsh", "completion:main"
    ),
}

_USAGE = """usage: aindex COMMAND [options]

Active image indexing: release images whose edited copies an approximate index still finds.

{commands}

aindex COMMAND --help lists a command's options, their units and defaults.
With --quiet (-q) a command shows neither bars nor notes: results and errors alone.
Exit codes: 0 done, 1 error, 2 wrong option, 130 interrupted, 141 output closed (docs/usage.md).
First thing to try: aindex fit --config configs/demo.yaml"""

INTERRUPTED, CLOSED_PIPE = 130, 141

EXIT_CODES = {
    0: "done",
    1: "an error: one line on the error stream says what was found, what was expected and what to do",
    2: "the command line is not understood: a command, an option or the form of a value; nothing was begun",
    INTERRUPTED: "interrupted (Ctrl-C); the same command goes on",
    CLOSED_PIPE: "whoever read the output has closed it",
}

_WAYS_OUT = {
    (errno.ENOSPC, errno.EDQUOT): "make room",
    (errno.EACCES, errno.EPERM, errno.EROFS): "give back the permission",
}


def main(args: list[str] | None = None) -> None:
    """Run a command.

    Args:
        args: the command line after the program's name; None takes the process's own.

    Raises:
        SystemExit: with one of the codes of `EXIT_CODES`, if it is not 0.
    """
    arguments = sys.argv[1:] if args is None else list(args)
    quiet = any(argument in ("-q", "--quiet") for argument in arguments)
    with command_line(quiet=quiet), _told_in_one_line():
        _run([argument for argument in arguments if argument not in ("-q", "--quiet")])
        sys.stdout.flush()  # a full disk or a closed pipe is met here, not after the last line


def _run(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return
    if arguments[0] in ("-V", "--version"):
        print(f"aindex {aindex.__version__}")
        return
    command = COMMANDS.get(arguments[0])
    if command is None:
        meant = did_you_mean(arguments[0], COMMANDS)
        fail(f"no command {arguments[0]!r}{meant}: expected one of {', '.join(COMMANDS)}", code=2)
    keep_freed_memory()
    wait_asleep_soon()
    with warnings.catch_warnings(), _quiet_threads():
        warnings.showwarning = _show_warning
        command.run(arguments[1:])


@contextmanager
def _told_in_one_line() -> Iterator[None]:
    """End the process as `EXIT_CODES` says, with one line on the error stream where there is something to say."""
    try:
        yield
    except AindexError as error:
        if error.is_told_elsewhere:
            raise SystemExit(1) from error
        fail(str(error))
    except BrokenPipeError as error:
        _stop_writing()
        raise SystemExit(CLOSED_PIPE) from error
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as stopped:
        # Lightning turns Ctrl-C into this
        if isinstance(stopped.__context__, KeyboardInterrupt):
            _interrupted()
        raise
    except OSError as error:
        # what reaches this place is not the fault of one file among many: a full disk, a lost permission
        where = f" ({str(error.filename)!r})" if error.filename else ""
        _stop_writing()
        way_out = next((f"{text}, then " for codes, text in _WAYS_OUT.items() if error.errno in codes), "")
        fail(
            f"{error.strerror or error}{where}: {way_out}run the same command again, it goes on where it was"
        )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean …?)`, or nothing where nothing known is near."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _interrupted() -> NoReturn:
    fail("interrupted: what is finished stays, the same command goes on", code=INTERRUPTED)


def _stop_writing() -> None:
    """Let the interpreter end without an attempt to write the rest where that is not possible."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _quiet_threads() -> Iterator[None]:
    """Let a thread that cannot write end without a traceback: its user meets the same error, and reports it."""
    usual = threading.excepthook

    def report(args: threading.ExceptHookArgs) -> None:
        if not issubclass(args.exc_type, OSError):
            usual(args)

    threading.excepthook = report
    try:
        yield
    finally:
        threading.excepthook = usual


def usage() -> str:
    """The commands, a line each."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {command.summary}" for name, command in COMMANDS.items()]
    return _USAGE.format(commands="\n".join(lines))


def fail(message: str, code: int = 1) -> NoReturn:
    """End the process with one line on the error stream."""
    print(f"aindex: error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


def _show_warning(message: Warning | str, category: type[Warning], filename: str, *_: Any, **__: Any) -> None:
    """Our own warnings as one line; those of the libraries below are of no use to people who run commands."""
    if notes_are_shown() and Path(filename).is_relative_to(Path(aindex.__file__).parent):
        print(f"aindex: warning: {' '.join(str(message).split())}", file=sys.stderr)
