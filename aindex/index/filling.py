"""From a trained index, references and originals to an index folder: the whole, or one rank's share of the rows."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, overload

import numpy as np

from aindex.index.backend import Ids, Rows
from aindex.index.on_disk import build_on_disk
from aindex.index.originals import are_near, last_rows, name_taken_error
from aindex.index.owners import row_names
from aindex.index.reference_index import ReferenceIndex
from aindex.index.rows import Batch, own_blocks, own_rows_count
from aindex.index.sharded import AnyIndex, ShardedIndex, check_can_be_split

Placement = Literal["replicated", "sharded"]

_CHECKED_TOGETHER = 4096


class NumberedNames(Sequence[str]):
    """Names for rows that have none: ``reference 0``, ``reference 1``, …, made when asked for, not kept in memory."""

    def __init__(self, count: int) -> None:
        self._numbers = range(count)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [f"reference {number}" for number in self._numbers[index]]
        return f"reference {self._numbers[index]}"


class Filling(NamedTuple):
    """All rows that an index will have: those of the references, then of the originals that are not among them.

    Attributes:
        references: n×d, possibly a file mapped into memory.
        reference_names: n.
        originals: m×d.
        names: m different names.
        rows: per original r×d, the rows it gets if it is not among the references; None: its descriptor.
    """

    references: Rows
    reference_names: Sequence[str]
    originals: Rows
    names: Sequence[str]
    rows: Sequence[Rows] | None = None

    @property
    def ids(self) -> Ids:
        """The row of each original: that of the last reference of its name, or a new one."""
        ids = last_rows(self.reference_names, self.names)
        missing = ids < 0
        ids[missing] = len(self.references) + np.arange(missing.sum())
        return ids

    def batches(self, ids: Ids) -> list[Batch]:
        """All rows, in their order."""
        new = np.flatnonzero(ids >= len(self.references)).tolist()
        names = [self.names[position] for position in new]
        if self.rows is None or not new:
            originals = Batch(self.originals[new], names)
        else:
            rows = [self.rows[position] for position in new]
            originals = Batch(np.concatenate(rows), names, [len(some) for some in rows])
        return [Batch(self.references, self.reference_names), originals]

    def check(self, index: AnyIndex, ids: Ids) -> None:
        """See that originals which share a reference's name are that reference; collective for shards.

        Raises:
            DataError: one is another picture.
        """
        present = np.flatnonzero(ids < len(self.references))
        far: list[int] = []
        if isinstance(index, ShardedIndex):
            # all ranks search all queries together, so each asks about some, a few at a time
            for start in range(0, len(present), _CHECKED_TOGETHER):
                some = present[start : start + _CHECKED_TOGETHER][index.rank :: index.ranks]
                far += some[~are_near(index, self.originals[some], ids[some])].tolist()
            far = sorted(position for part in index.gather(far) for position in part)
        else:
            far = present[~are_near(index, self.originals[present], ids[present])].tolist()
        if far:
            raise name_taken_error(self.names[far[0]])


def fill(
    trained: ReferenceIndex,
    batches: Sequence[Batch],
    folder: Path,
    *,
    rank: int | None = None,
    ranks: int = 1,
    on_disk: bool = False,
) -> None:
    """Write an index folder with all rows or a rank's share of them; it appears whole or not at all.

    Args:
        trained: an empty, trained index; gets the rows unless they stay on the disk.
        batches: all pictures, the same on every rank.
        folder: where to; another index that is there is replaced.
        rank: whose share; None for the whole index.
        ranks: number of shares.
        on_disk: keep the inverted lists out of memory.

    Raises:
        FaissIndexError: the factory cannot be split, or has no lists that could stay on the disk.
        DescriptorError: wrong dimension, NaN, or another number of names.
        OutputError: the folder cannot be written.
    """
    if rank is not None:
        check_can_be_split(trained)  # before hours are spent on it
    share = batches if rank is None else share_of(batches, rank, ranks)
    rows = sum(len(batch.descriptors) for batch in batches)
    if on_disk and own_rows_count(rows, rank or 0, ranks):
        build_on_disk(trained, share, folder, overwrite=True)
        return
    for batch in share:
        trained.add(*batch)
    trained.save(folder, overwrite=True)


def share_of(batches: Sequence[Batch], rank: int, ranks: int) -> Iterator[Batch]:
    """A rank's rows, each under a name of its own: `ShardedIndex` is told which rows are one picture's."""
    first = 0
    for batch in batches:
        names = row_names(batch.names, batch.counts)
        for begin, end in own_blocks(first, len(batch.descriptors), rank, ranks):
            yield Batch(batch.descriptors[begin:end], names[begin:end])
        first += len(batch.descriptors)
