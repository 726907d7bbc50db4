"""The command line: which commands there are, and how errors reach people."""

import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, NoReturn, TextIO

import aindex
from aindex.errors import AindexError
from aindex.memory import keep_freed_memory
from aindex.waiting import wait_asleep_soon


class Command(NamedTuple):
    """A command: one line for people, and the function that runs it with the rest of the arguments."""

    summary: str
    module: str
    function: str


# The modules are imported when a command is chosen: torch and Lightning take seconds.
COMMANDS = {
    "fit": Command(
        "activate images against an index, write the released images, evaluate them",
        "aindex.commands.pipeline",
        "fit",
    ),
    "evaluate": Command(
        "evaluate released images, or plain ones, without activating", "aindex.commands.pipeline", "evaluate"
    ),
    "prepare": Command("lay out a data set in the form of DISC21", "aindex.commands.prepare", "main"),
    "extract": Command("describe images, into fts.pth and filenames.txt", "aindex.commands.extract", "main"),
    "train": Command("train an extractor on a folder of images", "aindex.commands.train", "train_main"),
    "index": Command("build, add to and look into index folders", "aindex.commands.index", "main"),
    "augment": Command(
        "write edited copies of images, and what was done to each", "aindex.commands.augment", "main"
    ),
    "compare": Command("set finished runs side by side", "aindex.commands.compare", "main"),
    "activate": Command(
        "release pictures of your own, activated against an index", "aindex.commands.activate", "main"
    ),
    "search": Command("find the originals of pictures in an index", "aindex.commands.search", "main"),
    "calibrate": Command(
        "set an index's threshold from pictures that match nothing",
        "aindex.commands.search",
        "calibrate_main",
    ),
}


def main(args: list[str] | None = None) -> None:
    """Run a command.

    Args:
        args: the command line after the program's name; None takes the process's own.

    Raises:
        SystemExit: 1 after an error of `aindex.errors` (one line on the error stream), 2 after a wrong option.
    """
    arguments = sys.argv[1:] if args is None else list(args)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return
    if arguments[0] == "--version":
        print(f"aindex {aindex.__version__}")
        return
    command = COMMANDS.get(arguments[0])
    if command is None:
        _fail(f"no command {arguments[0]!r}: expected one of {', '.join(COMMANDS)}", code=2)
    keep_freed_memory()
    wait_asleep_soon()
    run: Callable[[list[str]], None] = getattr(import_module(command.module), command.function)
    with warnings.catch_warnings(), _quiet_threads():
        warnings.showwarning = _show_warning
        try:
            run(arguments[1:])
        except AindexError as error:
            if error.is_told_elsewhere:
                raise SystemExit(1) from error
            _fail(str(error))
        except OSError as error:
            # what reaches this place is not the fault of one file among many: a full disk, a lost permission
            where = f" ({str(error.filename)!r})" if error.filename else ""
            _fail(
                f"{error.strerror or error}{where}: make room or give back the permission, then run the same command "
                "again: it goes on where it was"
            )


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
    return "\n".join(
        [
            "usage: aindex COMMAND [options]",
            "",
            "Active image indexing: release images whose edited copies an approximate index still finds.",
            "",
            *lines,
            "",
            "aindex COMMAND --help lists a command's options, their units and defaults.",
            "First thing to try: aindex fit --config configs/demo.yaml",
        ]
    )


def _fail(message: str, code: int = 1) -> NoReturn:
    print(f"aindex: error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Our own warnings as one line; those of the libraries below are of no use to people who run commands."""
    if Path(filename).is_relative_to(Path(aindex.__file__).parent):
        print(f"aindex: warning: {' '.join(str(message).split())}", file=sys.stderr)
