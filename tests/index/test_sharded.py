"""Shards on threads that gather as processes do."""

import threading
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import pytest

from aindex.errors import DescriptorError, FaissIndexError
from aindex.index.filling import fill
from aindex.index.owners import Owners
from aindex.index.rows import Batch
from aindex.index.sharded import ShardedIndex, ids_of_rows, merge_neighbours

Make = Callable[..., Any]
BLOCK = 32


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aindex.index.rows.BLOCK_ROWS", BLOCK)
    monkeypatch.setattr("aindex.index.sharded.BLOCK_ROWS", BLOCK)


def on_ranks(ranks: int, work: Callable[[int, Callable[[Any], list[Any]]], Any]) -> list[Any]:
    """Run ``work(rank, gather)`` on threads; their results, or the exceptions they raised."""
    barrier, board, results = threading.Barrier(ranks, timeout=20), [None] * ranks, [None] * ranks

    def run(rank: int) -> None:
        def gather(value: Any) -> list[Any]:
            board[rank] = value
            barrier.wait()
            values = list(board)
            barrier.wait()
            return values

        try:
            results[rank] = work(rank, gather)
        except Exception as error:
            results[rank] = error
            if isinstance(error, threading.BrokenBarrierError):
                raise

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def named(count: int, start: int = 0) -> list[str]:
    return [f"R{i}" for i in range(start, start + count)]


@pytest.mark.parametrize(
    "idx_factory",
    [
        "IVF8,PQ4x4",
        "OPQ4_8,IVF8,PQ4x4",
        "Flat",
        "IVF8,Flat",
        "PCA8,LSH",
        "PQ2x4",
        "IVF8,PQ4x4fs",
        "PCAR8,Flat",
        "RQ2x4",
    ],
)
@pytest.mark.parametrize("ranks", [2, 3])
def test_shards_find_what_the_whole_finds(
    make_index: Make, make_shard: Make, reference_rows, query_rows, idx_factory: str, ranks: int
) -> None:
    nprobe = 3 if "IVF" in idx_factory else 1
    whole = make_index(idx_factory, nprobe=nprobe)
    whole.add(reference_rows[:210], named(210))
    whole.add(reference_rows[210:], named(90, 210))
    shares = [query_rows[rank::ranks] for rank in range(ranks)]

    def work(rank, gather):
        batches = [Batch(reference_rows[:210], named(210)), Batch(reference_rows[210:], named(90, 210))]
        shard = make_shard(batches, idx_factory, nprobe=nprobe, rank=rank, ranks=ranks, gather=gather)
        return shard._share.ntotal, [shard.search(shares[rank], k) for k in (1, 10, 120, 300)]

    results = on_ranks(ranks, work)
    assert sum(rows for rows, _ in results) == 300
    assert max(rows for rows, _ in results) <= -(-300 // ranks) + BLOCK
    for rank, (_, found) in enumerate(results):
        for k, (distances, ids) in zip((1, 10, 120, 300), found, strict=True):
            expected = whole.search(shares[rank], k)
            assert np.array_equal(ids, expected[1])
            assert np.array_equal(distances, expected[0])


@pytest.mark.parametrize("idx_factory", ["IVF8,PQ4x4", "Flat", "PCA8,LSH"])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_shards_find_each_picture_once(
    make_index: Make, make_shard: Make, reference_rows, query_rows, idx_factory: str, ranks: int
) -> None:
    counts = [1 + i % 3 for i in range(150)]
    whole = make_index(idx_factory)
    whole.add(reference_rows[:210], named(105), counts[:105])
    whole.add(reference_rows[210:300], named(45, 105), counts[105:])

    def work(rank, gather):
        batches = [
            Batch(reference_rows[:210], named(105), counts[:105]),
            Batch(reference_rows[210:300], named(45, 105), counts[105:]),
        ]
        shard = make_shard(batches, idx_factory, rank=rank, ranks=ranks, gather=gather)
        assert (shard.pictures, shard.ntotal) == (150, 300)
        return [shard.search(query_rows[rank::ranks], k) for k in (1, 10, 150)]

    for rank, found in enumerate(on_ranks(ranks, work)):
        for k, (distances, ids) in zip((1, 10, 150), found, strict=True):
            expected = whole.search(query_rows[rank::ranks], k)
            assert np.array_equal(ids, expected[1])
            assert np.array_equal(distances, expected[0])


def test_inner_product_shards(make_index: Make, make_shard: Make, reference_rows, query_rows) -> None:
    whole = make_index("IVF8,PQ4x4", metric="IP", nprobe=8)
    whole.add(reference_rows, named(300))

    def work(rank, gather):
        batches = [Batch(reference_rows, named(300))]
        shard = make_shard(batches, "IVF8,PQ4x4", metric="IP", rank=rank, ranks=2, gather=gather)
        assert shard.larger_is_closer
        return shard.search(query_rows, 50, nprobe=8)[1]

    for ids in on_ranks(2, work):
        assert np.array_equal(ids, whole.search(query_rows, 50)[1])


def test_more_ranks_than_rows(make_index: Make, make_shard: Make, reference_rows, query_rows) -> None:
    def work(rank, gather):
        batches = [Batch(reference_rows[:40], named(40))]
        shard = make_shard(batches, "Flat", rank=rank, ranks=4, gather=gather)
        queries = query_rows if rank == 3 else query_rows[:0]
        return shard._share.ntotal, shard.search(queries, 40)

    whole = make_index("Flat")
    whole.add(reference_rows[:40], named(40))
    results = on_ranks(4, work)
    assert [rows for rows, _ in results] == [32, 8, 0, 0]
    assert np.array_equal(results[3][1][1], whole.search(query_rows, 40)[1])
    assert results[0][1][1].shape == (0, 40)


@pytest.mark.parametrize("where", ["query", "k", "nprobe"])
def test_an_error_on_one_rank_is_raised_on_all(
    make_shard: Make, reference_rows, query_rows, where: str
) -> None:
    def work(rank, gather):
        shard = make_shard([Batch(reference_rows, named(300))], rank=rank, ranks=2, gather=gather)
        queries = query_rows.copy()
        if where == "query" and rank == 1:
            queries[0] = np.nan
        return shard.search(queries, 301 if where == "k" else 3, 9 if where == "nprobe" else None)

    for result in on_ranks(2, work):
        assert isinstance(result, (DescriptorError, FaissIndexError))


@pytest.mark.parametrize("idx_factory", ["HNSW8", "IVF8,PQ4x4,RFlat"])
def test_what_cannot_be_sharded(make_index: Make, idx_factory: str, reference_rows, tmp_path) -> None:
    def one(value):
        return [value]

    with pytest.raises(FaissIndexError, match="replicated"):
        ShardedIndex(make_index(idx_factory), rank=0, ranks=2, gather=one, owners=Owners())
    with pytest.raises(FaissIndexError, match="replicated"):
        fill(
            make_index(idx_factory), [Batch(reference_rows, named(300))], tmp_path / "share", rank=0, ranks=2
        )
    assert not (tmp_path / "share").exists()


def test_a_share_of_other_rows_is_refused(filled_index: Make) -> None:
    with pytest.raises(FaissIndexError, match="300 rows in an index to be sharded: expected 150"):
        ShardedIndex(filled_index(), rank=0, ranks=1, gather=lambda value: [value], owners=Owners(150))


def test_rows_and_ranks_by_hand() -> None:
    ids = np.arange(5 * BLOCK)
    assert ids_of_rows(np.array([0, BLOCK - 1, BLOCK, -1]), 1, 2).tolist() == [
        BLOCK,
        2 * BLOCK - 1,
        3 * BLOCK,
        -1,
    ]
    for ranks in (1, 2, 3):
        collected = [
            ids_of_rows(np.arange((ids // BLOCK % ranks == rank).sum()), rank, ranks) for rank in range(ranks)
        ]
        assert sorted(np.concatenate(collected).tolist()) == ids.tolist()


def test_merge_by_hand() -> None:
    inf = np.finfo(np.float32).max
    parts = [
        (np.array([[1, 3, inf]], np.float32), np.array([[7, 2, -1]])),
        (np.array([[1, 2, 3]], np.float32), np.array([[4, 9, 1]])),
    ]
    distances, ids = merge_neighbours(parts, 4, larger_is_closer=False)
    assert ids.tolist() == [[4, 7, 9, 1]]
    assert distances.tolist() == [[1, 1, 2, 3]]
    assert merge_neighbours(parts, 6, larger_is_closer=False)[1].tolist() == [[4, 7, 9, 1, 2, -1]]
    assert merge_neighbours(parts, 3, larger_is_closer=True)[1].tolist() == [[1, 2, 9]]


def test_threads_share_the_kernel_switch(make_index: Make, reference_rows, query_rows) -> None:
    before = faiss.cvar.distance_compute_blas_threshold

    def work(rank, gather):
        index = make_index("Flat")
        index.add(reference_rows, named(300))
        return [index.search(query_rows, 3) for _ in range(5)]

    on_ranks(3, work)
    assert faiss.cvar.distance_compute_blas_threshold == before
