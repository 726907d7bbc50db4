"""FAISS on a GPU where there is one: searching with a copy, training the cells. The CPU index is the master."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from aindex.errors import FaissIndexError
from aindex.index.backend import FaissIndex, faiss_reason, import_faiss
from aindex.index.structure import IndexParts

Device = Literal["cpu", "gpu"]

# What FAISS's GPU kernels can select.
GPU_MAX_K = 2048
_log = logging.getLogger(__name__)


def gpu_count() -> int:
    """Number of GPUs that FAISS can use; 0 for an installation without GPU part."""
    faiss = import_faiss()
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


def check_gpu(number: int = 0) -> None:
    """Raise a FaissIndexError unless faiss-gpu and GPU ``number`` are there."""
    faiss = import_faiss()
    if not hasattr(faiss, "StandardGpuResources"):
        raise FaissIndexError(
            "index device 'gpu': the installed faiss has no GPU part; install aindex[gpu], or take device 'cpu'"
        )
    count = faiss.get_num_gpus()
    if number >= count:
        raise FaissIndexError(
            f"index device 'gpu', number {number}: FAISS sees {count} GPUs; take device 'cpu'"
        )


def copy_to_gpu(index: FaissIndex, number: int = 0) -> FaissIndex | None:
    """A copy that searches on GPU ``number``, or None, said in the log, if FAISS has no GPU form of this index.

    GPU indexes cannot decode and round a little differently, so the CPU index stays the one that is saved and
    that gives targets.

    Raises:
        FaissIndexError: there is no GPU.
    """
    check_gpu(number)
    faiss = import_faiss()
    resources = faiss.StandardGpuResources()
    try:
        # The copy shares the resources, which so outlive this function.
        return faiss.index_cpu_to_gpu(resources, number, index)
    except RuntimeError as error:
        _log.warning(
            "this factory does not run on FAISS's GPU side (%s): the search runs on the CPU",
            faiss_reason(error),
        )
        return None


def set_gpu_nprobe(copy: FaissIndex, nprobe: int) -> None:
    """Set nprobe in a copy that :func:`copy_to_gpu` made."""
    import_faiss().GpuParameterSpace().set_index_parameter(copy, "nprobe", nprobe)


@contextmanager
def coarse_training_on(device: Device, parts: IndexParts) -> Iterator[None]:
    """While open, k-means of the coarse cells assigns points on torch's current GPU if asked to.

    Raises:
        FaissIndexError: a GPU is asked for and there is none.
    """
    if device == "cpu":
        yield
        return
    number = torch.cuda.current_device() if torch.cuda.is_available() else 0
    check_gpu(number)
    if parts.ivf is None:
        _log.warning("an index without cells (%s) is trained on the CPU", parts.kind)
        yield
        return
    faiss = import_faiss()
    resources = faiss.StandardGpuResources()
    flat: Any = faiss.IndexFlat(parts.ivf.d, parts.ivf.metric_type)
    on_gpu = faiss.index_cpu_to_gpu(resources, number, flat)
    parts.ivf.clustering_index = on_gpu
    try:
        yield
    finally:
        parts.ivf.clustering_index = None
