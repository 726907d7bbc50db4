"""The one door to FAISS: its import, its error messages, its threads and its kernels."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
    """The module ``faiss``.

    Raises:
        FaissIndexError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise FaissIndexError(
            f"faiss cannot be imported ({error}): install it with pip install 'aindex[cpu]', or 'aindex[gpu]' for "
            "NVIDIA GPUs"
        ) from error
    return faiss


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


def index_to_bytes(index: FaissIndex) -> npt.NDArray[np.uint8]:
    """An index as bytes, to be sent to other processes."""
    with faiss_errors("the index cannot be copied", "report the factory string"):
        data: npt.NDArray[np.uint8] = import_faiss().serialize_index(index)
    return data


def index_from_bytes(data: npt.NDArray[np.uint8]) -> FaissIndex:
    """The index that :func:`index_to_bytes` packed; never for bytes of unknown origin."""
    with faiss_errors("the bytes are no FAISS index", "send what index_to_bytes returned"):
        return import_faiss().deserialize_index(data)
