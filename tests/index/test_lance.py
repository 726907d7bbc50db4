"""Lance datasets: an index given and taken back, bit by bit; searches; what others do to a dataset; other datasets."""

import shutil
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import lance
import numpy as np
import pyarrow as pa
import pytest

from aindex.errors import DescriptorError, FaissIndexError, OutputError
from aindex.index.comparing import quantiser_difference
from aindex.index.lance_dataset import empty_faiss_index, open_index
from aindex.index.lance_export import COLUMN, INDEX_NAME, export_to_lance, index_arguments, trained_part
from aindex.index.lance_rows import fill_from_lance, row_addresses, unindexed_rows
from aindex.index.lance_search import LanceReferenceIndex
from aindex.index.lists import cells_and_codes
from aindex.index.reference_index import ReferenceIndex
from aindex.index.structure import take_apart
from tests.index.conftest import DIM, Rows, unit_rows

FACTORIES = ["IVF8,PQ4x8", "IVF8,PQ4x4", "IVF8,Flat"]
ROWS, QUERIES = 5000, 1000


@pytest.fixture(scope="module")
def filled() -> Callable[[str], ReferenceIndex]:
    """An index of 5,000 rows, trained on others."""
    made: dict[str, ReferenceIndex] = {}

    def make(idx_factory: str) -> ReferenceIndex:
        if idx_factory not in made:
            made[idx_factory] = ReferenceIndex.train(unit_rows(1200, 1), idx_factory=idx_factory)
            made[idx_factory].add(unit_rows(ROWS, 2), [f"row {i}" for i in range(ROWS)])
        return made[idx_factory]

    return make


@pytest.fixture
def dataset(tmp_path: Path, filled: Callable[[str], ReferenceIndex]) -> Path:
    """The index IVF8,PQ4x8 as a dataset with descriptors."""
    export_to_lance(filled("IVF8,PQ4x8"), tmp_path / "rows.lance", descriptors=unit_rows(ROWS, 2))
    return tmp_path / "rows.lance"


def adopted(path: Path, names: Any = ()) -> ReferenceIndex:
    found = open_index(str(path))
    index = empty_faiss_index(found.trained)
    fill_from_lance(index, found, row_addresses(found)[0])
    names = names or [str(i) for i in range(index.ntotal)]
    return ReferenceIndex(
        index, idx_factory=found.trained.idx_factory, metric=found.trained.faiss_metric, names=names
    )


def stored(index: ReferenceIndex) -> tuple[Any, Any]:
    ivf = take_apart(index.faiss_index).ivf
    return cells_and_codes(ivf, index.ntotal)


@pytest.mark.parametrize("idx_factory", FACTORIES)
def test_given_and_taken_back_it_is_the_same(
    tmp_path: Path, filled: Callable[[str], ReferenceIndex], idx_factory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aindex.index.lance_export._ROWS_PER_FILE", 2000)
    index = filled(idx_factory)
    path = tmp_path / "rows.lance"
    export_to_lance(index, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.lance"]
    opened = lance.dataset(str(path))
    assert [fragment.count_rows() for fragment in opened.get_fragments()] == [2000, 2000, 1000]
    assert opened.to_table(columns=["id", "name"]).slice(4999).to_pylist() == [
        {"id": 4999, "name": "row 4999"}
    ]
    assert opened.to_table(columns=[COLUMN])[COLUMN].null_count == ROWS

    again = adopted(path)
    assert again.idx_factory == idx_factory
    assert quantiser_difference(again.faiss_index, index.faiss_index) is None
    queries = unit_rows(50, 3)
    np.testing.assert_array_equal(again.quantiser.targets(queries), index.quantiser.targets(queries))
    for mine, theirs in zip(stored(again), stored(index), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for mine, theirs in zip(again.search(queries, 10, 2), index.search(queries, 10, 2), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_decoded_rows_would_not_all_lie_in_their_cells(filled: Callable[[str], ReferenceIndex]) -> None:
    """What the export must give Lance beside the decoded rows, or codes would change."""
    index = filled("IVF8,PQ4x4")
    decoded = index.quantiser.stored(unit_rows(ROWS, 2))
    assert (index.quantiser.cells(decoded) != stored(index)[0]).any()


@pytest.mark.parametrize("idx_factory", FACTORIES)
def test_searches_find_the_same_rows_in_the_same_order(
    tmp_path: Path, filled: Callable[[str], ReferenceIndex], idx_factory: str
) -> None:
    index = filled(idx_factory)
    index.save(tmp_path / "index")
    export_to_lance(index, tmp_path / "rows.lance")
    engine = LanceReferenceIndex.open(tmp_path / "index", read_only=True)
    engine.search_in(tmp_path / "rows.lance")
    queries = unit_rows(QUERIES, 4)
    for nprobe in (1, 8):
        distances, ids = index.search(queries, 11, nprobe)
        found_distances, found_ids = engine.search(queries, 10, nprobe)
        np.testing.assert_allclose(found_distances, distances[:, :10], atol=2e-6)
        # rows that are as close as the next ones may change places
        steps = np.diff(distances, axis=1) > 2e-6
        clear = steps & np.concatenate([np.ones((QUERIES, 1), bool), steps[:, :-1]], axis=1)
        assert clear.mean() > 0.5
        np.testing.assert_array_equal(found_ids[clear], ids[:, :10][clear])


def test_fewer_rows_in_the_visited_cells_than_asked_for(
    tmp_path: Path, filled: Callable[[str], ReferenceIndex]
) -> None:
    index = filled("IVF8,PQ4x8").empty_copy()
    index.add(unit_rows(20, 5), [str(i) for i in range(20)])
    index.save(tmp_path / "index")
    export_to_lance(index, tmp_path / "rows.lance")
    engine = LanceReferenceIndex.open(tmp_path / "index")
    engine.search_in(tmp_path / "rows.lance")
    ours, theirs = index.search(unit_rows(9, 6), 20, 1), engine.search(unit_rows(9, 6), 20, 1)
    np.testing.assert_array_equal(ours[1] < 0, theirs[1] < 0)
    assert (ours[1] < 0).any()
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-6)
    assert engine.search(unit_rows(0, 6), 5)[1].shape == (0, 5)
    with pytest.raises(FaissIndexError, match="k 21"):
        engine.search(unit_rows(1, 6), 21)


def test_lance_chooses_the_number_of_cells_where_none_is_given(
    dataset: Path, filled: Callable[[str], ReferenceIndex]
) -> None:
    queries = unit_rows(50, 4)
    expected, _ = filled("IVF8,PQ4x8").search(queries, 10, 1)
    nearest = {"column": COLUMN, "q": queries, "k": 10}

    def distances(**probes: int) -> Rows:
        table = lance.dataset(str(dataset)).to_table(columns=["_distance"], nearest={**nearest, **probes})
        return table["_distance"].to_numpy().reshape(50, 10)

    asked = distances(nprobes=1, minimum_nprobes=1, maximum_nprobes=1)
    np.testing.assert_allclose(asked, expected, atol=2e-6)
    assert not np.allclose(distances(), expected, atol=2e-6)


def bare_dataset(path: Path, index: Any, metric: str, rows: Rows) -> Any:
    """A dataset that Lance indexed by itself, with FAISS's centroids and codebook; its rows in two fragments."""
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), DIM)
    names = pa.array([f"picture {i}" for i in range(len(rows))])
    made = lance.write_dataset(
        pa.table({"name": names, "vector": vectors}), str(path), max_rows_per_file=len(rows) // 2
    )
    coarse = faiss.downcast_index(index.quantizer)
    books = faiss.vector_to_array(index.pq.centroids).reshape(index.pq.M, index.pq.ksub, index.pq.dsub)
    made.create_index(
        "vector",
        "IVF_PQ",
        metric=metric,
        num_partitions=index.nlist,
        num_sub_vectors=index.pq.M,
        ivf_centroids=coarse.reconstruct_n(0, index.nlist),
        pq_codebook=books,
    )
    return lance.dataset(str(path))


@pytest.mark.parametrize("metric", ["l2", "cosine", "dot"])
def test_lances_own_codes_are_those_of_faiss(tmp_path: Path, metric: str) -> None:
    number = faiss.METRIC_INNER_PRODUCT if metric == "dot" else faiss.METRIC_L2
    index = faiss.IndexIVFPQ(faiss.IndexFlat(DIM, number), DIM, 8, 4, 8, number)
    index.by_residual = metric != "dot"
    index.train(unit_rows(1200, 1))
    index.add(unit_rows(ROWS, 2))
    bare_dataset(tmp_path / "rows.lance", index, metric, unit_rows(ROWS, 2))
    again = adopted(tmp_path / "rows.lance")
    assert again.idx_factory == ("L2norm,IVF8,PQ4x8" if metric == "cosine" else "IVF8,PQ4x8")
    for mine, theirs in zip(stored(again), cells_and_codes(index, ROWS), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    queries = unit_rows(20, 3)
    index.nprobe = 3
    for i in range(len(queries)):
        theirs = index.search(queries[i : i + 1], 5)[0]
        np.testing.assert_allclose(again.search(queries[i : i + 1], 5, 3)[0], theirs, atol=1e-6)
    encoded = index.sa_decode(index.sa_encode(queries))
    np.testing.assert_allclose(again.quantiser.targets(queries), encoded, atol=1e-6)
    if metric == "dot":
        export_to_lance(again, tmp_path / "again.lance")
        again.save(tmp_path / "index")
        engine = LanceReferenceIndex.open(tmp_path / "index")
        engine.search_in(tmp_path / "again.lance")
        np.testing.assert_allclose(engine.search(queries, 5, 3)[0], again.search(queries, 5, 3)[0], atol=1e-6)


def test_deleted_and_appended_rows(dataset: Path) -> None:
    opened = lance.dataset(str(dataset))
    opened.delete("id % 10 = 3")
    new = unit_rows(30, 8)
    table = pa.table(
        {
            "id": pa.array(np.arange(ROWS, ROWS + 30)),
            "name": pa.array(["new"] * 30),
            COLUMN: pa.FixedSizeListArray.from_arrays(pa.array(new.ravel()), DIM),
        }
    )
    lance.write_dataset(table, str(dataset), mode="append")
    found = open_index(str(dataset))
    assert unindexed_rows(found) == 30
    index = empty_faiss_index(found.trained)
    addresses, names = row_addresses(found, ("name",))
    encoded = fill_from_lance(index, found, addresses)
    assert index.ntotal == 4530
    assert encoded.tolist() == list(range(4500, 4530))
    assert names["name"].to_pylist()[4499:4501] == ["row 4999", "new"]
    before = cells_and_codes(take_apart(index).ivf, 4530)

    lance.dataset(str(dataset)).optimize.optimize_indices(num_indices_to_merge=1)
    after = adopted(dataset)
    assert unindexed_rows(open_index(str(dataset))) == 0
    for mine, theirs in zip(stored(after), before, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def append_rows(dataset: Path, count: int) -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(unit_rows(count, 9).ravel()), DIM)
    table = pa.table({"id": pa.array(np.arange(count)), "name": pa.array(["new"] * count), COLUMN: vectors})
    lance.write_dataset(table, str(dataset), mode="append")


def test_what_optimising_does_to_the_centroids(
    dataset: Path, filled: Callable[[str], ReferenceIndex]
) -> None:
    mine = filled("IVF8,PQ4x8").faiss_index

    def difference() -> str | None:
        return quantiser_difference(empty_faiss_index(open_index(str(dataset)).trained), mine)

    for segments in (0, 1):
        append_rows(dataset, 50)
        lance.dataset(str(dataset)).optimize.optimize_indices(num_indices_to_merge=segments)
        assert difference() is None
        assert adopted(dataset).ntotal == ROWS + 50 * (segments + 1)
    append_rows(dataset, 50)
    lance.dataset(str(dataset)).optimize.optimize_indices()
    assert difference() is not None, "docs/engines.md says that the default trains anew"


def test_an_export_without_descriptors_takes_new_rows_too(
    tmp_path: Path, filled: Callable[[str], ReferenceIndex]
) -> None:
    export_to_lance(filled("IVF8,PQ4x8"), tmp_path / "rows.lance")
    append_rows(tmp_path / "rows.lance", 50)
    lance.dataset(str(tmp_path / "rows.lance")).optimize.optimize_indices(num_indices_to_merge=1)
    again = adopted(tmp_path / "rows.lance")
    assert again.ntotal == ROWS + 50
    np.testing.assert_array_equal(stored(again)[1][:ROWS], stored(filled("IVF8,PQ4x8"))[1])


def test_segments_of_several_workers(tmp_path: Path, filled: Callable[[str], ReferenceIndex]) -> None:
    index, rows = filled("IVF8,PQ4x8"), unit_rows(ROWS, 2)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), DIM)
    path = str(tmp_path / "rows.lance")
    made = lance.write_dataset(pa.table({COLUMN: vectors}), path, max_rows_per_file=1250)
    arguments = index_arguments(trained_part(index.faiss_index))
    segments = [
        made.create_index_uncommitted(COLUMN, name=INDEX_NAME, fragment_ids=part, **arguments)
        for part in ([0, 1], [2], [3])
    ]
    made.commit_existing_index_segments(INDEX_NAME, COLUMN, segments)
    for mine, theirs in zip(stored(adopted(tmp_path / "rows.lance")), stored(index), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_segments_that_were_trained_apart_are_refused(tmp_path: Path) -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(unit_rows(ROWS, 2).ravel()), DIM)
    path = str(tmp_path / "rows.lance")
    made = lance.write_dataset(pa.table({COLUMN: vectors}), path, max_rows_per_file=2500)
    options = {"index_type": "IVF_PQ", "name": INDEX_NAME, "num_partitions": 4, "num_sub_vectors": 4}
    segments = [made.create_index_uncommitted(COLUMN, fragment_ids=[part], **options) for part in (0, 1)]
    made.commit_existing_index_segments(INDEX_NAME, COLUMN, segments)
    with pytest.raises(FaissIndexError, match="2 segments that were trained apart"):
        open_index(path)


def test_other_datasets_are_one_line(tmp_path: Path, filled: Callable[[str], ReferenceIndex]) -> None:
    path = str(tmp_path / "rows.lance")
    rows = unit_rows(400, 2)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), DIM)
    made = lance.write_dataset(pa.table({"vector": vectors, "other": vectors}), path)

    def refused(words: str, column: str | None = None) -> None:
        with pytest.raises(FaissIndexError, match=words) as raised:
            open_index(path, column)
        assert "\n" not in str(raised.value)

    refused("has no index: expected IVF_PQ or IVF_FLAT")
    made.create_index("vector", "IVF_HNSW_SQ", num_partitions=2)
    refused("has an index of the kind IVF_HNSW_SQ: expected IVF_PQ or IVF_FLAT")
    made = lance.dataset(path)
    made.create_index("vector", "IVF_FLAT", num_partitions=2, replace=True)
    made.create_index("other", "IVF_FLAT", num_partitions=3)
    refused("has 2 vector indexes, over other, vector: expected one; give column")
    refused("no index|over 'third'", "third")
    assert len(open_index(path, "other").trained.centroids) == 3
    shutil.rmtree(path)
    half = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel().astype(np.float16)), DIM)
    lance.write_dataset(pa.table({"vector": half}), path).create_index("vector", "IVF_FLAT", num_partitions=2)
    refused("holds halffloat vectors: expected float32")
    for name in ("absent.lance", ""):
        with pytest.raises(FaissIndexError, match="is no Lance dataset that can be read"):
            open_index(str(tmp_path / name))


def test_a_row_without_a_descriptor_that_is_not_indexed(dataset: Path) -> None:
    table = pa.table(
        {
            "id": pa.array([1]),
            "name": pa.array(["new"]),
            COLUMN: pa.nulls(1, pa.list_(pa.float32(), DIM)),
        }
    )
    lance.write_dataset(table, str(dataset), mode="append")
    with pytest.raises(FaissIndexError, match=r"1 rows of .* are not in its index and have no descriptor"):
        adopted(dataset)


@pytest.mark.parametrize(
    ("idx_factory", "words"),
    [
        ("PQ4x4", "IndexPQ.: expected IVF<cells>"),
        ("IVF8,SQ8", "IndexIVFScalarQuantizer.: expected IVF<cells>"),
        ("OPQ4_8,IVF8,PQ4x4", "no transforms"),
        ("IVF8,PQ4x4,RFlat", "no second index"),
        ("IVF8_HNSW4,PQ4x4", "finds its cells by IndexHNSWFlat"),
        ("IVF8,PQ4x6", "PQ4x6, expected PQ<M>x8"),
    ],
)
def test_what_lance_cannot_store_is_one_line(
    tmp_path: Path, make_index: Callable[..., ReferenceIndex], idx_factory: str, words: str
) -> None:
    index = make_index(idx_factory)
    index.add(unit_rows(20, 2), [str(i) for i in range(20)])
    with pytest.raises(FaissIndexError, match=words) as raised:
        export_to_lance(index, tmp_path / "rows.lance")
    assert "export to faiss" in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_inner_products_of_residuals_are_not_lances(
    tmp_path: Path, make_index: Callable[..., ReferenceIndex]
) -> None:
    index = make_index("IVF8,PQ4x4", metric="IP")
    index.add(unit_rows(20, 2), [str(i) for i in range(20)])
    with pytest.raises(
        FaissIndexError, match="metric dot the codes are those of descriptors, here of residuals"
    ):
        export_to_lance(index, tmp_path / "rows.lance")


def test_nothing_is_half_written(
    tmp_path: Path, filled: Callable[[str], ReferenceIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    index, path = filled("IVF8,PQ4x8"), tmp_path / "rows.lance"
    with pytest.raises(FaissIndexError, match="0 rows in the index"):
        export_to_lance(index.empty_copy(), path)
    with pytest.raises(DescriptorError, match="expected one per row"):
        export_to_lance(index, path, descriptors=unit_rows(7, 0))
    (tmp_path / "thesis").mkdir()
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="holds something else already"):
            export_to_lance(index, tmp_path / "thesis", overwrite=overwrite)
    (tmp_path / "thesis").rmdir()

    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(lance.LanceDataset, "commit_existing_index_segments", full)
        with pytest.raises(FaissIndexError, match="Lance says 'No space left on device"):
            export_to_lance(index, path)
    assert not list(tmp_path.iterdir())

    export_to_lance(index, path)
    with pytest.raises(OutputError, match=r"holds a dataset already.*say overwrite"):
        export_to_lance(index, path)
    before = lance.dataset(str(path)).to_table(columns=["name"])
    export_to_lance(index, path, descriptors=unit_rows(ROWS, 2), overwrite=True)
    assert lance.dataset(str(path)).to_table(columns=["name"]) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.lance"]


def test_a_release_of_lance_that_encodes_otherwise_is_noticed(
    tmp_path: Path, filled: Callable[[str], ReferenceIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    from aindex.index import lance_export

    def others(*_: object) -> Rows:
        return unit_rows(ROWS, 99)

    monkeypatch.setattr(lance_export, "_decoded", others)
    with pytest.raises(FaissIndexError, match="stores other codes in cell"):
        export_to_lance(filled("IVF8,PQ4x8"), tmp_path / "rows.lance")
    assert not list(tmp_path.iterdir())


def test_a_dataset_of_other_rows_is_not_searched(
    tmp_path: Path, dataset: Path, filled: Callable[[str], ReferenceIndex]
) -> None:
    small = filled("IVF8,PQ4x8").empty_copy()
    small.add(unit_rows(20, 5), [str(i) for i in range(20)])
    small.save(tmp_path / "index")
    engine = LanceReferenceIndex.open(tmp_path / "index")
    with pytest.raises(FaissIndexError, match=r"has 5000 rows .* expected 20 rows"):
        engine.search_in(dataset)


def test_a_damaged_dataset_is_one_line(dataset: Path) -> None:
    (path,) = dataset.glob("_indices/*/auxiliary.idx")
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b""):
        path.write_bytes(content)
        with pytest.raises(FaissIndexError, match="cannot be read: Lance says") as raised:
            open_index(str(dataset))
        assert "\n" not in str(raised.value)
    path.write_bytes(whole)
    path.parent.rename(path.parent.with_name(str(uuid.uuid4())))
    with pytest.raises(FaissIndexError, match="cannot be read"):
        open_index(str(dataset))


def test_without_the_extra_one_line_says_what_to_install(
    tmp_path: Path, filled: Callable[[str], ReferenceIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lance", None)
    for action in (
        lambda: open_index(str(tmp_path)),
        lambda: export_to_lance(filled("IVF8,PQ4x8"), tmp_path / "rows.lance"),
    ):
        with pytest.raises(FaissIndexError, match=r"pip install 'aindex\[lance\]'"):
            action()
