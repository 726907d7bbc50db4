"""Pictures and their own rows: told by name and descriptor, never added twice."""

import numpy as np
import pytest

from aindex.errors import DataError
from aindex.index.originals import add_originals, last_rows, own_rows
from aindex.index.reference_index import ReferenceIndex


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)


@pytest.fixture
def index(rows: np.ndarray) -> ReferenceIndex:
    made = ReferenceIndex.train(rows, idx_factory="IVF16,PQ4x4")
    made.add(rows[:200], [f"r{i}" for i in range(200)])
    return made


def test_rows_that_are_there_keep_their_ids(index: ReferenceIndex, rows: np.ndarray) -> None:
    names = ["r7", "new", "r3", "other"]
    given = rows[[7, 250, 3, 251]]
    assert own_rows(index, given, names).tolist() == [7, -1, 3, -1]
    assert add_originals(index, given, names, index.add).tolist() == [7, 200, 3, 201]
    assert add_originals(index, given, names, index.add).tolist() == [7, 200, 3, 201]
    assert index.ntotal == 202
    assert last_rows(index.names, ["other", "absent"]).tolist() == [201, -1]


def test_a_descriptor_that_rounding_moved_into_the_next_cell_is_still_known(
    index: ReferenceIndex, rows: np.ndarray
) -> None:
    nudged = rows[:200] + np.random.default_rng(1).normal(scale=0.1, size=(200, 16)).astype(np.float32)
    cells, before = index.quantiser.cells(nudged), index.quantiser.cells(rows[:200])
    assert (cells != before).any()
    assert own_rows(index, nudged, [f"r{i}" for i in range(200)]).tolist() == list(range(200))


def test_a_name_of_another_picture_is_an_error_and_adds_nothing(
    index: ReferenceIndex, rows: np.ndarray
) -> None:
    far = -10 * rows[5:6]
    assert own_rows(index, far, ["r5"]).tolist() == [-1]
    with pytest.raises(DataError, match="'r5' has the name of another picture"):
        add_originals(index, np.concatenate([rows[250:251], far]), ["new", "r5"], index.add)
    assert index.ntotal == 200
