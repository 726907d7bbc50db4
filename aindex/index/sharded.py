"""An index whose rows are spread over ranks: same neighbours as the whole index, ties included.

Blocks of rows are dealt to the ranks in turn, so that a row's place follows from its id, whatever is added when.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from aindex.errors import AindexError, FaissIndexError
from aindex.index.backend import Ids, Rows
from aindex.index.devices import Device
from aindex.index.neighbours import Found, by_distance_then_id
from aindex.index.owners import Owners, row_names
from aindex.index.reference_index import ReferenceIndex
from aindex.index.rows import (
    BLOCK_ROWS,
    Descriptors,
    as_rows,
    check_k,
    check_names,
    own_blocks,
    own_rows_count,
)
from aindex.index.structure import take_apart


class Gather(Protocol):
    """Every rank's value, in the order of ranks, on every rank."""

    def __call__(self, value: Any) -> list[Any]: ...  # noqa: D102


def ids_of_rows(positions: Ids, rank: int, ranks: int) -> Ids:
    """The ids of a rank's own rows, by their positions in its share; −1 stays −1."""
    block = positions // BLOCK_ROWS * ranks + rank
    return np.where(positions < 0, positions, block * BLOCK_ROWS + positions % BLOCK_ROWS)


def merge_neighbours(parts: Sequence[Found], k: int, *, larger_is_closer: bool) -> Found:
    """The k closest of several shards' neighbours, equally close ones by their id.

    If each part holds its shard's own k closest in that order (or all its rows), this is what the whole index finds.

    Args:
        parts: distances and global ids, nq×k_i each; absent neighbours have id −1.
        k: neighbours per query; the parts hold k or more together.
        larger_is_closer: whether these are similarities rather than distances.
    """
    distances = np.concatenate([part[0] for part in parts], axis=1)
    ids = np.concatenate([part[1] for part in parts], axis=1)
    return by_distance_then_id(distances, ids, k, larger_is_closer)


class ShardedIndex:
    """One rank's share of an index, and the searches over all shares; :meth:`add` and :meth:`search` are collective.

    Args:
        trained: a trained index, the same on every rank; empty, or with this rank's share of the rows.
        rank: this rank's number.
        ranks: number of ranks.
        gather: every rank's value on every rank; objects that pickle.
        owners: which picture each row of all shares together belongs to; in a share each row has a name of its own.

    Attributes:
        owners, rank, ranks, gather: the same.
        quantiser, idx_factory, metric, dim, larger_is_closer: as of :class:`ReferenceIndex`, the same on every rank.

    Raises:
        FaissIndexError: an index that cannot be split without changing what is found, or another number of rows.
    """

    def __init__(
        self, trained: ReferenceIndex, *, rank: int, ranks: int, gather: Gather, owners: Owners | None = None
    ) -> None:
        self.owners = owners or Owners()
        rows = self.owners.rows
        parts = take_apart(trained.faiss_index)
        if parts.chooses_by_k:
            raise FaissIndexError(
                f"a sharded {trained.idx_factory!r} would find other neighbours (graphs and re-ranking choose their "
                "candidates by what a shard holds): take the placement replicated, or another idx_factory"
            )
        expected = own_rows_count(rows, rank, ranks)
        if trained.ntotal != expected:
            raise FaissIndexError(
                f"{trained.ntotal} rows in an index to be sharded: expected "
                + (
                    f"{expected}, rank {rank}'s share of {rows}; build it again"
                    if expected
                    else "an empty one"
                )
            )
        self._local = trained
        self.rank, self.ranks, self.gather = rank, ranks, gather
        self.quantiser, self.dim = trained.quantiser, trained.dim
        self.idx_factory, self.metric = trained.idx_factory, trained.metric
        self.larger_is_closer = trained.larger_is_closer

    @property
    def ntotal(self) -> int:
        """Number of rows on all ranks."""
        return self.owners.rows

    @property
    def pictures(self) -> int:
        """Number of pictures on all ranks."""
        return self.owners.pictures

    @property
    def nprobe(self) -> int:
        """Coarse cells that a search visits."""
        return self._local.nprobe

    @nprobe.setter
    def nprobe(self, value: int) -> None:
        self._local.nprobe = value

    def use_device(self, device: Device, number: int = 0) -> None:
        """As :meth:`ReferenceIndex.use_device`, for this rank's share."""
        self._local.use_device(device, number)

    def add(self, descriptors: Descriptors, names: Sequence[str], counts: Sequence[int] | None = None) -> Ids:
        """Append pictures: every rank gives the same, or the same file mapped into memory, and keeps its own blocks.

        Returns:
            The n new pictures' ids.

        Raises:
            DescriptorError, FaissIndexError: as :meth:`ReferenceIndex.add`, on every rank.
        """
        first = self.pictures
        with self._together():
            check_names(names, len(descriptors), counts)
            self._add_own(descriptors, row_names(names, counts))
        self.owners = self.owners.extended(len(names), counts)
        return np.arange(first, self.pictures, dtype=np.int64)

    def search(self, descriptors: Descriptors, k: int, nprobe: int | None = None) -> Found:
        """The k nearest pictures of this rank's queries on all ranks, as the whole index would find them.

        Every rank calls this, with the same k and nprobe and its own queries, perhaps none.

        Raises:
            DescriptorError, FaissIndexError: as :meth:`ReferenceIndex.search`, on every rank.
        """
        with self._together():
            queries = as_rows(descriptors, self.dim, "the queries")
            check_k(k, self.pictures)
        depth = min(self.ntotal, k * self.owners.most)
        everyones: list[Rows] = self.gather(queries)
        with self._together():
            found = self._search_own(np.concatenate(everyones), depth, nprobe)
        start = sum(len(part) for part in everyones[: self.rank])
        own = slice(start, start + len(queries))
        parts = [(distances[own], ids[own]) for distances, ids in self.gather(found)]
        rows = merge_neighbours(parts, depth, larger_is_closer=self.larger_is_closer)
        return self.owners.nearest_pictures(*rows, k)

    def _add_own(self, descriptors: Descriptors, names: Sequence[str]) -> None:
        blocks = list(own_blocks(self.ntotal, len(descriptors), self.rank, self.ranks))
        for begin, end in blocks:
            as_rows(descriptors[begin:end], self.dim, f"the descriptors to add, from row {begin}")
        for begin, end in blocks:
            self._local.add(descriptors[begin:end], names[begin:end])

    def _search_own(self, queries: Rows, k: int, nprobe: int | None) -> Found:
        depth = min(k, self._local.ntotal)
        with self._local.probing(nprobe):  # a rank without rows must reject what the others reject
            if depth == 0:
                return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
            distances, positions = self._local.search(queries, depth)
        return distances, ids_of_rows(positions, self.rank, self.ranks)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Raise on every rank what one of them met, instead of leaving the others at a gather."""
        met: AindexError | None = None
        try:
            yield
        except AindexError as error:
            met = error
        for other in self.gather(met):
            if other is not None:
                raise other


AnyIndex = ReferenceIndex | ShardedIndex
