"""Rows that hold what an original's own row holds, found by descriptors and by codes, and counted as one with it."""

import numpy as np
import pytest

from aindex.index.reference_index import ReferenceIndex
from aindex.index.twins import TOLERANCE, Twins, twins_by_code, twins_by_descriptor


@pytest.fixture
def rows() -> np.ndarray:
    values = np.random.default_rng(0).standard_normal((400, 16)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_twins_by_descriptor_are_all_equal_rows_but_the_own_one(rows: np.ndarray) -> None:
    rounded = rows[5] + np.float32(0.3 * (TOLERANCE / 16) ** 0.5)  # as bf16 might leave it
    near = rows[6] + np.float32(2 * (TOLERANCE / 16) ** 0.5)  # another picture of the same burst
    references = np.concatenate([rows[:40], rows[[3]], [rounded], [near], rows[[3]]])
    originals = rows[[3, 5, 6, 300, 300]]
    own = np.array([44, 45, 46, 47, 48])
    found = twins_by_descriptor([references, originals], originals, own)
    assert {row: sorted(others) for row, others in found.rows.items()} == {
        44: [3, 40, 43],
        45: [5, 41],
        46: [6],
        47: [48],  # two originals of the same pixels are twins of each other
        48: [47],
    }
    assert found.extra == 3
    assert twins_by_descriptor([rows[:40]], rows[:3], np.arange(3)).rows == {}


def test_twins_by_code(rows: np.ndarray) -> None:
    index = ReferenceIndex.train(rows, idx_factory="IVF8,PQ8x4")
    index.add(rows[:50], [f"r{i}" for i in range(50)])
    index.add(rows[[7, 200, 7]], ["seven", "new", "seven again"])
    found = twins_by_code(index, rows[[7, 200]], np.array([50, 51]))
    assert {row: sorted(others) for row, others in found.rows.items()} == {50: [7, 52]}


def test_an_original_and_its_twins_are_one_row() -> None:
    twins = Twins({9: [2, 4]})
    distances = np.array([[1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5]], np.float32)
    ids = np.array([[2, 7, 9, 4, 8], [7, 9, 2, -1, -1], [2, 7, 9, 4, 8]])
    away, found = twins.as_one(distances, ids, np.array([9, 9, -1]), 3, worst=99)
    assert found.tolist() == [[9, 7, 8], [7, 9, -1], [2, 7, 9]]
    assert away.tolist() == [[1, 2, 5], [1, 2, 4], [1, 2, 3]]
    # fewer rows than asked for: the rest is empty
    away, found = twins.as_one(distances[:1, :4], ids[:1, :4], np.array([9]), 4, worst=99)
    assert found.tolist() == [[9, 7, -1, -1]]
    assert away.tolist() == [[1, 2, 99, 99]]
