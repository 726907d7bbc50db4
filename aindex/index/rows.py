"""Rows on their way into an index: form, names, neighbours asked for, blocks."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from aindex.descriptors.files import check_descriptors
from aindex.errors import DescriptorError, FaissIndexError
from aindex.index.backend import Rows

# Rows are encoded in blocks that begin at multiples of this, whoever adds them, because the rounding of FAISS's matrix
# products depends on the shape: a shard then stores the very codes of the whole index.
BLOCK_ROWS = 4096

MOST_ROWS = 255
"""Rows that one picture may have: their number is kept in a byte."""

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


def check_names(names: Sequence[str], rows: int, counts: Sequence[int] | None = None) -> None:
    """Raise a DescriptorError unless there is one string per picture, and the rows are as many as theirs."""
    if counts is None and len(names) != rows:
        raise DescriptorError(f"{len(names)} names for {rows} descriptors: expected one name per row")
    wrong = next((name for name in names if not isinstance(name, str)), None)
    if wrong is not None:
        raise DescriptorError(f"a row's name is {wrong!r:.60}: expected text")
    if counts is not None:
        check_counts(counts, len(names))
        if sum(counts) != rows:
            raise DescriptorError(
                f"{rows} descriptors for {sum(counts)} rows of {len(names)} pictures: expected one for each row"
            )


def check_counts(counts: Sequence[int], pictures: int) -> None:
    """Raise a DescriptorError unless there is a possible number of rows for each picture."""
    if len(counts) != pictures:
        raise DescriptorError(f"{len(counts)} numbers of rows for {pictures} pictures: expected one for each")
    wrong = next((count for count in counts if not 1 <= count <= MOST_ROWS), None)
    if wrong is not None:
        raise DescriptorError(f"{wrong} rows of a picture: expected 1 to {MOST_ROWS}")


def check_k(k: int, ntotal: int) -> None:
    """Raise a FaissIndexError unless an index of ``ntotal`` rows has ``k`` neighbours."""
    if not ntotal:
        raise FaissIndexError("the index holds no rows, so nothing is found in it: add rows")
    if not 1 <= k <= ntotal:
        raise FaissIndexError(
            f"k {k} (kneighbors) on an index of {ntotal} rows: expected 1 to {ntotal}; ask for fewer, or add rows"
        )


def own_blocks(first: int, count: int, rank: int = 0, ranks: int = 1) -> Iterator[tuple[int, int]]:
    """Which of ``count`` new rows, the first of which gets the id ``first``, are a rank's; by default all.

    Returns:
        Ranges of positions among the new rows, in order, cut where ids are multiples of BLOCK_ROWS.
    """
    begin = 0
    while begin < count:
        block, place = divmod(first + begin, BLOCK_ROWS)
        end = min(count, begin + BLOCK_ROWS - place)
        if block % ranks == rank:
            yield begin, end
        begin = end


def own_rows_count(rows: int, rank: int, ranks: int) -> int:
    """How many of the first rows are a rank's."""
    return sum(end - begin for begin, end in own_blocks(0, rows, rank, ranks))
