from collections.abc import Callable
from functools import partial

import faiss
import numpy as np
import pytest

from aindex.errors import DescriptorError, FaissIndexError
from aindex.index.neighbours import by_distance_then_id, nearest
from aindex.index.reference_index import ReferenceIndex

FACTORIES = [
    "Flat",
    "IVF8,Flat",
    "IVF8,PQ4x4",
    "IVF8,SQ8",
    "PQ2x4",
    "OPQ4_8,IVF8,PQ4x4",
    "PCA8,LSH",
    "PCAR8,Flat",
    "IVF8,PQ4x4fs",
    "IVF8,RaBitQ",
    "RQ2x4",
]
Make = Callable[..., ReferenceIndex]


def expected_neighbours(distances, k):
    """All rows by (distance, id), from FAISS's distances to every row."""
    ids = np.lexsort((np.broadcast_to(np.arange(distances.shape[1]), distances.shape), distances), axis=-1)[
        :, :k
    ]
    return np.take_along_axis(distances, ids, 1), ids


@pytest.mark.parametrize("idx_factory", FACTORIES)
def test_ties_go_by_id_and_none_is_cut_off(filled_index: Make, query_rows, idx_factory: str) -> None:
    index = filled_index(idx_factory)
    if index.quantiser.cell_count:
        index.nprobe = 8
    everything, ids = index.search(query_rows, index.ntotal)
    by_row = np.empty_like(everything)
    np.put_along_axis(by_row, ids, everything, 1)
    for k in (1, 7, 100):
        distances, found = index.search(query_rows, k)
        wanted_distances, wanted = expected_neighbours(by_row, k)
        assert np.array_equal(found, wanted)
        assert np.array_equal(distances, wanted_distances)


@pytest.mark.parametrize("idx_factory", FACTORIES)
def test_a_query_does_not_depend_on_the_others(filled_index: Make, query_rows, idx_factory: str) -> None:
    index = filled_index(idx_factory)
    distances, ids = index.search(query_rows, 10)
    for part in (slice(3, 4), slice(5, 29)):
        found = index.search(query_rows[part], 10)
        assert np.array_equal(found[0], distances[part])
        assert np.array_equal(found[1], ids[part])


def test_more_threads_find_the_same(filled_index: Make, query_rows) -> None:
    index = filled_index("PQ2x4")
    threads = faiss.omp_get_max_threads()
    found = []
    try:
        for count in (1, 3):
            faiss.omp_set_num_threads(count)
            found.append(index.search(query_rows, 5))
    finally:
        faiss.omp_set_num_threads(threads)
    assert np.array_equal(found[0][0], found[1][0])
    assert np.array_equal(found[0][1], found[1][1])


def test_flat_search_is_right(filled_index: Make, reference_rows, query_rows) -> None:
    squared = ((query_rows[:, None] - reference_rows) ** 2).sum(2)
    distances, ids = filled_index("Flat").search(query_rows, 3)
    np.testing.assert_allclose(distances, np.sort(squared, axis=1)[:, :3], rtol=1e-4)
    assert np.array_equal(ids[:, 0], squared.argmin(1))


def test_inner_product_is_larger_for_closer(filled_index: Make, reference_rows, query_rows) -> None:
    index = filled_index("Flat", metric="IP")
    assert index.larger_is_closer
    assert not filled_index("Flat").larger_is_closer
    similarities, ids = index.search(query_rows, 5)
    assert (np.diff(similarities, axis=1) <= 0).all()
    assert np.array_equal(ids[:, 0], (query_rows @ reference_rows.T).argmax(1))
    tied = similarities[:, :-1] == similarities[:, 1:]
    assert (ids[:, :-1] < ids[:, 1:])[tied].all()


def test_lsh_distances_are_numbers_of_bits(filled_index: Make, query_rows) -> None:
    distances, _ = filled_index("PCA8,LSH").search(query_rows, 20)
    assert np.array_equal(distances, distances.round())
    assert 0 <= distances.min() <= distances.max() <= 8


@pytest.mark.parametrize("idx_factory", ["IVF8,PQ4x4", "OPQ4_8,IVF8,PQ4x4", "PCA8,IVF8,PQ4x4"])
def test_nprobe_takes_effect(filled_index: Make, query_rows, idx_factory: str) -> None:
    index = filled_index(idx_factory, nprobe=1)
    one = index.search(query_rows, 20)[1]
    all_cells = index.search(query_rows, 20, nprobe=8)[1]
    assert (one != all_cells).any()
    assert index.nprobe == 1
    assert np.array_equal(index.search(query_rows, 20)[1], one)
    index.nprobe = 8
    assert np.array_equal(index.search(query_rows, 20)[1], all_cells)
    with pytest.raises(FaissIndexError, match="nprobe 9"):
        index.search(query_rows, 20, nprobe=9)
    assert index.nprobe == 8


def test_rows_beyond_the_visited_cells_are_absent(filled_index: Make, query_rows) -> None:
    distances, ids = filled_index("IVF8,PQ4x4").search(query_rows, 300)
    assert (ids == -1).any()
    assert (distances[ids == -1] == np.finfo(np.float32).max).all()
    assert (np.diff((ids == -1).astype(int), axis=1) >= 0).all()


@pytest.mark.parametrize("k", [0, -1, 301])
def test_k_beyond_the_index(filled_index: Make, query_rows, k: int) -> None:
    with pytest.raises(FaissIndexError, match=f"k {k} .*300 rows: expected 1 to 300"):
        filled_index().search(query_rows, k)


def test_bad_queries(filled_index: Make, query_rows) -> None:
    index = filled_index()
    broken = query_rows.copy()
    broken[4, 4] = np.nan
    with pytest.raises(DescriptorError, match=r"queries.*row 4"):
        index.search(broken, 3)
    with pytest.raises(DescriptorError, match="dimension 3, expected 16"):
        index.search(query_rows[:, :3], 3)
    distances, ids = index.search(query_rows[:0], 3)
    assert distances.shape == ids.shape == (0, 3)


@pytest.mark.parametrize("idx_factory", ["IVF8,PQ4x4,RFlat", "HNSW8", "IVF8,PQ4+4", "NSG8"])
def test_reranking_and_graphs_search(filled_index: Make, query_rows, idx_factory: str) -> None:
    distances, ids = filled_index(idx_factory).search(query_rows, 5)
    assert ids.shape == (30, 5)
    tied = (distances[:, :-1] == distances[:, 1:]) & (ids[:, 1:] >= 0)
    assert (ids[:, :-1] < ids[:, 1:])[tied].all()


def test_order_by_distance_then_id_by_hand() -> None:
    distances = np.array([[3, 1, 1, 2, 9]], np.float32)
    ids = np.array([[4, 8, 2, 5, -1]], np.int64)
    assert by_distance_then_id(distances, ids, 5, False)[1].tolist() == [[2, 8, 5, 4, -1]]
    assert by_distance_then_id(distances, ids, 5, True)[1].tolist() == [[4, 5, 2, 8, -1]]


def test_order_of_a_list_longer_than_its_places_fit_a_key() -> None:
    distances = np.arange(2**20 + 5, dtype=np.float32)
    distances[1] = distances[0]
    ids = np.arange(2**20 + 5, dtype=np.int64)
    ids[:2] = 1, 0
    assert by_distance_then_id(distances[None], ids[None], 4, False)[1].tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("idx_factory", ["IVF8,PQ4x4", "Flat", "PQ4x4"])
def test_no_queries(filled_index: Make, query_rows, idx_factory: str) -> None:
    order = partial(by_distance_then_id, k=3, larger=False)
    distances, ids = nearest(filled_index(idx_factory).faiss_index, query_rows[:0], 3, order)
    assert distances.shape == ids.shape == (0, 3)


def test_kernels_are_given_back(filled_index: Make, query_rows) -> None:
    before = faiss.cvar.distance_compute_blas_threshold
    filled_index().search(query_rows, 3)
    assert faiss.cvar.distance_compute_blas_threshold == before
