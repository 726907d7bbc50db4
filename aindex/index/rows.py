"""Rows on their way into an index: form, names, neighbours asked for, blocks."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from aindex.descriptors.files import check_descriptors
from aindex.errors import DescriptorError, FaissIndexError
from aindex.index.backend import FaissIndex, Rows, import_faiss

# Rows are encoded in blocks that begin at multiples of this, whoever adds them, because the rounding of FAISS's matrix
# products depends on the shape: a shard then stores the very codes of the whole index.
BLOCK_ROWS = 4096

Descriptors = torch.Tensor | npt.NDArray[np.float32]


class Batch(NamedTuple):
    """Pictures on their way into an index.

    Attributes:
        descriptors: of their rows, m×d, possibly a file mapped into memory.
        names: of n pictures.
        counts: rows of each picture, which follow each other; None: each has one.
    """

    descriptors: Descriptors
    names: Sequence[str]
    counts: Sequence[int] | None = None


def as_rows(descriptors: Descriptors, dim: int, what: str = "the descriptors") -> Rows:
    """Descriptors n×d as FAISS takes them: float32, C-contiguous, on the CPU, without gradient; n may be 0.

    Raises:
        DescriptorError: no matrix of floats, another dimension, NaN or infinite values.
    """
    if isinstance(descriptors, torch.Tensor):
        descriptors = descriptors.detach().float().cpu().numpy()
    if descriptors.ndim == 2 and len(descriptors) == 0:
        if descriptors.shape[1] != dim:
            raise DescriptorError(
                f"{what} have dimension {descriptors.shape[1]}: expected {dim}, as the index has"
            )
        return np.empty((0, dim), np.float32)
    return check_descriptors(descriptors, where=what, dim=dim)


def check_names(names: Sequence[str], rows: int) -> None:
    """Raise a DescriptorError unless there is one string per row."""
    if len(names) != rows:
        raise DescriptorError(f"{len(names)} names for {rows} descriptors: expected one name per row")
    wrong = next((name for name in names if not isinstance(name, str)), None)
    if wrong is not None:
        raise DescriptorError(f"a row's name is {wrong!r:.60}: expected text")


def check_k(k: int, ntotal: int) -> None:
    """Raise a FaissIndexError unless an index of ``ntotal`` rows has ``k`` neighbours."""
    if not 1 <= k <= ntotal:
        raise FaissIndexError(
            f"k {k} (kneighbors) on an index of {ntotal} rows: expected 1 to {ntotal}; ask for fewer, or add rows"
        )


def aligned_blocks(first: int, count: int, index: FaissIndex) -> Iterator[tuple[int, int]]:
    """Ranges that cut ``count`` new rows, the first of which gets the id ``first``, at multiples of BLOCK_ROWS."""
    if isinstance(import_faiss().downcast_index(index), import_faiss().IndexNSG):
        # This graph is built once, from everything.
        yield 0, count
        return
    begin = 0
    while begin < count:
        end = min(count, begin + BLOCK_ROWS - (first + begin) % BLOCK_ROWS)
        yield begin, end
        begin = end
