"""The finished part of an extraction that is under way: files of consecutive pictures, each whole."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from aindex.data.atomic import replace_when_done
from aindex.data.images import one_line
from aindex.descriptors.extraction import DescribedBatch
from aindex.errors import DescriptorError

_NAME = re.compile(r"(\d{12})-(\d{12})\.safetensors")


def write_shard(folder: Path, start: int, stop: int, batches: list[DescribedBatch]) -> None:
    """Write the results of the pictures ``start`` … ``stop`` − 1.

    Raises:
        OutputError: the folder cannot be written.
    """
    arrays = {
        "positions": np.array([row for batch in batches for row in batch.readable], dtype=np.int64),
        "descriptors": np.concatenate([batch.descriptors for batch in batches]),
    }
    unreadable = [entry for batch in batches for entry in batch.unreadable]
    with replace_when_done(folder / f"{start:012d}-{stop:012d}.safetensors") as temporary:
        # save_file reports a full disk as its own error; bytes written here report it as an OSError.
        temporary.write_bytes(save(arrays, metadata={"unreadable": json.dumps(unreadable)}))


def finished_until(folder: Path) -> int:
    """How many pictures, from the first one on, the shards cover without a gap."""
    spans = dict(sorted(span for path in folder.glob("*") if (span := _span(path)) is not None))
    position = 0
    while position in spans:
        position = spans[position]
    return position


def read_shards(folder: Path) -> Iterator[DescribedBatch]:
    """The results of all batches of a shard, in the order of their pictures.

    Raises:
        DescriptorError: a shard is damaged.
    """
    for path in sorted(path for path in folder.glob("*") if _span(path) is not None):
        try:
            with safe_open(path, framework="np") as file:
                unreadable = json.loads(file.metadata()["unreadable"])
                readable, descriptors = file.get_tensor("positions").tolist(), file.get_tensor("descriptors")
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise DescriptorError(
                f"{str(path)!r} is damaged ({one_line(error)}): remove it and run again"
            ) from error
        yield DescribedBatch(readable, descriptors, [(int(row), str(reason)) for row, reason in unreadable])


def _span(path: Path) -> tuple[int, int] | None:
    match = _NAME.fullmatch(path.name)
    return (int(match[1]), int(match[2])) if match else None
