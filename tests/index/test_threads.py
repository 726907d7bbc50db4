"""One index in many threads, one folder in several processes at once."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from aindex.errors import OutputError
from aindex.index import folder as folders
from aindex.index.reference_index import ReferenceIndex
from tests.index.conftest import unit_rows

Make = Callable[..., ReferenceIndex]


def test_added_rows_have_their_own_ids(filled_index: Make) -> None:
    index = filled_index()
    before = index.ntotal

    def add(number: int) -> tuple[int, list[int]]:
        return number, index.add(unit_rows(5, 100 + number), [f"{number}/{i}" for i in range(5)]).tolist()

    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(add, range(40)))
    assert sorted(row for _, rows in added for row in rows) == list(range(before, before + 200))
    for number, rows in added:
        assert [index.names[row] for row in rows] == [f"{number}/{i}" for i in range(5)]


def test_a_search_with_another_nprobe_changes_nothing_for_others(
    filled_index: Make, query_rows, tmp_path: Path
) -> None:
    index = filled_index(nprobe=2)
    expected = {n: index.search(query_rows, 5, n)[1] for n in (1, 2, 8)}
    stop = threading.Event()

    def search(nprobe: int) -> bool:
        same = True
        while not stop.is_set():
            same &= np.array_equal(index.search(query_rows, 5, nprobe)[1], expected[nprobe])
        return same

    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(search, nprobe) for nprobe in (1, 8, 2)]
        for number in range(20):
            assert index.nprobe == 2
            index.save(tmp_path / str(number))
        stop.set()
    assert all(one.result() for one in found)
    stored = {folders.read_state(tmp_path / str(n)).description.nprobe for n in range(20)}
    assert stored == {2}


def test_a_relative_folder_is_the_same_elsewhere(
    filled_index: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    filled_index().save("mine")
    index = ReferenceIndex.open("mine")
    monkeypatch.chdir("elsewhere")
    index.save("mine")
    assert ReferenceIndex.open("mine").ntotal == ReferenceIndex.open(tmp_path / "mine").ntotal == index.ntotal


def test_readers_find_a_whole_index_while_it_is_replaced(filled_index: Make, tmp_path: Path) -> None:
    filled_index().save(tmp_path / "index")
    stop = threading.Event()

    def replace() -> None:
        index = ReferenceIndex.open(tmp_path / "index")
        while not stop.is_set():
            index.add(unit_rows(1, index.ntotal), [f"new {index.ntotal}"])
            index.save(tmp_path / "index")

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        for number in range(60):
            opened = ReferenceIndex.open(tmp_path / "index", read_only=number % 2 == 0)
            assert opened.ntotal == len(opened.names) >= 300
    finally:
        stop.set()
        writer.join()


def test_a_change_between_parsing_and_saving_is_noticed(
    filled_index: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one right after the description was read, which a second look at the file would take for its own."""
    filled_index().save(tmp_path / "index")
    other = ReferenceIndex.open(tmp_path / "index")
    other.add(unit_rows(1, 9), ["of another process"])
    parse = folders.Description.from_yaml

    def replaced_meanwhile(data: bytes, path: Path) -> folders.Description:
        if other._unsaved:
            other.save(tmp_path / "index")
        return parse(data, path)

    monkeypatch.setattr(folders.Description, "from_yaml", replaced_meanwhile)
    opened = ReferenceIndex.open(tmp_path / "index")
    opened.add(unit_rows(1, 10), ["mine"])
    with suppress(OutputError):
        opened.save(tmp_path / "index")
    assert "of another process" in ReferenceIndex.open(tmp_path / "index").names
