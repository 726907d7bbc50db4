"""What a process that is forked must not inherit."""

import os
from typing import Any


def forget_in_children(kept: Any) -> None:
    """Empty a function's cache in processes that are forked: threads that it holds do not exist there.

    Args:
        kept: made by `functools.lru_cache`.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=kept.cache_clear)
