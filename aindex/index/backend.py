"""The one door to FAISS: its import, its error messages, its threads and its kernels."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from aindex.errors import FaissIndexError

# FAISS ships no type information.
FaissIndex = Any
Rows = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

_NEVER_BLAS = 2**31 - 1
_kernel_lock = threading.Lock()
_kernel_state = {"users": 0, "threshold": 0}


def import_faiss() -> Any:
    """The module ``faiss``; a FaissIndexError where it is not installed."""
    return import_extra("faiss", "'aindex[cpu]', or 'aindex[gpu]' for NVIDIA GPUs")


def import_extra(name: str, extra: str) -> Any:
    """A module that comes with an extra of aindex; a FaissIndexError where it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise FaissIndexError(
            f"{name} cannot be imported ({error}): install it with pip install {extra}"
        ) from error


def faiss_reason(error: BaseException) -> str:
    """What a FAISS exception says, in one line, without its source positions."""
    text = " ".join(str(error).split())
    text = re.sub(r"^Error in .*?\.(?:cpp|h|cu):\d+: ", "", text)
    text = re.sub(r"^Error: '.*?' failed:? ?", "", text) or text
    return text[:200].rstrip(" .") or type(error).__name__


@contextmanager
def faiss_errors(what: str, remedy: str) -> Iterator[None]:
    """Turn what FAISS throws into one line: ``what``, FAISS's reason, ``remedy``."""
    try:
        yield
    except FaissIndexError:
        raise
    except MemoryError as error:
        raise FaissIndexError(f"{what}: not enough memory; {remedy}") from error
    # SWIG raises these for C++ exceptions, and for arguments that it cannot convert.
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise FaissIndexError(f"{what}: FAISS says {faiss_reason(error)!r}; {remedy}") from error


@contextmanager
def one_thread() -> Iterator[None]:
    """FAISS on one thread, for the calling Python thread alone (the setting is OpenMP's, per thread)."""
    faiss = import_faiss()
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


@contextmanager
def repeatable_kernels() -> Iterator[None]:
    """Distances that depend on the two vectors alone, not on how many others are compared with them.

    FAISS takes a matrix product where there are many pairs, and its rounding depends on the shape. The switch
    is a variable of the whole process, so it is set back when the last user leaves.
    """
    faiss = import_faiss()
    with _kernel_lock:
        if _kernel_state["users"] == 0:
            _kernel_state["threshold"] = faiss.cvar.distance_compute_blas_threshold
            faiss.cvar.distance_compute_blas_threshold = _NEVER_BLAS
        _kernel_state["users"] += 1
    try:
        yield
    finally:
        with _kernel_lock:
            _kernel_state["users"] -= 1
            if _kernel_state["users"] == 0:
                faiss.cvar.distance_compute_blas_threshold = _kernel_state["threshold"]
