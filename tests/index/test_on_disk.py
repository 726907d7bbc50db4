import os
import shutil
from collections import namedtuple
from collections.abc import Callable

import numpy as np
import pytest

from aindex.errors import DescriptorError, FaissIndexError, OutputError
from aindex.index.on_disk import build_on_disk, extend_on_disk, remove_on_disk
from aindex.index.reference_index import ReferenceIndex
from aindex.index.rows import Batch

Make = Callable[..., ReferenceIndex]
NAMES = [f"R{i}" for i in range(300)]


def batches(rows, size=70, start=0):
    for i in range(0, len(rows), size):
        yield Batch(rows[i : i + size], [f"R{start + i + j}" for j in range(len(rows[i : i + size]))])


@pytest.mark.parametrize("idx_factory", ["IVF8,PQ4x4", "OPQ4_8,IVF8,PQ4x4", "IVF8,Flat", "PCA8,IVF8,SQ8"])
def test_lists_on_disk_find_the_same(
    tmp_path, make_index: Make, filled_index: Make, reference_rows, query_rows, idx_factory: str, monkeypatch
) -> None:
    monkeypatch.setattr("aindex.index.on_disk.PART_ROWS", 64)
    memory = filled_index(idx_factory, nprobe=4)
    built = build_on_disk(make_index(idx_factory, nprobe=4), batches(reference_rows[:200]), tmp_path / "i")
    assert built.ntotal == 200
    extended = extend_on_disk(tmp_path / "i", batches(reference_rows[200:], start=200))
    shutil.move(tmp_path / "i", tmp_path / "moved")
    for index in (extended, ReferenceIndex.open(tmp_path / "moved")):
        for found, expected in zip(index.search(query_rows, 20), memory.search(query_rows, 20), strict=True):
            assert np.array_equal(found, expected)
        assert list(index.names) == NAMES
    assert sorted(name.split(".")[0] for name in os.listdir(tmp_path / "moved")) == [
        "index",
        "index",
        "lists",
        "names",
    ]


def test_it_is_added_to_on_disk_only(tmp_path, make_index: Make, reference_rows, query_rows) -> None:
    index = build_on_disk(make_index(), batches(reference_rows), tmp_path / "i")
    with pytest.raises(FaissIndexError, match="extend_on_disk"):
        index.add(query_rows, ["x"] * 30)
    with pytest.raises(FaissIndexError, match="copy the folder"):
        index.save(tmp_path / "other")
    index.calibration = {"threshold": 0.5}
    index.save(tmp_path / "i")
    assert extend_on_disk(tmp_path / "i", []).calibration == {"threshold": 0.5}
    with pytest.raises(OutputError, match="already"):
        build_on_disk(make_index(), batches(reference_rows), tmp_path / "i")
    assert ReferenceIndex.open(tmp_path / "i").ntotal == 300


def test_an_index_on_the_disk_may_be_emptied_and_filled_again(
    tmp_path, make_index: Make, reference_rows, query_rows
) -> None:
    build_on_disk(make_index(), batches(reference_rows), tmp_path / "i")
    emptied = remove_on_disk(tmp_path / "i", np.arange(300))
    assert (emptied.pictures, emptied.is_on_disk) == (0, True)
    with pytest.raises(FaissIndexError, match="add rows"):
        emptied.search(query_rows, 2)
    again = extend_on_disk(tmp_path / "i", batches(reference_rows))
    assert again.search(reference_rows, 1)[0].shape == (300, 1)
    assert build_on_disk(make_index(), [], tmp_path / "none").pictures == 0


def test_what_cannot_stay_on_disk(tmp_path, make_index: Make, filled_index: Make, reference_rows) -> None:
    for idx_factory in ("Flat", "IVF8,PQ4x4fs", "PCA8,LSH"):
        with pytest.raises(FaissIndexError, match="cannot keep its inverted lists"):
            build_on_disk(make_index(idx_factory), batches(reference_rows), tmp_path / "i")
    with pytest.raises(FaissIndexError, match="expected an empty one"):
        build_on_disk(filled_index(), [], tmp_path / "i")
    filled_index().save(tmp_path / "memory")
    with pytest.raises(FaissIndexError, match="no lists on the disk"):
        extend_on_disk(tmp_path / "memory", [])
    assert not (tmp_path / "i").exists()


def test_a_failure_leaves_nothing(tmp_path, make_index: Make, reference_rows, monkeypatch) -> None:
    broken = reference_rows.copy()
    broken[250] = np.nan
    monkeypatch.setattr("aindex.index.on_disk.PART_ROWS", 64)
    with pytest.raises(DescriptorError, match="NaN"):
        build_on_disk(make_index(), batches(broken), tmp_path / "i")
    assert not (tmp_path / "i").exists()
    build_on_disk(make_index(), batches(reference_rows), tmp_path / "i")
    before = sorted(os.listdir(tmp_path / "i"))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 90, 10))
    with pytest.raises(OutputError, match="do not fit"):
        extend_on_disk(tmp_path / "i", batches(reference_rows, start=300))
    assert sorted(os.listdir(tmp_path / "i")) == before
    assert ReferenceIndex.open(tmp_path / "i").ntotal == 300


def test_what_a_killed_build_left_is_removed(tmp_path, make_index: Make, reference_rows) -> None:
    build_on_disk(make_index(), batches(reference_rows), tmp_path / "i")
    (tmp_path / "i" / ".building-00ff00ff00ff").mkdir()
    (tmp_path / "i" / ".building-00ff00ff00ff" / "0.faiss").write_bytes(b"x")
    (tmp_path / "i" / "lists.00ff00ff00ff.ivfdata").write_bytes(b"x")
    extend_on_disk(tmp_path / "i", batches(reference_rows, start=300))
    assert len(os.listdir(tmp_path / "i")) == 4


def test_truncated_lists(tmp_path, make_index: Make, reference_rows) -> None:
    build_on_disk(make_index(), batches(reference_rows), tmp_path / "i")
    path = next((tmp_path / "i").glob("lists.*"))
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(FaissIndexError, match="truncated"):
        ReferenceIndex.open(tmp_path / "i")
    path.unlink()
    with pytest.raises(FaissIndexError, match="lacks the file 'lists"):
        ReferenceIndex.open(tmp_path / "i")
