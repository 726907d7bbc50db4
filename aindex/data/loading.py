"""Processes that edit pictures: started from a server, ended with their parent, and sending bytes."""

import io
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker, util
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from aindex.errors import AindexError, ConfigError

_PRELOADED = [
    "aindex.data.server",
    "aindex.evaluation.edited",
    "aindex.descriptors.training_data",
    "augly.image.functional",
]
_LONGEST_TEMPORARY = 70
"""Bytes of the temporary folder's path that leave room for the names of sockets, whose paths may have 107 or so."""


@dataclass(frozen=True)
class Failure:
    """An error of a loader process: raised where people see one line, not another process's traceback."""

    error: AindexError


def succeeded(batch: list[Any]) -> list[Any]:
    """The items of a batch; raises what went wrong in the process that made one of them."""
    for item in batch:
        if isinstance(item, Failure):
            raise item.error
    return batch


class ProcessLoader(DataLoader[Any]):
    """A DataLoader for work that threads cannot share, because it is Python's own.

    Its batches come through pipes, as bytes: torch would lay tensors into shared memory, of which containers have
    64 MB, and wait for ever where there is no room. Its processes end when this one does, however it ends.

    Args:
        dataset: must pickle.
        num_workers: processes; with 0 the work is done here.
        collate_fn: items of a batch → the batch.
        persistent_workers: keep the processes from one pass to the next.
        options: others of a DataLoader.

    Raises:
        ConfigError: processes would run the user's script again.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        num_workers: int,
        collate_fn: Callable[[Any], Any],
        persistent_workers: bool = False,
        **options: Any,
    ) -> None:
        options |= {"multiprocessing_context": _server(num_workers), "worker_init_fn": _end_with_the_parent}
        super().__init__(
            dataset,
            num_workers=num_workers,
            collate_fn=_Packed(collate_fn) if num_workers else collate_fn,
            persistent_workers=persistent_workers and num_workers > 0,
            **options,
        )

    def __iter__(self) -> Any:
        batches: Iterable[Any] = super().__iter__()
        return map(pickle.loads, batches) if self.num_workers else batches


def _server(num_workers: int) -> BaseContext | None:
    """How workers start: from a small server process that has imported what they need.

    A plain fork would copy this process with the locks and state of its threads (FAISS, OpenMP, writers, TensorBoard)
    but without the threads, which now and then ends a worker with a segmentation fault or a hang; a spawn would import
    torch anew in every worker. None where there are no workers, or where the system has no such server.
    """
    if num_workers == 0:
        return None
    _require_guard(num_workers)
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return None
    _keep_sockets_short()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    # Ctrl-C is this process's affair: the server and its workers end when it does, without words of their own
    resource_tracker.ensure_running()  # which would let the signal through again if it were started meanwhile
    usual = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, usual)
    return context


def _keep_sockets_short() -> None:
    """Put the sockets of processes elsewhere where the temporary folder's path is too long for any."""
    settings: dict[str, Any] = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    if len(os.fsencode(tempfile.gettempdir())) <= _LONGEST_TEMPORARY or settings.get("tempdir"):
        return
    for place in ("/tmp", "/var/tmp", "/dev/shm"):
        with suppress(OSError):
            settings["tempdir"] = tempfile.mkdtemp(prefix="pymp-", dir=place)
            util.Finalize(None, shutil.rmtree, args=(settings["tempdir"], True), exitpriority=-100)
            return
    raise ConfigError(
        f"temporary folder {tempfile.gettempdir()!r}: its path is too long for the sockets of processes; set TMPDIR to "
        f"one of {_LONGEST_TEMPORARY} bytes or fewer, or give num_workers 0"
    )


def _require_guard(num_workers: int) -> None:
    """Raise where a process that starts would run the user's script, which has no guard, from its first line."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    try:
        text = Path(script).read_text(encoding="utf-8", errors="replace") if script else None
    except OSError:
        return
    if text is not None and "__main__" not in text:
        raise ConfigError(
            f"num_workers {num_workers} in {str(script)!r}: its processes would run the script again; put what it does "
            'under `if __name__ == "__main__":`, or give num_workers 0'
        )


def _end_with_the_parent(worker: int) -> None:
    """Let this worker end when the process that it works for does; the server that started it may live on."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, name="parent-watch", daemon=True).start()


class _Packed:
    """Makes a batch and packs it."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self._collate = collate

    def __call__(self, items: Any) -> bytes:
        packed = io.BytesIO()
        _Pickler(packed, protocol=pickle.HIGHEST_PROTOCOL).dump(self._collate(items))
        return packed.getvalue()


class _Pickler(pickle.Pickler):
    """Writes tensors as plain arrays."""

    def reducer_override(self, value: Any) -> Any:
        return (_tensor, (value.numpy(),)) if isinstance(value, Tensor) else NotImplemented


def _tensor(array: npt.NDArray[Any]) -> Tensor:
    """Pinned where there is a GPU, which then need not wait for it."""
    tensor = torch.from_numpy(np.require(array, requirements="W"))
    return tensor.pin_memory() if torch.cuda.is_available() else tensor
