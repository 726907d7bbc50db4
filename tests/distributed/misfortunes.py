"""What befalls a rank in the tests; run inside its process before the command."""

import os
import signal
import sys
import threading
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


def told_to_end_between_signals_and_batches(*, rank: int) -> None:
    """A rank gets SIGTERM in the first call to the others that Lightning makes after it has set its handlers."""
    from pytorch_lightning.strategies import DDPStrategy

    if _own_rank() == rank:
        _on_call(DDPStrategy, "reduce", 0, lambda: os.kill(os.getpid(), signal.SIGTERM))


def killed_while_others_wait(*, rank: int) -> None:
    """A rank is killed at its first batch; the others reach the next collective call."""
    if _own_rank() == rank:
        _on_call(_module(), "training_step", 0, lambda: os.kill(os.getpid(), signal.SIGKILL))


def killed_in_setup(*, rank: int) -> None:
    """A rank is killed while it loads the extractor; the others wait for it, or build the index."""
    if _own_rank() == rank:
        _on_call(
            sys.modules[_module().__module__],
            "load_extractor",
            0,
            lambda: os.kill(os.getpid(), signal.SIGKILL),
        )


def killed_before_the_ranks_meet(*, rank: int, others_wait_s: float) -> None:
    """A rank is killed at its start."""
    os.environ["AINDEX_MEETING_S"] = str(others_wait_s)
    if _own_rank() == rank:
        os.kill(os.getpid(), signal.SIGKILL)


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


_FILE_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")


def on_file_event(folder: str, happens: Callable[[int], None]) -> None:
    """Call with the number of each operation that changes files below a folder, before it takes place."""
    count = [0]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event not in _FILE_EVENTS or not isinstance(args[0], str | os.PathLike):
            return
        if event == "open" and not (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        if os.fspath(args[0]).startswith(folder):
            count[0] += 1
            happens(count[0])

    sys.addaudithook(hook)


def counting_file_events(*, folder: str, into: str) -> None:
    """Note in a file, one per rank, how many operations there were."""
    note = f"{into}{_own_rank()}"

    def write(number: int) -> None:
        with open(note, "w") as file:
            file.write(str(number))

    on_file_event(folder, write)


def killed_at_file_event(*, folder: str, rank: int, event: int, delay_s: float, number: int) -> None:
    """A rank is killed before an operation on files, or some milliseconds after."""

    def kill() -> None:
        time.sleep(delay_s)
        os.kill(os.getpid(), number)

    def maybe(count: int) -> None:
        if count == event:
            kill() if delay_s == 0 else threading.Thread(target=kill, daemon=True).start()

    if _own_rank() == rank:
        on_file_event(folder, maybe)


def writing_shards_at_once() -> None:
    """`extract` keeps every batch, instead of what half a minute brings."""
    from aindex.descriptors.stored import extract_to_folder

    assert extract_to_folder.__kwdefaults__ is not None
    extract_to_folder.__kwdefaults__["flush_seconds"] = 0.0


def both(first: Callable[[], None], second: Callable[[], None]) -> None:
    """Two of these."""
    first()
    second()


def small_blocks() -> None:
    """Rows are dealt to shards by fours, so that few rows make several shards."""
    from aindex.index import rows, sharded

    rows.BLOCK_ROWS = 4
    sharded.BLOCK_ROWS = 4
