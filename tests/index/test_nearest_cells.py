"""The cells a search visits: found by a matrix product, decided pair by pair."""

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aindex.index import neighbours
from aindex.index.neighbours import nearest_cells


def unit(rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
    vectors = rng.standard_normal((count, dim), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def quantizer_of(centroids: np.ndarray) -> faiss.IndexFlatL2:
    quantizer = faiss.IndexFlatL2(centroids.shape[1])
    quantizer.add(centroids)
    return quantizer


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 300),
    dim=st.sampled_from([4, 33, 256]),
    nprobe=st.integers(1, 40),
    scale=st.sampled_from([1e-3, 1.0, 1e4]),
)
def test_they_are_the_closest(seed: int, count: int, dim: int, nprobe: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    centroids, queries = unit(rng, count, dim) * np.float32(scale), unit(rng, 50, dim) * np.float32(scale)
    cells, distances = nearest_cells(quantizer_of(centroids), queries, nprobe)
    true = ((queries[:, None].astype(np.float64) - centroids) ** 2).sum(-1)
    nprobe = min(nprobe, count)
    assert cells.shape == distances.shape == (50, nprobe)
    assert (np.sort(cells, axis=1)[:, 1:] != np.sort(cells, axis=1)[:, :-1]).all()
    np.testing.assert_allclose(distances, np.take_along_axis(true, cells, 1), rtol=1e-5)
    np.testing.assert_allclose(distances, np.sort(true, axis=1)[:, :nprobe], rtol=1e-5)


@pytest.mark.parametrize("nprobe", [1, 7])
def test_a_query_finds_the_same_in_any_company(nprobe: int) -> None:
    rng = np.random.default_rng(0)
    quantizer, queries = quantizer_of(unit(rng, 500, 128)), unit(rng, 70, 128)
    cells, distances = nearest_cells(quantizer, queries, nprobe)
    for some in ([3], [69, 3], list(range(0, 70, 3))):
        alone = nearest_cells(quantizer, queries[some], nprobe)
        assert np.array_equal(alone[0], cells[some])
        assert np.array_equal(alone[1], distances[some])


def test_of_equal_centroids_the_first_are_visited() -> None:
    """More of them than the matrix product is asked for: only all distances can tell."""
    centroids = np.concatenate([np.tile(np.float32([[1, 0, 0, 0]]), (60, 1)), np.eye(4, dtype=np.float32)])
    cells, distances = nearest_cells(quantizer_of(centroids[::-1].copy()), centroids[:30], 3)
    assert cells.tolist() == [[3, 4, 5]] * 30
    assert not distances.any()


def test_a_rough_order_is_never_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix product that is wrong within its error bound changes nothing."""
    rng = np.random.default_rng(1)
    centroids, queries = unit(rng, 200, 64), unit(rng, 40, 64)
    expected = nearest_cells(quantizer_of(centroids), queries, 4)

    class Rough:
        ntotal = 200

        def search(self, rows: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
            true = ((rows[:, None] - centroids) ** 2).sum(-1)
            true += rng.uniform(-2e-5, 2e-5, true.shape).astype(np.float32)
            cells = np.argsort(true, axis=1)[:, :depth]
            return np.take_along_axis(true, cells, 1), cells

    real = quantizer_of(centroids)
    exact = neighbours._pairwise
    monkeypatch.setattr(neighbours, "_pairwise", lambda quantizer, rows, cells: exact(real, rows, cells))
    found = nearest_cells(Rough(), queries, 4)
    assert np.array_equal(found[0], expected[0])
    assert np.array_equal(found[1], expected[1])
