"""Paths as people write them."""

import os
from pathlib import Path


def user_path(path: Path | str) -> Path:
    """A path whose `~` or `~user` at the beginning is a home folder; of a name that only begins so nothing changes."""
    return Path(os.path.expanduser(path))
