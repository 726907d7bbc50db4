"""Arithmetic on arrays, compiled on the machine it runs on, which needs no compiler for that.

Numba keeps machine code by the file of the function that it compiled: after a change of anything else that a kernel
uses (these options, a tuple's fields in another file), touch that file, too.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

import numba

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

# sums may be reassociated, which vectors need; NaN and infinity stay what they are
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "nsz"},
}
_WITHOUT_DOORS: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def compiled(function: Kernel) -> Kernel:
    """Compile at the first call, and keep the machine code beside this file or in the user's cache folder."""
    try:
        kernel: Any = numba.njit(cache=True, **_OPTIONS)(function)
    except (RuntimeError, OSError):  # no folder that can be written
        return cast(Kernel, numba.njit(**_OPTIONS)(function))
    _forgive_full_disks(kernel)
    return cast(Kernel, kernel)


def part(function: Kernel) -> Kernel:
    """Compile as a part of the kernels that call it; not to be called from Python."""
    return cast(Kernel, numba.njit(**_OPTIONS, **_WITHOUT_DOORS)(function))


def _forgive_full_disks(kernel: Any) -> None:
    """Machine code that cannot be kept is compiled again by the next process."""
    cache = kernel._cache
    save = cache.save_overload

    def save_if_possible(*arguments: Any) -> None:
        with suppress(OSError):
            save(*arguments)

    cache.save_overload = save_if_possible
