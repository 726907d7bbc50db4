"""What befalls a rank in the tests; run inside its process before the command."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from aindex.errors import DataError


def _own_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def _on_call(owner: type, name: str, number: int, happens: Callable[[], object]) -> None:
    """Let something happen when a method is called for the n-th time, counted from 0."""
    original, calls = getattr(owner, name), [0]

    def replacement(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == number + 1:
            happens()
        return original(*args, **kwargs)

    setattr(owner, name, replacement)


def _module() -> type:
    from aindex.activation.module import ActivationModule

    return ActivationModule


def killed_while_others_compute(*, rank: int, number: int = signal.SIGKILL) -> None:
    """A rank is killed at its second batch; the others are in one that takes very long."""
    if _own_rank() == rank:
        _on_call(_module(), "training_step", 1, lambda: os.kill(os.getpid(), number))
    else:
        _on_call(_module(), "training_step", 1, lambda: time.sleep(1000))


def killed_while_others_wait(*, rank: int) -> None:
    """A rank is killed at its first batch; the others reach the next collective call."""
    if _own_rank() == rank:
        _on_call(_module(), "training_step", 0, lambda: os.kill(os.getpid(), signal.SIGKILL))


def killed_in_setup(*, rank: int) -> None:
    """A rank is killed while it loads the extractor; the others wait for it, or build the index."""
    if _own_rank() == rank:
        _on_call(_module(), "load", 0, lambda: os.kill(os.getpid(), signal.SIGKILL))


def fails_alone(*, rank: int) -> None:
    """A rank meets an error of its own."""

    def fail() -> None:
        raise DataError("image 'x.png' cannot be read: it is gone; bring it back")

    if _own_rank() == rank:
        _on_call(_module(), "validation_step", 1, fail)


def has_a_bug(*, rank: int) -> None:
    """A rank ends with a traceback."""

    def fail() -> None:
        raise ZeroDivisionError("division by zero")

    if _own_rank() == rank:
        _on_call(_module(), "training_step", 0, fail)
