"""What a search costs: rows that are compared, bytes per picture."""

import threading

import numpy as np
import pytest

from aindex.index.costs import SearchCosts
from aindex.index.reference_index import ReferenceIndex
from aindex.index.rows import Batch


def _searched(index, queries, nprobe):
    """Rows that FAISS finds where it is asked for all of them."""
    _, rows = index.search(queries, index.ntotal, nprobe)
    return (rows >= 0).sum(axis=1)


@pytest.mark.parametrize("idx_factory", ["IVF8,PQ4x4", "OPQ4_8,IVF8,PQ4x4", "IVF8,Flat"])
@pytest.mark.parametrize("nprobe", [1, 3, 8])
def test_rows_in_the_visited_cells(filled_index, query_rows, idx_factory, nprobe):
    index = filled_index(idx_factory)
    visited = index.quantiser.visited(query_rows, nprobe)
    assert np.array_equal(visited[:, 0], index.quantiser.cells(query_rows))
    scanned = SearchCosts(index).scanned_rows(visited, len(query_rows))
    assert np.array_equal(scanned, _searched(index, query_rows, nprobe))


def test_indexes_without_cells(filled_index, query_rows):
    flat = filled_index("Flat")
    assert flat.quantiser.visited(query_rows, 1) is None
    assert SearchCosts(flat).scanned_rows(None, 2).tolist() == [300, 300]
    graph = filled_index("HNSW8")
    assert np.isnan(SearchCosts(graph).scanned_rows(None, 2)).all()
    assert SearchCosts(graph).bytes_per_picture is None


@pytest.mark.parametrize(("idx_factory", "size"), [("IVF8,PQ4x4", 2 + 8), ("Flat", 4 * 16), ("PQ4x4", 2)])
def test_bytes_per_picture(filled_index, idx_factory, size):
    assert SearchCosts(filled_index(idx_factory)).bytes_per_picture == size


def test_several_rows_per_picture(make_index, reference_rows):
    index = make_index("IVF8,PQ4x4")
    index.add(reference_rows[:6], ["a", "b", "c"], [1, 2, 3])
    # a code of 2 bytes and an id of 8 for each of 6 rows, a byte for each of 3 pictures
    assert SearchCosts(index).bytes_per_picture == (6 * (2 + 8) + 3) / 3


def test_shards_count_together(make_index, make_shard, reference_rows, query_rows):
    whole = make_index("IVF8,PQ4x4")
    whole.add(reference_rows, [str(row) for row in range(300)])
    barrier, parts, results = threading.Barrier(2), [None, None], [None, None]

    def run(rank):
        def gather(value):
            parts[rank] = value
            barrier.wait(30)
            everyones = list(parts)
            barrier.wait(30)
            return everyones

        rows = [Batch(reference_rows, [str(row) for row in range(300)])]
        shard = make_shard(rows, "IVF8,PQ4x4", rank=rank, ranks=2, gather=gather)
        costs = SearchCosts(shard)
        visited = shard.quantiser.visited(query_rows, 2)
        results[rank] = costs.scanned_rows(visited, len(query_rows)), costs.bytes_per_picture

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    costs = SearchCosts(whole)
    expected = costs.scanned_rows(whole.quantiser.visited(query_rows, 2), len(query_rows))
    for scanned, size in results:
        assert np.array_equal(scanned, expected)
        assert size == costs.bytes_per_picture


def test_a_twin_of_the_benchmark(filled_index, query_rows):
    index: ReferenceIndex = filled_index("IVF8,PQ4x4", nprobe=2)
    sizes = np.array([index.quantiser.ivf.invlists.list_size(cell) for cell in range(8)])
    cells = index.quantiser.ivf.quantizer.search(query_rows, 2)[1]
    visited = index.quantiser.visited(query_rows, index.nprobe)
    assert SearchCosts(index).scanned_rows(visited, 30).mean() == sizes[cells].sum(axis=1).mean()
