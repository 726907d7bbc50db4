import re

import faiss
import numpy as np
import pytest

from aindex.errors import AindexError, DescriptorError, FaissIndexError
from aindex.index import backend
from aindex.index.factory import (
    get_nprobe,
    make_index,
    rows_needed,
    rows_wanted,
    set_nprobe,
    train_quantiser,
    training_sample,
)
from aindex.index.structure import take_apart


@pytest.mark.parametrize(
    ("idx_factory", "expected"),
    [
        ("Nonsense", "cannot be parsed"),
        ("IVF4x,Flat", "cannot be parsed"),
        ("", "cannot be parsed|not possible"),
        ("IVF99999999999999,Flat", "cannot be parsed"),
        ("IVF8", re.escape("'IVF8,Flat'")),
        ("PQ7", "dimension 16 is not a multiple.*1, 2, 4, 8, 16"),
        ("IVF8,PQ5x4", "dimension 16 is not a multiple"),
        ("OPQ4_8,PQ3x4", "dimension 8 is not a multiple"),
        ("OPQ5_8,PQ4x4", "dimension 8 is not a multiple"),
        ("PCA32,Flat", "32 of 16 dimensions"),
        ("IVF0,Flat", "number 0"),
        ("HNSW0", "number 0"),
        ("PQ4x60", "nbits"),
        ("IDMap,Flat", "IDMap"),
        ("Residual8,PQ4x4", "cannot search"),
    ],
)
def test_impossible_factories_are_one_line_errors(idx_factory: str, expected: str) -> None:
    with pytest.raises(FaissIndexError, match=expected) as caught:
        make_index(16, idx_factory)
    assert "\n" not in str(caught.value)
    assert ".cpp" not in str(caught.value)


def test_lsh_takes_l2_only() -> None:
    with pytest.raises(FaissIndexError, match="metric 'L2' only"):
        make_index(16, "PCA8,LSH", "IP")
    with pytest.raises(FaissIndexError, match="expected 'L2' or 'IP'"):
        make_index(16, "Flat", "cosine")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("idx_factory", "needed"),
    [
        ("Flat", 1),
        ("IVF8,Flat", 8),
        ("IVF8,PQ4x4", 16),
        ("PCA8,LSH", 8),
        ("OPQ4_8,PQ4x4", 256),
        ("RQ2x5", 32),
    ],
)
def test_needed_rows_are_what_faiss_needs(training_rows, idx_factory: str, needed: int) -> None:
    assert rows_needed(take_apart(make_index(16, idx_factory))) == needed
    assert train_quantiser(training_rows[:needed], idx_factory).is_trained
    if needed > 1:
        with pytest.raises(FaissIndexError, match=f"{needed - 1} training descriptors.*at least {needed}"):
            train_quantiser(training_rows[: needed - 1], idx_factory)


def test_few_rows_train_with_one_warning(training_rows) -> None:
    with pytest.warns(UserWarning, match="FAISS recommends 624"):
        train_quantiser(training_rows[:100], "IVF8,PQ4x4")


def test_bad_training_rows(training_rows) -> None:
    broken = training_rows.copy()
    broken[77, 3] = np.nan
    with pytest.raises(DescriptorError, match="row 77"):
        train_quantiser(broken, "IVF8,PQ4x4")
    with pytest.raises(DescriptorError):
        train_quantiser(training_rows[0], "IVF8,PQ4x4")


@pytest.mark.parametrize("idx_factory", ["IVF8,PQ4x4", "OPQ2_8,PQ2x4", "PCA8,LSH"])
def test_training_is_seeded(training_rows, idx_factory: str) -> None:
    first, same, other = (
        faiss.serialize_index(train_quantiser(training_rows, idx_factory, seed=seed)) for seed in (0, 0, 1)
    )
    assert np.array_equal(first, same)
    if "IVF" in idx_factory:
        assert not np.array_equal(first, other)


def test_sample_of_a_mapped_file(tmp_path, training_rows) -> None:
    np.save(tmp_path / "rows.npy", training_rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    sample = training_sample(mapped, 50, seed=3)
    assert sample.shape == (50, 16)
    assert not isinstance(sample, np.memmap)
    assert np.array_equal(sample, training_sample(mapped, 50, seed=3))
    assert not np.array_equal(sample, training_sample(mapped, 50, seed=4))
    assert len(np.unique(sample, axis=0)) == 50
    assert training_sample(mapped, 600, seed=3) is mapped


def test_wanted_rows_follow_the_largest_codebook() -> None:
    assert rows_wanted(take_apart(make_index(16, "IVF1024,Flat"))) == 256 * 1024
    assert rows_wanted(take_apart(make_index(16, "IVF8,PQ4x4"))) == 65_536


@pytest.mark.parametrize("prefix", ["", "OPQ4_8,", "PCA8,"])
def test_nprobe_is_set_through_transforms(trained_index, prefix: str) -> None:
    index = trained_index(f"{prefix}IVF8,PQ4x4")
    set_nprobe(index, 5)
    assert get_nprobe(index) == faiss.extract_index_ivf(index).nprobe == 5
    for wrong in (0, 9):
        with pytest.raises(FaissIndexError, match="expected 1 to 8"):
            set_nprobe(index, wrong)


def test_nprobe_without_cells() -> None:
    index = make_index(16, "Flat")
    set_nprobe(index, 1)
    assert get_nprobe(index) == 1
    with pytest.raises(FaissIndexError, match="no cells"):
        set_nprobe(index, 2)


def test_missing_faiss_names_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(AindexError, match=r"aindex\[cpu\].*aindex\[gpu\]"):
        backend.import_faiss()
