"""What goes to a terminal: bars only where one is, notes on the error stream, and text that any encoding can hold."""

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper

_PLAIN = {
    "→": "->", "–": "-", "—": "-", "…": "...", "·": "-", "×": "x", "≥": ">=", "≤": "<=", "µ": "u", "Δ": "d", "δ": "d",
    "‘": "'", "’": "'", "“": '"', "”": '"',
}  # fmt: skip
"""What a terminal that lacks a sign shows in its place; other signs are shown as escapes, which lose nothing."""
_HANDLER = "aindex-plain"

_shown = {"bars": True, "notes": True}


def bars_are_off(wanted: bool) -> bool:
    """Whether a bar is not to be drawn: nobody wants it, or the command line has no terminal to draw it on."""
    return not wanted or not _shown["bars"]


def notes_are_shown() -> bool:
    """Whether people want more than results and errors."""
    return _shown["notes"]


def note(text: str) -> None:
    """Tell people what is no result: a line on the error stream, unless the command line is quiet."""
    if _shown["notes"]:
        print(text, file=sys.stderr)


@contextmanager
def command_line(*, quiet: bool) -> Iterator[None]:
    """While a command runs: bars only on a terminal, neither bars nor notes where it is quiet, any encoding."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started the program
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    before = dict(_shown)
    _shown.update(bars=not quiet and sys.stderr.isatty(), notes=not quiet)
    try:
        with _written_by_any_means(sys.stdout), _written_by_any_means(sys.stderr):
            yield
    finally:
        _shown.update(before)


@contextmanager
def _written_by_any_means(stream: object) -> Iterator[None]:
    """Let a stream write signs that its encoding has not in other signs, instead of ending in an error."""
    if not isinstance(stream, TextIOWrapper):
        yield
        return
    usual = stream.errors
    codecs.register_error(_HANDLER, _plain)
    stream.reconfigure(errors=_HANDLER)
    try:
        yield
    finally:
        # a stream that cannot be written has been told of already
        with suppress(OSError, ValueError):
            stream.reconfigure(errors=usual)


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    shown = [_PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in text]
    return "".join(shown), error.end
