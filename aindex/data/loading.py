"""Processes that decode and edit pictures."""

import multiprocessing
from multiprocessing.context import BaseContext

_PRELOADED = ["aindex.data.edited", "aindex.descriptors.extract", "augly.image.functional"]


def loader_processes(num_workers: int) -> BaseContext | None:
    """How a DataLoader starts its workers: from a small server process that has imported what they need.

    A plain fork would copy this process with the locks and state of its threads (FAISS, OpenMP, writers, TensorBoard)
    but without the threads, which now and then ends a worker with a segmentation fault or a hang; a spawn would import
    torch anew in every worker. None where there are no workers, or where the system has no such server.
    """
    if num_workers == 0 or "forkserver" not in multiprocessing.get_all_start_methods():
        return None
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context
