"""An index whose rows are spread over ranks: same neighbours as the whole index, ties included.

Blocks of rows are dealt to the ranks in turn, so that a row's place follows from its id, whatever is added when.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from aindex.errors import AindexError, FaissIndexError
from aindex.index.backend import Ids, Rows
from aindex.index.devices import Device
from aindex.index.neighbours import Found, by_distance_then_id
from aindex.index.owners import Owners
from aindex.index.reference_index import ReferenceIndex
from aindex.index.rows import BLOCK_ROWS, Descriptors, as_rows, check_k, own_rows_count
from aindex.index.structure import take_apart

Gather = Callable[[Any], list[Any]]
"""A rank's value to every rank's, in the order of ranks, on every rank."""


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
        larger_is_closer: whether these are similarities.
    """
    distances = np.concatenate([part[0] for part in parts], axis=1)
    ids = np.concatenate([part[1] for part in parts], axis=1)
    return by_distance_then_id(distances, ids, k, larger_is_closer)


def check_can_be_split(index: ReferenceIndex) -> None:
    """Raise a FaissIndexError if shards would find other neighbours than the whole index."""
    if take_apart(index.faiss_index).chooses_by_k:
        raise FaissIndexError(
            f"a sharded {index.idx_factory!r} would find other neighbours (graphs and re-ranking choose their "
            "candidates by what a shard holds): take the placement replicated, or another idx_factory"
        )


class ShardedIndex:
    """One rank's share of an index, and the searches over all shares, which are collective.

    Args:
        share: this rank's rows, each under a name of its own, in an index trained the same on every rank.
        rank: this rank's number.
        ranks: number of ranks.
        gather: every rank's value on every rank; objects that pickle.
        owners: which picture each row of all shares together belongs to.

    Attributes:
        owners, rank, ranks, gather: the same.
        quantiser, idx_factory, metric, dim, larger_is_closer: as of :class:`ReferenceIndex`, the same on every rank.

    Raises:
        FaissIndexError: an index that cannot be split without changing what is found, or another number of rows.
    """

    def __init__(
        self, share: ReferenceIndex, *, rank: int, ranks: int, gather: Gather, owners: Owners
    ) -> None:
        check_can_be_split(share)
        expected = own_rows_count(owners.rows, rank, ranks)
        if share.ntotal != expected:
            raise FaissIndexError(
                f"{share.ntotal} rows in an index to be sharded: expected {expected}, rank {rank}'s share of "
                f"{owners.rows}; build it again"
            )
        self._share = share
        self.rank, self.ranks, self.gather, self.owners = rank, ranks, gather, owners
        self.quantiser, self.dim = share.quantiser, share.dim
        self.idx_factory, self.metric = share.idx_factory, share.metric
        self.larger_is_closer = share.larger_is_closer

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
        return self._share.nprobe

    @nprobe.setter
    def nprobe(self, value: int) -> None:
        self._share.nprobe = value

    def use_device(self, device: Device, number: int = 0) -> None:
        """As :meth:`ReferenceIndex.use_device`, for this rank's share."""
        self._share.use_device(device, number)

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
        return self.owners.nearest_pictures(*rows, k, self.larger_is_closer)

    def _search_own(self, queries: Rows, k: int, nprobe: int | None) -> Found:
        depth = min(k, self._share.ntotal)
        with self._share.probing(nprobe):  # a rank without rows must reject what the others reject
            if depth == 0:
                return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
            distances, positions = self._share.search(queries, depth)
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
