"""An index whose rows are spread over ranks: same neighbours as the whole index, ties included.

Blocks of rows are dealt to the ranks in turn, so that a row's place follows from its id, whatever is added when.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from aindex.errors import AindexError, FaissIndexError
from aindex.index.backend import Ids, Rows
from aindex.index.devices import Device
from aindex.index.factory import Metric, set_nprobe
from aindex.index.neighbours import by_distance_then_id
from aindex.index.owners import Owners, check_counts, row_names
from aindex.index.quantiser import Quantiser
from aindex.index.reference_index import ReferenceIndex
from aindex.index.rows import BLOCK_ROWS, Descriptors, as_rows, check_k, check_names
from aindex.index.structure import take_apart

Neighbours = tuple[npt.NDArray[np.float32], Ids]


class Gather(Protocol):
    """Every rank's value, in the order of ranks, on every rank."""

    def __call__(self, value: Any) -> list[Any]: ...  # noqa: D102


def ids_of_rows(positions: Ids, rank: int, ranks: int) -> Ids:
    """The ids of a rank's own rows, by their positions in its share; −1 stays −1."""
    block = positions // BLOCK_ROWS * ranks + rank
    return np.where(positions < 0, positions, block * BLOCK_ROWS + positions % BLOCK_ROWS)


def own_blocks(first: int, count: int, rank: int, ranks: int) -> Iterator[tuple[int, int]]:
    """Which of ``count`` new rows, the first of which gets the id ``first``, are a rank's: ranges, in order."""
    begin = 0
    while begin < count:
        block, place = divmod(first + begin, BLOCK_ROWS)
        end = min(count, begin + BLOCK_ROWS - place)
        if block % ranks == rank:
            yield begin, end
        begin = end


def merge_neighbours(parts: Sequence[Neighbours], k: int, *, larger_is_closer: bool) -> Neighbours:
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
        owners: the same.

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
        expected = sum(end - begin for begin, end in own_blocks(0, rows, rank, ranks))
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

    @property
    def quantiser(self) -> Quantiser:
        """The same on every rank."""
        return self._local.quantiser

    @property
    def idx_factory(self) -> str:
        """FAISS's factory string."""
        return self._local.idx_factory

    @property
    def metric(self) -> Metric:
        """``L2`` or ``IP``."""
        return self._local.metric

    @property
    def ntotal(self) -> int:
        """Number of rows on all ranks."""
        return self.owners.rows

    @property
    def pictures(self) -> int:
        """Number of pictures on all ranks."""
        return self.owners.pictures

    @property
    def dim(self) -> int:
        """d."""
        return self._local.dim

    @property
    def nprobe(self) -> int:
        """Coarse cells that a search visits."""
        return self._local.nprobe

    @nprobe.setter
    def nprobe(self, value: int) -> None:
        self._local.nprobe = value

    @property
    def larger_is_closer(self) -> bool:
        """Whether searches return similarities rather than distances."""
        return self._local.larger_is_closer

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
        with self._together() as errors:
            try:
                if counts is not None:
                    check_counts(counts, len(names), len(descriptors))
                self._add_own(descriptors, row_names(names, counts))
            except AindexError as error:
                errors.append(error)
        self.owners = self.owners.extended(len(names), counts)
        return np.arange(first, self.pictures, dtype=np.int64)

    def search(self, descriptors: Descriptors, k: int, nprobe: int | None = None) -> Neighbours:
        """The k nearest pictures of this rank's queries on all ranks, as the whole index would find them.

        Every rank calls this, with the same k and nprobe and its own queries, perhaps none.

        Raises:
            DescriptorError, FaissIndexError: as :meth:`ReferenceIndex.search`, on every rank.
        """
        queries = np.empty((0, self.dim), np.float32)
        with self._together() as errors:
            try:
                queries = as_rows(descriptors, self.dim, "the queries")
                check_k(k, self.pictures)
            except AindexError as error:
                errors.append(error)
        depth = min(self.ntotal, k * self.owners.most)
        everyones: list[Rows] = self.gather(queries)
        with self._together() as errors:
            found: Neighbours = (np.empty(0), np.empty(0))  # type: ignore[assignment]
            try:
                found = self._search_own(np.concatenate(everyones), depth, nprobe)
            except AindexError as error:
                errors.append(error)
        start = sum(len(part) for part in everyones[: self.rank])
        own = slice(start, start + len(queries))
        parts = [(distances[own], ids[own]) for distances, ids in self.gather(found)]
        rows = merge_neighbours(parts, depth, larger_is_closer=self.larger_is_closer)
        return self.owners.nearest_pictures(*rows, k)

    def _add_own(self, descriptors: Descriptors, names: Sequence[str]) -> None:
        check_names(names, len(descriptors))
        blocks = list(own_blocks(self.ntotal, len(descriptors), self.rank, self.ranks))
        for begin, end in blocks:
            as_rows(descriptors[begin:end], self.dim, f"the descriptors to add, from row {begin}")
        for begin, end in blocks:
            self._local.add(descriptors[begin:end], names[begin:end])

    def _search_own(self, queries: Rows, k: int, nprobe: int | None) -> Neighbours:
        depth = min(k, self._local.ntotal)
        if nprobe is not None:
            # A rank without rows must reject what the others reject.
            usual = self.nprobe
            set_nprobe(self._local.faiss_index, nprobe)
            set_nprobe(self._local.faiss_index, usual)
        if depth == 0:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        distances, positions = self._local.search(queries, depth, nprobe)
        return distances, ids_of_rows(positions, self.rank, self.ranks)

    @contextmanager
    def _together(self) -> Iterator[list[AindexError]]:
        """Raise on every rank what one of them met, instead of leaving the others at a gather."""
        errors: list[AindexError] = []
        yield errors
        for error in self.gather(errors[0] if errors else None):
            if error is not None:
                raise error
