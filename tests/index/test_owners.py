"""Several rows per picture, one answer: against brute force over the rows."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aindex.errors import DescriptorError, FaissIndexError
from aindex.index.neighbours import by_distance_then_id, nearest
from aindex.index.on_disk import build_on_disk, extend_on_disk, remove_on_disk
from aindex.index.owners import Owners
from aindex.index.reference_index import ReferenceIndex
from aindex.index.rows import Batch

FACTORIES = ["Flat", "IVF8,Flat", "IVF8,PQ4x4", "OPQ4_8,PQ4x4", "PCA8,LSH", "OPQ4_16,IVF8,PQ4x4", "IVF8,SQ8"]
Make = Callable[..., Any]


def counts_for(rows: int) -> list[int]:
    """Numbers of rows of pictures that have `rows` together: 1, 2, 3, 4, 1, 2, …"""
    counts: list[int] = []
    while sum(counts) < rows:
        counts.append(min(1 + len(counts) % 4, rows - sum(counts)))
    return counts


@pytest.fixture(params=FACTORIES)
def index(request: pytest.FixtureRequest, trained_index: Make) -> ReferenceIndex:
    return ReferenceIndex(trained_index(request.param), idx_factory=request.param)


def names_for(counts: list[int]) -> list[str]:
    return [f"picture {i}" for i in range(len(counts))]


def brute_force(
    index: ReferenceIndex, queries: np.ndarray, owners: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """All rows of each query in the visited cells; the nearest of each picture; by distance, then number."""
    order = partial(by_distance_then_id, k=index.ntotal, larger=False)
    distances, rows = nearest(index.faiss_index, queries, index.ntotal, order)
    found_distances, found = np.full((len(queries), k), np.nan), np.full((len(queries), k), -1)
    for q in range(len(queries)):
        best: dict[int, float] = {}
        for distance, row in zip(distances[q], rows[q], strict=True):
            if row >= 0:
                picture = int(owners[row])
                best[picture] = min(best.get(picture, np.inf), float(distance))
        ranked = sorted((distance, picture) for picture, distance in best.items())[:k]
        for place, (distance, picture) in enumerate(ranked):
            found_distances[q, place], found[q, place] = distance, picture
    return found_distances, found


@pytest.mark.parametrize("k", [1, 3, 40])
def test_pictures_are_found_as_brute_force_finds_them(
    index: ReferenceIndex, reference_rows: np.ndarray, query_rows: np.ndarray, k: int
) -> None:
    counts = counts_for(len(reference_rows))  # 40 rows are there twice: ties between pictures and within
    ids = index.add(reference_rows, names_for(counts), counts)
    assert ids.tolist() == list(range(len(counts)))
    assert (index.pictures, index.ntotal) == (len(counts), len(reference_rows))
    owners = np.repeat(np.arange(len(counts)), counts)
    queries = np.concatenate([query_rows, reference_rows[:20]])
    for nprobe in (None, 4) if index.quantiser.cell_count else (None,):
        distances, found = index.search(queries, k, nprobe)
        usual = index.nprobe
        index.nprobe = nprobe or usual
        expected_distances, expected = brute_force(index, queries, owners, k)
        index.nprobe = usual
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(distances[found >= 0], expected_distances[found >= 0])


def test_one_row_each_is_what_it_was(
    trained_index: Make, reference_rows: np.ndarray, query_rows: np.ndarray
) -> None:
    plain, counted = (ReferenceIndex(trained_index("IVF8,PQ4x4"), idx_factory="IVF8,PQ4x4") for _ in range(2))
    names = [f"R{i}" for i in range(len(reference_rows))]
    plain.add(reference_rows, names)
    counted.add(reference_rows, names, [1] * len(names))
    assert counted.owners.is_one_to_one
    for a, b in zip(plain.search(query_rows, 7), counted.search(query_rows, 7), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_folder_keeps_the_owners(
    index: ReferenceIndex, reference_rows: np.ndarray, query_rows: np.ndarray, tmp_path: Path
) -> None:
    index.add(reference_rows[:50], [f"old {i}" for i in range(50)])
    index.save(tmp_path / "index")
    assert "owners" not in {path.name.split(".")[0] for path in (tmp_path / "index").iterdir()}
    assert "format_version: 1\n" in (tmp_path / "index" / "index.yaml").read_text()
    counts = counts_for(100)
    index.add(reference_rows[50:150], names_for(counts), counts)
    index.save(tmp_path / "index")
    assert "format_version: 2\n" in (tmp_path / "index" / "index.yaml").read_text()
    for read_only in (False, True):
        opened = ReferenceIndex.open(tmp_path / "index", read_only=read_only)
        assert (opened.pictures, opened.ntotal) == (50 + len(counts), 150)
        assert opened.names[49:52] == ["old 49", "picture 0", "picture 1"]
        for a, b in zip(index.search(query_rows, 9), opened.search(query_rows, 9), strict=True):
            np.testing.assert_array_equal(a, b)
    info = opened.info()
    assert (info["pictures"], info["rows"], info["bytes"]["owners"]) == (
        opened.pictures,
        150,
        opened.pictures,
    )
    assert info["bytes_per_picture"] > 0


def test_damaged_owners_are_noticed(trained_index: Make, reference_rows: np.ndarray, tmp_path: Path) -> None:
    index = ReferenceIndex(trained_index("IVF8,Flat"), idx_factory="IVF8,Flat")
    index.add(reference_rows[:10], names_for([4, 3, 3]), [4, 3, 3])
    index.save(tmp_path / "index")
    (path,) = (tmp_path / "index").glob("owners.*")
    path.write_bytes(bytes([4, 3, 2]))
    with pytest.raises(FaissIndexError, match="SHA-256"):
        ReferenceIndex.open(tmp_path / "index")
    with pytest.raises(FaissIndexError, match="3 names of 9 rows for 10 rows"):
        ReferenceIndex.open(tmp_path / "index", verify=False)
    path.write_bytes(bytes([4, 3]))
    with pytest.raises(FaissIndexError, match="2 bytes, expected 3"):
        ReferenceIndex.open(tmp_path / "index", verify=False)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([2, 2], "4 descriptors for 3 rows|5 descriptors for 4 rows"),
        ([2, 3, 1], "3 numbers of rows for 2 pictures"),
        ([0, 5], "0 rows of a picture: expected 1 to 255"),
        ([300, 5], "300 rows of a picture"),
    ],
)
def test_wrong_counts_change_nothing(
    trained_index: Make, reference_rows: np.ndarray, counts: list[int], said: str
) -> None:
    index = ReferenceIndex(trained_index("Flat"), idx_factory="Flat")
    with pytest.raises(DescriptorError, match=said):
        index.add(reference_rows[:5], ["a", "b"], counts)
    assert (index.pictures, index.ntotal, len(index.names)) == (0, 0, 0)


@pytest.mark.parametrize("several", [False, True])
def test_removed_pictures_are_gone_with_all_their_rows(
    index: ReferenceIndex, reference_rows: np.ndarray, query_rows: np.ndarray, several: bool, tmp_path: Path
) -> None:
    counts = counts_for(len(reference_rows)) if several else [1] * len(reference_rows)
    names = names_for(counts)
    index.add(reference_rows, names, counts)
    removed = [0, 3, 4, 17, len(counts) - 1]
    index.remove(np.array(removed))
    kept = [i for i in range(len(counts)) if i not in removed]
    fresh = index.empty_copy()
    owners = np.repeat(np.arange(len(counts)), counts)
    rows = reference_rows[np.isin(owners, kept)]
    fresh.add(rows, [names[i] for i in kept], [counts[i] for i in kept])
    assert list(index.names) == list(fresh.names)
    assert (index.pictures, index.ntotal) == (fresh.pictures, fresh.ntotal)
    for a, b in zip(index.search(query_rows, 12), fresh.search(query_rows, 12), strict=True):
        np.testing.assert_array_equal(a, b)
    index.save(tmp_path / "index")
    opened = ReferenceIndex.open(tmp_path / "index")
    opened.add(query_rows[:3], ["new"], [3])  # numbers go on without a gap
    fresh.add(query_rows[:3], ["new"], [3])
    for a, b in zip(opened.search(query_rows, 5), fresh.search(query_rows, 5), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_cannot_be_removed_says_so(trained_index: Make, reference_rows: np.ndarray) -> None:
    index = ReferenceIndex(trained_index("HNSW8"), idx_factory="HNSW8")
    index.add(reference_rows[:20], [f"R{i}" for i in range(20)])
    with pytest.raises(FaissIndexError, match=r"cannot be removed.*build it again"):
        index.remove(np.array([2]))
    with pytest.raises(FaissIndexError, match="expected 0 to 19"):
        index.remove(np.array([20]))
    assert index.pictures == 20


def test_stored_rows_are_what_was_added(trained_index: Make, reference_rows: np.ndarray) -> None:
    index = ReferenceIndex(trained_index("IVF8,Flat"), idx_factory="IVF8,Flat")
    index.add(reference_rows[:10], names_for([4, 3, 3]), [4, 3, 3])
    rows = index.stored_rows(np.array([2, 0]))
    np.testing.assert_array_equal(rows[0], reference_rows[7:10])
    np.testing.assert_array_equal(rows[1], reference_rows[:4])
    index.add(reference_rows[10:12], ["one", "other"])  # still possible


def test_lists_on_the_disk(
    trained_index: Make, reference_rows: np.ndarray, query_rows: np.ndarray, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("aindex.index.on_disk.PART_ROWS", 60)

    def made() -> ReferenceIndex:
        return ReferenceIndex(trained_index("IVF8,PQ4x4"), idx_factory="IVF8,PQ4x4")

    counts, more = counts_for(200), counts_for(100)
    whole = made()
    whole.add(reference_rows[:200], names_for(counts), counts)
    build_on_disk(made(), [Batch(reference_rows[:200], names_for(counts), counts)], tmp_path / "d")
    whole.add(reference_rows[200:], [f"more {i}" for i in range(len(more))], more)
    extended = extend_on_disk(
        tmp_path / "d", [Batch(reference_rows[200:], [f"more {i}" for i in range(len(more))], more)]
    )
    removed = np.array([1, 5, 60, len(counts) + 3])
    whole.remove(removed)
    for stored in (remove_on_disk(tmp_path / "d", removed), ReferenceIndex.open(tmp_path / "d")):
        assert (stored.pictures, stored.ntotal) == (whole.pictures, whole.ntotal)
        assert list(stored.names) == list(whole.names)
        for a, b in zip(whole.search(query_rows, 15), stored.search(query_rows, 15), strict=True):
            np.testing.assert_array_equal(a, b)
    assert extended.pictures == len(counts) + len(more)


def test_an_interrupted_removal_on_the_disk_leaves_the_old_index(
    trained_index: Make, reference_rows: np.ndarray, query_rows: np.ndarray, tmp_path: Path, monkeypatch: Any
) -> None:
    index = ReferenceIndex(trained_index("IVF8,PQ4x4"), idx_factory="IVF8,PQ4x4")
    build_on_disk(index, [Batch(reference_rows[:50], [f"R{i}" for i in range(50)])], tmp_path / "d")
    before = ReferenceIndex.open(tmp_path / "d").search(query_rows, 5)

    def killed(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("aindex.index.folder.write_files", killed)
    with pytest.raises(KeyboardInterrupt):
        remove_on_disk(tmp_path / "d", np.array([3]))
    monkeypatch.undo()
    after = ReferenceIndex.open(tmp_path / "d")
    assert after.pictures == 50
    np.testing.assert_array_equal(after.search(query_rows, 5)[1], before[1])


def test_owners_by_hand() -> None:
    owners = Owners(3, bytes([2, 1, 3]))
    assert (owners.rows, owners.most) == (6, 3)
    assert owners.of_rows(np.array([[0, 1, 2, 3, 5, -1]])).tolist() == [[0, 0, 1, 2, 2, -1]]
    assert [rows.tolist() for rows in owners.rows_of(np.array([2, 0]))] == [[3, 4, 5], [0, 1]]
    distances = np.array([[0.1, 0.2, 0.3, 0.4, 9.0, 9.0]], np.float32)
    found = owners.nearest_pictures(distances, np.array([[1, 4, 0, 5, -1, -1]]), 2, False)
    assert found[1].tolist() == [[0, 2]]
    assert found[0][0].tolist() == pytest.approx([0.1, 0.2])
    # one picture is all that there is
    alone = owners.nearest_pictures(distances, np.array([[1, 0, -1, -1, -1, -1]]), 2, False)
    assert alone[1].tolist() == [[0, -1]]
    assert alone[0][0].tolist() == pytest.approx([0.1, 9.0])
    assert owners.without(np.array([0])).to_bytes() == bytes([1, 3])
    assert owners.without(np.array([0, 2])).is_one_to_one


def test_a_row_that_no_picture_has_is_no_other_picture() -> None:
    with pytest.raises(IndexError):
        Owners(2, bytes([2, 1])).of_rows(np.array([[0, 7]]))


@pytest.mark.parametrize("together", [1, 12, 40, 10**6])
@pytest.mark.parametrize(("pictures", "columns"), [(50, 12), (5 * 10**6, 600)])
def test_how_many_queries_are_treated_at_a_time_changes_nothing(
    pictures: int, columns: int, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a picture's number and a place are more than 31 bits together."""
    monkeypatch.setattr("aindex.index.owners._TOGETHER", together)
    rng = np.random.default_rng(0)
    index = Owners(pictures, np.full(pictures, 3, np.uint8))
    rows = np.stack([3 * pictures - 1 - rng.permutation(3 * min(pictures, 250))[:columns] for _ in range(23)])
    distances = np.sort(rng.random((23, columns), dtype=np.float32), axis=1)
    found_distances, found = index.nearest_pictures(distances, rows, 4, False)
    for query in range(23):
        nearest_ones = list(dict.fromkeys((rows[query] // 3).tolist()))[:4]
        assert found[query].tolist() == nearest_ones
        places = [int(np.flatnonzero(rows[query] // 3 == picture)[0]) for picture in nearest_ones]
        assert np.array_equal(found_distances[query], distances[query, places])
