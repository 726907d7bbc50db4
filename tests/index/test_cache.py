import os
from types import SimpleNamespace

import numpy as np
import pytest

from aindex.errors import FaissIndexError
from aindex.index.cache import hash_descriptors, train_cached

SETTINGS = {"idx_factory": "IVF8,PQ4x4", "metric": "L2", "seed": 0}


def extractor(fingerprint: str = "ab", input_size: int = 32) -> SimpleNamespace:
    return SimpleNamespace(name="tiny", fingerprint=fingerprint * 32, input_size=input_size, dim=16)


def test_the_same_is_trained_once(tmp_path, training_rows, query_rows) -> None:
    first, found = train_cached(tmp_path, training_rows, **SETTINGS, extractor=extractor(), nprobe=1)
    assert not found
    again, found = train_cached(tmp_path, training_rows.copy(), **SETTINGS, extractor=extractor(), nprobe=4)
    assert found
    assert again.nprobe == 4
    assert again.ntotal == 0
    assert np.array_equal(first.quantiser.targets(query_rows), again.quantiser.targets(query_rows))
    assert len(os.listdir(tmp_path)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"idx_factory": "IVF8,SQ8"},
        {"metric": "IP"},
        {"seed": 1},
        {"extractor": extractor("cd")},
        {"extractor": extractor(input_size=64)},
        {"extractor": None},
    ],
)
def test_nothing_stale_is_used(tmp_path, training_rows, change: dict) -> None:
    train_cached(tmp_path, training_rows, **SETTINGS, extractor=extractor())
    index, found = train_cached(tmp_path, training_rows, **({**SETTINGS, "extractor": extractor()} | change))
    assert not found
    assert len(os.listdir(tmp_path)) == 2
    assert index.idx_factory == change.get("idx_factory", "IVF8,PQ4x4")


def test_other_descriptors_are_other_indexes(tmp_path, training_rows) -> None:
    train_cached(tmp_path, training_rows, **SETTINGS)
    changed = training_rows.copy()
    changed[599, 15] = np.nextafter(changed[599, 15], np.float32(1))
    for rows in (changed, training_rows[:-1], training_rows[::-1]):
        assert not train_cached(tmp_path, rows, **SETTINGS)[1]


def test_the_hash_of_a_mapped_file(tmp_path, training_rows) -> None:
    np.save(tmp_path / "rows.npy", training_rows)
    assert hash_descriptors(np.load(tmp_path / "rows.npy", mmap_mode="r")) == hash_descriptors(training_rows)
    assert hash_descriptors(training_rows.reshape(300, 32)) != hash_descriptors(training_rows)


def test_a_damaged_cache_is_said(tmp_path, training_rows) -> None:
    train_cached(tmp_path, training_rows, **SETTINGS)
    stored = next(tmp_path.glob("*/index.*.faiss"))
    stored.write_bytes(stored.read_bytes()[:-1])
    with pytest.raises(FaissIndexError, match=r"cached index is not usable.*remove"):
        train_cached(tmp_path, training_rows, **SETTINGS)
