"""Nearest neighbours that depend on nothing but the query and the stored rows: not on batches, shards, threads."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt

from aindex.index.backend import (
    FaissIndex,
    Ids,
    Rows,
    faiss_errors,
    import_faiss,
    one_thread,
    repeatable_kernels,
)
from aindex.index.structure import IndexParts, forward, take_apart

Found = tuple[npt.NDArray[np.float32], Ids]
RawSearch = Callable[[Ids | slice, int], Found]
Order = Callable[[npt.NDArray[np.float32], Ids], Found]

_ID_BITS = 43
"""Of a sort key: a row's number; the place of its distance in the list is above it."""
_MOST_PLACES = 1 << 63 - _ID_BITS

_SPARE_CELLS = 4
_UNSURE_TOGETHER = 64
_ROWS_PER_THREAD = 64
_MOST_TOGETHER = 1024
"""Queries whose lists of neighbours a thread holds at a time."""


def larger_is_closer(index: FaissIndex) -> bool:
    """Whether the index returns similarities (metric IP) rather than distances."""
    return bool(index.metric_type == import_faiss().METRIC_INNER_PRODUCT)


def nearest(index: FaissIndex, queries: Rows, k: int, order: Order) -> Found:
    """The k nearest rows of a CPU index, put in order.

    Where fewer than k rows lie in the visited cells the rest is id −1 with FAISS's largest distance. Re-ranking
    indexes and graphs choose their candidates by k, so among equally close rows at the end of the list theirs
    are FAISS's choice.

    Args:
        index: any index with k rows or more.
        queries: nq×d.
        k: neighbours per query.
        order: what becomes of k or more neighbours, closest first, equally close ones in any order.

    Returns:
        Distances (LSH: numbers of bits) and ids, as `order` gives them.
    """
    parts = take_apart(index)
    ties = partial(with_whole_ties, k=k, limit=int(index.ntotal), order=order)
    with faiss_errors("the search failed", "search fewer queries or neighbours at a time"):
        if _has_flat_cells(parts):
            return _visit_cells(parts.ivf, forward(parts.transforms, queries), ties)
        with repeatable_kernels():
            if parts.chooses_by_k:
                return order(*_search(parts, queries, k))
            return ties(lambda which, depth: _search(parts, queries[which], depth))


def with_whole_ties(search: RawSearch, k: int, *, limit: int, order: Order) -> Found:
    """Search so deep that no row is cut off that lies as close as the k-th: only then can ids decide.

    Args:
        search: which of the queries, and a number of neighbours, to distances and ids, closest first.
        k: neighbours per query.
        limit: the most neighbours that can be asked for.
        order: see `nearest`.
    """
    depth = min(k + 1, limit)
    distances, ids = search(slice(None), depth)
    found_distances, found_ids = order(distances, ids)
    open_rows = np.flatnonzero(_cut_within_tie(distances, ids, k)) if depth > k else np.empty(0, np.int64)
    while len(open_rows) and depth < limit:
        depth = min(4 * depth, limit)
        distances, ids = search(open_rows, depth)
        found_distances[open_rows], found_ids[open_rows] = order(distances, ids)
        open_rows = open_rows[_cut_within_tie(distances, ids, k)]
    return found_distances, found_ids


def by_distance_then_id(distances: npt.NDArray[np.float32], ids: Ids, k: int, larger: bool) -> Found:
    """The k closest of each row's candidates, ordered by distance, then id; absent ones (id −1) last."""
    closeness = -distances if larger else distances
    found_distances, found_ids = distances[:, :k].copy(), ids[:, :k].copy()
    # FAISS has sorted by distance: mostly there is nothing left to do, or little
    rows = np.flatnonzero(~(closeness[:, 1:] > closeness[:, :-1]).all(axis=1))
    is_sorted = (closeness[rows, 1:] >= closeness[rows, :-1]).all(axis=1)
    tied, mixed = rows[is_sorted], rows[~is_sorted]
    found_ids[tied] = in_order_of_ids(distances[tied], ids[tied])[:, :k]
    if len(mixed):
        placed = np.where(ids[mixed] < 0, np.inf, closeness[mixed])
        order = np.lexsort((ids[mixed], placed), axis=-1)[:, :k]
        found_distances[mixed] = np.take_along_axis(distances[mixed], order, 1)
        found_ids[mixed] = np.take_along_axis(ids[mixed], order, 1)
    return found_distances, found_ids


def in_order_of_ids(distances: npt.NDArray[np.float32], ids: Ids) -> Ids:
    """Ids nq×n, those with the same of their sorted distances in order; absent ones (id −1) last."""
    absent = (1 << _ID_BITS) - 1
    starts = np.zeros(ids.shape, np.int64)  # where the first of a distance lies
    np.multiply(distances[:, 1:] != distances[:, :-1], np.arange(1, ids.shape[1]), out=starts[:, 1:])
    starts = np.maximum.accumulate(starts, axis=1)
    if ids.shape[1] > _MOST_PLACES:
        return np.take_along_axis(ids, np.lexsort((ids & absent, starts), axis=-1), 1)
    keys = starts << _ID_BITS | ids & absent
    keys.sort(axis=1)
    keys &= absent
    return np.where(keys == absent, -1, keys)


def _cut_within_tie(distances: npt.NDArray[np.float32], ids: Ids, k: int) -> npt.NDArray[np.bool_]:
    result: npt.NDArray[np.bool_] = (ids[:, -1] >= 0) & (distances[:, -1] == distances[:, k - 1])
    return result


def _search(parts: IndexParts, queries: Rows, k: int) -> Found:
    if parts.refine is not None:
        return _one_by_one(parts.refine, queries, k)
    rows = forward(parts.transforms, queries)
    if parts.treats_queries_alone:
        distances, ids = parts.inner.search(rows, k)
        return distances, ids
    return _one_by_one(parts.inner, rows, k)


def _has_flat_cells(parts: IndexParts) -> bool:
    """Whether cells are found by comparing with all centroids, by squared Euclidean distance."""
    coarse = parts.flat_coarse
    is_plain = parts.refine is None and parts.treats_queries_alone
    return coarse is not None and is_plain and coarse.metric_type == import_faiss().METRIC_L2


def _visit_cells(ivf: FaissIndex, rows: Rows, ties: Callable[[RawSearch], Found]) -> Found:
    """What is nearest in the cells of each query, side by side: FAISS is slower at lists with several threads."""

    def treat(some: Rows) -> Found:
        # all of a thread's queries at once: each call of the quantiser begins with all centroids
        cells, coarse = nearest_cells(ivf.quantizer, some, ivf.nprobe)
        # a hint to lists on a disk
        ivf.invlists.prefetch_lists(import_faiss().swig_ptr(cells), cells.size)

        def in_cells(begin: int) -> Found:
            block = slice(begin, begin + _MOST_TOGETHER)
            asked = some[block], cells[block], coarse[block]

            def search(which: Ids | slice, count: int) -> Found:
                queries, own_cells, own_coarse = (part[which] for part in asked)
                distances, ids = ivf.search_preassigned(queries, count, own_cells, own_coarse)
                return distances, ids

            return ties(search)

        return joined([in_cells(begin) for begin in range(0, max(1, len(some)), _MOST_TOGETHER)])

    def treat_alone(some: Rows) -> Found:
        with one_thread():
            return treat(some)

    workers = min(import_faiss().omp_get_max_threads(), len(rows) // _ROWS_PER_THREAD)
    if workers < 2:
        return treat(rows)
    return joined(list(_threads(os.getpid()).map(treat_alone, np.array_split(rows, workers))))


def joined(parts: Sequence[Found]) -> Found:
    """What was found for some queries after the other."""
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def nearest_cells(quantizer: FaissIndex, rows: Rows, nprobe: int) -> tuple[Ids, npt.NDArray[np.float32]]:
    """The cells to visit and the squared distances to their centroids, closest first: nq×nprobe both.

    A matrix product says quickly which cells may be among the closest, but its rounding depends on how many queries
    there are. So the distances to those few are computed again pair by pair, and decide; where rounding could have
    hidden a closer cell, those to all.

    Args:
        quantizer: IndexFlat of the centroids, squared Euclidean distance.
        rows: queries nq×d.
        nprobe: cells to visit; all, if there are fewer.
    """
    count = int(quantizer.ntotal)
    nprobe = min(nprobe, count)
    depth = min(count, nprobe + nprobe // 2 + _SPARE_CELLS)
    rough, candidates = quantizer.search(rows, depth)
    distances, cells = _by_exact_distance(quantizer, rows, candidates[:, :nprobe], nprobe)
    if nprobe == count:
        return cells, distances
    # |x|² + |y|² − 2xy and |x − y|² are sums of d products, each wrong by at most d half units of (|x| + |y|)², where
    # |y| is at most |x| + |x − y|
    norms = np.linalg.norm(rows, axis=1)
    unit = (rows.shape[1] + 4) * np.finfo(np.float32).eps
    error = unit * (2 * norms + np.sqrt(rough[:, -1])) ** 2
    # those whose next cell is as far behind as rounding cannot move it are done
    close = np.flatnonzero(~(distances[:, -1] < rough[:, nprobe] - error))
    distances[close], cells[close] = _by_exact_distance(quantizer, rows[close], candidates[close], nprobe)
    unsure = close[~(distances[close, -1] < rough[close, -1] - error[close])] if depth < count else close[:0]
    for start in range(0, len(unsure), _UNSURE_TOGETHER):
        some = unsure[start : start + _UNSURE_TOGETHER]
        every = np.tile(np.arange(count, dtype=np.int64), (len(some), 1))
        distances[some], cells[some] = _by_exact_distance(quantizer, rows[some], every, nprobe)
    return cells, distances


def _by_exact_distance(quantizer: FaissIndex, rows: Rows, candidates: Ids, nprobe: int) -> Found:
    return by_distance_then_id(_pairwise(quantizer, rows, candidates), candidates, nprobe, larger=False)


def _pairwise(quantizer: FaissIndex, rows: Rows, cells: Ids) -> npt.NDArray[np.float32]:
    """Squared distances of each query to some centroids, each from the two vectors alone: nq×n."""
    faiss = import_faiss()
    rows, cells = np.ascontiguousarray(rows), np.ascontiguousarray(cells)
    distances = np.empty(cells.shape, np.float32)
    pointers = [faiss.swig_ptr(array) for array in (rows, distances, cells)]
    faiss.downcast_index(quantizer).compute_distance_subset(
        len(rows), pointers[0], cells.shape[1], pointers[1], pointers[2]
    )
    return distances


def _one_by_one(index: FaissIndex, queries: Rows, k: int) -> Found:
    distances = np.empty((len(queries), k), np.float32)
    ids = np.empty((len(queries), k), np.int64)

    def treat(numbers: range) -> None:
        with one_thread():
            for i in numbers:
                distances[i], ids[i] = (part[0] for part in index.search(queries[i : i + 1], k))

    workers = min(import_faiss().omp_get_max_threads(), len(queries) // 8)
    if workers < 2:
        treat(range(len(queries)))
    else:
        dealt = [range(start, len(queries), workers) for start in range(workers)]
        list(_threads(os.getpid()).map(treat, dealt))
    return distances, ids


@lru_cache(maxsize=1)
def _threads(process: int) -> ThreadPoolExecutor:
    # a forked process makes its own: the threads of the one before do not exist in it
    return ThreadPoolExecutor(import_faiss().omp_get_max_threads(), "search")
