"""Paths as people write them."""

import errno
import os
from pathlib import Path

from aindex.errors import ConfigError


def user_path(path: Path | str) -> Path:
    """A path whose `~` or `~user` at the beginning is a home folder; of a name that only begins so nothing changes."""
    return Path(os.path.expanduser(path))


def possible_path(path: Path | str) -> Path:
    """As `user_path`, of something that could lie on a disk.

    Raises:
        ConfigError: the name is longer than names can be, or holds what they cannot.
    """
    found = user_path(path)
    try:
        os.lstat(found)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENAMETOOLONG, errno.EILSEQ):
            return found
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(
            f"{str(path)[:60]!r}{'…' if len(str(path)) > 60 else ''} cannot be a path ({reason}): give another name"
        ) from error
    return found
