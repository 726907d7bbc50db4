"""Nearest neighbours that depend on nothing but the query and the stored rows: not on batches, shards, threads."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import lru_cache

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

RawSearch = Callable[[Rows, int], tuple[npt.NDArray[np.float32], Ids]]

# These treat each query of a batch by itself once matrix products are off; others, which make the tables of a
# batch by one matrix product, get one query at a time.
_QUERY_BY_QUERY = {
    "IndexFlat",
    "IndexFlatL2",
    "IndexFlatIP",
    "IndexScalarQuantizer",
    "IndexIVFFlat",
    "IndexIVFPQ",
    "IndexIVFScalarQuantizer",
    "IndexHNSWFlat",
    "IndexLSH",
}

_SPARE_CELLS = 8
_UNSURE_TOGETHER = 64
_ROWS_PER_THREAD = 64


def larger_is_closer(index: FaissIndex) -> bool:
    """Whether the index returns similarities (metric IP) rather than distances."""
    return bool(index.metric_type == import_faiss().METRIC_INNER_PRODUCT)


def nearest(index: FaissIndex, queries: Rows, k: int) -> tuple[npt.NDArray[np.float32], Ids]:
    """The k nearest rows of a CPU index, closest first, equally close ones by their id.

    Where fewer than k rows lie in the visited cells the rest is id −1 with FAISS's largest distance. Re-ranking
    indexes and graphs choose their candidates by k, so among equally close rows at the end of the list theirs
    are FAISS's choice.

    Args:
        index: any index with k rows or more.
        queries: nq×d.
        k: neighbours per query.

    Returns:
        Distances nq×k (LSH: numbers of bits) and ids nq×k.
    """
    parts = take_apart(index)
    decides_itself = _has_flat_cells(parts)
    with (
        nullcontext() if decides_itself else repeatable_kernels(),
        faiss_errors("the search failed", "search fewer queries or neighbours at a time"),
    ):
        if parts.chooses_by_k:
            return by_distance_then_id(*_search(parts, queries, k), k, larger_is_closer(index))
        return with_whole_ties(
            lambda rows, count: _search(parts, rows, count),
            queries,
            k,
            limit=int(index.ntotal),
            larger=larger_is_closer(index),
        )


def with_whole_ties(
    search: RawSearch, queries: Rows, k: int, *, limit: int, larger: bool
) -> tuple[npt.NDArray[np.float32], Ids]:
    """Search so deep that no row is cut off that lies as close as the k-th: only then can ids decide.

    Args:
        search: queries and a number of neighbours to distances and ids, closest first.
        queries: nq×d.
        k: neighbours per query.
        limit: the most neighbours that can be asked for.
        larger: whether larger distances are closer.
    """
    depth = min(k + 1, limit)
    distances, ids = search(queries, depth)
    found_distances, found_ids = by_distance_then_id(distances, ids, k, larger)
    open_rows = np.flatnonzero(_cut_within_tie(distances, ids, k)) if depth > k else np.empty(0, np.int64)
    while len(open_rows) and depth < limit:
        depth = min(4 * depth, limit)
        distances, ids = search(queries[open_rows], depth)
        found_distances[open_rows], found_ids[open_rows] = by_distance_then_id(distances, ids, k, larger)
        open_rows = open_rows[_cut_within_tie(distances, ids, k)]
    return found_distances, found_ids


def by_distance_then_id(
    distances: npt.NDArray[np.float32], ids: Ids, k: int, larger: bool
) -> tuple[npt.NDArray[np.float32], Ids]:
    """The k closest of each row's candidates, ordered by distance, then id; absent ones (id −1) last."""
    closeness = -distances if larger else distances
    absent = ids < 0
    # FAISS has sorted by distance: mostly there is nothing left to do
    in_order = (closeness[:, 1:] > closeness[:, :-1]) & ~absent[:, :-1] | absent[:, 1:]
    rows = np.flatnonzero(~in_order.all(axis=1))
    found_distances, found_ids = distances[:, :k].copy(), ids[:, :k].copy()
    if len(rows):
        placed = np.where(absent[rows], np.inf, closeness[rows])
        order = np.lexsort((ids[rows], placed), axis=-1)[:, :k]
        found_distances[rows] = np.take_along_axis(distances[rows], order, 1)
        found_ids[rows] = np.take_along_axis(ids[rows], order, 1)
    return found_distances, found_ids


def _cut_within_tie(distances: npt.NDArray[np.float32], ids: Ids, k: int) -> npt.NDArray[np.bool_]:
    result: npt.NDArray[np.bool_] = (ids[:, -1] >= 0) & (distances[:, -1] == distances[:, k - 1])
    return result


def _search(parts: IndexParts, queries: Rows, k: int) -> tuple[npt.NDArray[np.float32], Ids]:
    if parts.refine is not None:
        return _one_by_one(parts.refine, queries, k)
    rows = forward(parts.transforms, queries)
    if _has_flat_cells(parts):
        return _search_cells(parts.ivf, rows, k)
    if _takes_batches(parts):
        distances, ids = parts.inner.search(rows, k)
        return distances, ids
    return _one_by_one(parts.inner, rows, k)


def _takes_batches(parts: IndexParts) -> bool:
    faiss = import_faiss()
    if type(parts.inner).__name__ not in _QUERY_BY_QUERY or getattr(parts.inner, "rotate_data", False):
        return False
    if parts.ivf is None:
        return True
    quantizer = faiss.downcast_index(parts.ivf.quantizer)
    return isinstance(quantizer, (faiss.IndexFlat, faiss.IndexHNSWFlat))


def _has_flat_cells(parts: IndexParts) -> bool:
    """Whether cells are found by comparing with all centroids, by squared Euclidean distance."""
    faiss = import_faiss()
    if parts.ivf is None or parts.refine is not None or not _takes_batches(parts):
        return False
    quantizer = faiss.downcast_index(parts.ivf.quantizer)
    return isinstance(quantizer, faiss.IndexFlat) and quantizer.metric_type == faiss.METRIC_L2


def _search_cells(ivf: FaissIndex, rows: Rows, k: int) -> tuple[npt.NDArray[np.float32], Ids]:
    def treat(some: Rows) -> tuple[npt.NDArray[np.float32], Ids]:
        cells, coarse = nearest_cells(ivf.quantizer, some, ivf.nprobe)
        # a hint to lists on a disk
        ivf.invlists.prefetch_lists(import_faiss().swig_ptr(cells), cells.size)
        distances, ids = ivf.search_preassigned(some, k, cells, coarse)
        return distances, ids

    def treat_alone(some: Rows) -> tuple[npt.NDArray[np.float32], Ids]:
        with one_thread():
            return treat(some)

    # FAISS makes the matrix product on one thread, and is slower at lists with several than side by side
    workers = min(import_faiss().omp_get_max_threads(), len(rows) // _ROWS_PER_THREAD)
    if workers < 2:
        return treat(rows)
    found = list(_threads(os.getpid()).map(treat_alone, np.array_split(rows, workers)))
    return np.concatenate([part[0] for part in found]), np.concatenate([part[1] for part in found])


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
    depth = min(count, nprobe + nprobe // 8 + _SPARE_CELLS)
    rough, candidates = quantizer.search(rows, depth)
    distances, cells = _by_exact_distance(quantizer, rows, candidates[:, :nprobe], nprobe)
    if nprobe == count:
        return cells, distances
    # |x|² + |y|² − 2xy of d products, where |y| is at most |x| + |x − y|
    norms = np.linalg.norm(rows, axis=1)
    unit = (rows.shape[1] + 4) * np.finfo(np.float32).eps
    error = 2 * unit * (2 * norms + np.sqrt(rough[:, -1])) ** 2
    # those whose next cell is as far behind as rounding cannot move it are done
    close = np.flatnonzero(~(distances[:, -1] < rough[:, nprobe] - error))
    distances[close], cells[close] = _by_exact_distance(quantizer, rows[close], candidates[close], nprobe)
    unsure = close[~(distances[close, -1] < rough[close, -1] - error[close])] if depth < count else close[:0]
    for start in range(0, len(unsure), _UNSURE_TOGETHER):
        some = unsure[start : start + _UNSURE_TOGETHER]
        every = np.tile(np.arange(count, dtype=np.int64), (len(some), 1))
        distances[some], cells[some] = _by_exact_distance(quantizer, rows[some], every, nprobe)
    return cells, distances


def _by_exact_distance(
    quantizer: FaissIndex, rows: Rows, candidates: Ids, nprobe: int
) -> tuple[npt.NDArray[np.float32], Ids]:
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


def _one_by_one(index: FaissIndex, queries: Rows, k: int) -> tuple[npt.NDArray[np.float32], Ids]:
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
        list(
            _threads(os.getpid()).map(
                treat, [range(start, len(queries), workers) for start in range(workers)]
            )
        )
    return distances, ids


@lru_cache(maxsize=1)
def _threads(process: int) -> ThreadPoolExecutor:
    # a forked process makes its own: the threads of the one before do not exist in it
    return ThreadPoolExecutor(import_faiss().omp_get_max_threads(), "search")
