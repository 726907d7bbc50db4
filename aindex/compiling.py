"""Arithmetic on arrays, compiled on the machine it runs on, which needs no compiler for that."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def compiled(function: Kernel) -> Kernel:
    """Compile at the first call, and keep the machine code beside this file or in the user's cache folder."""
    kernel: Any
    try:
        kernel = _jit(function, cache=True)
    except RuntimeError:  # no folder that can be written
        kernel = _jit(function, cache=False)
    return cast(Kernel, kernel)


def _jit(function: Callable[..., Any], *, cache: bool) -> Callable[..., Any]:
    return numba.njit(cache=cache, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})(
        function
    )
