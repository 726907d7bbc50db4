"""Loaded by the server that worker processes are copied from, and by nothing else: it changes how they end."""

import sys
from types import TracebackType

_GONE = (FileNotFoundError, EOFError, BrokenPipeError, ConnectionResetError)
"""What a worker meets in its first moment where the process that asked for it has ended meanwhile."""


def _end(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    if not isinstance(error, _GONE):
        sys.__excepthook__(kind, error, where)


sys.excepthook = _end
