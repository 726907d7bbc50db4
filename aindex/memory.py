"""How this process treats memory that it has freed."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Let the C library keep freed memory instead of handing it back to the system after every batch.

    Activation and extraction on a CPU allocate the same large tensors over and over; by default glibc returns
    them, and the system clears every page anew: a sixth of the time of a small extractor. Programs call this
    once at their start; the memory is still bounded by what was once in use. Other C libraries are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_M_TRIM_THRESHOLD, _NEVER)
        library.mallopt(_M_MMAP_MAX, 0)
