"""Indexes that bare FAISS made, and models in OpenSearch's form: taken over as they are, or refused in one line."""

import base64
import json
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from aindex.errors import FaissIndexError
from aindex.index.foreign import read_faiss_file, read_opensearch_model
from aindex.index.quantiser import Quantiser
from aindex.index.reference_index import ReferenceIndex
from aindex.seeding import derive_seed
from tests.index.conftest import DIM, Rows


def bare(idx_factory: str, training: Rows, metric: int = faiss.METRIC_L2) -> Any:
    index = faiss.index_factory(DIM, idx_factory, metric)
    index.train(training)
    return index


def written(index: Any, path: Path) -> Path:
    faiss.write_index(index, str(path))
    return path


@pytest.mark.parametrize(
    ("idx_factory", "named"),
    [
        ("IVF8,PQ4x4", "IVF8,PQ4x4"),
        ("IVF8_HNSW4,PQ4x4", "IVF8_HNSW4,PQ4x4"),
        ("OPQ4_8,IVF8,PQ4x4", "LinearTransform8,IVF8,PQ4x4"),
        ("L2norm,IVF8,PQ4x4", "L2norm,IVF8,PQ4x4"),
        ("IVF8,Flat", "IVF8,Flat"),
        ("PQ4x4", "PQ4x4"),
        ("PCA8,LSH", "PCA8,LSH"),
    ],
)
def test_a_plain_file_is_taken_as_it_is(
    tmp_path: Path, training_rows: Rows, reference_rows: Rows, query_rows: Rows, idx_factory: str, named: str
) -> None:
    index = bare(idx_factory, training_rows)
    index.add(reference_rows)
    path = written(index, tmp_path / "index.faiss")
    found = read_faiss_file(path)
    assert (found.file, found.idx_factory, found.metric) == (path, named, "L2")
    assert found.ids.tolist() == list(range(300))
    np.testing.assert_array_equal(
        Quantiser(found.index).targets(query_rows), Quantiser(index).targets(query_rows)
    )


@pytest.mark.parametrize(
    "idx_factory",
    ["IDMap,IVF8,PQ4x4", "IDMap2,OPQ4_8,IVF8,PQ4x4", "PCA8,IDMap,PQ4x4", "IDMap,PQ4x4", "IVF8,PQ4x4"],
)
def test_ids_of_all_kinds_become_positions(
    tmp_path: Path, training_rows: Rows, reference_rows: Rows, query_rows: Rows, idx_factory: str
) -> None:
    index = bare(idx_factory, training_rows)
    ids = np.random.default_rng(4).permutation(1000)[:300].astype(np.int64) * 7
    index.add_with_ids(reference_rows, ids)
    found = read_faiss_file(written(index, tmp_path / "index.faiss"))
    assert found.file is None
    assert sorted(found.ids.tolist()) == sorted(ids.tolist())
    opened = ReferenceIndex(
        found.index, idx_factory=found.idx_factory, names=[str(i) for i in found.ids.tolist()]
    )
    distances, rows = opened.search(query_rows, 5)
    expected, known = index.search(query_rows, 5)
    # bare FAISS transforms a batch by one product, which rounds otherwise than row by row
    np.testing.assert_allclose(distances, expected, atol=1e-6)
    vectors = {int(i): row for i, row in zip(ids, reference_rows, strict=True)}
    for position, id_, distance in zip(rows.ravel(), known.ravel(), expected.ravel(), strict=True):
        name = -1 if position < 0 else int(opened.names[int(position)])
        # the same row, its double (forty are there twice), or one with the same code
        assert (
            name == id_
            or np.array_equal(vectors[name], vectors[int(id_)])
            or (expected == distance).sum() > 1
        )


def test_gaps_and_equal_ids_in_the_lists(tmp_path: Path, training_rows: Rows, reference_rows: Rows) -> None:
    index = bare("IVF8,PQ4x4", training_rows)
    index.add_with_ids(reference_rows, np.arange(300) // 2)
    index.remove_ids(np.arange(10, 20))
    found = read_faiss_file(written(index, tmp_path / "index.faiss"))
    assert found.index.ntotal == len(found.ids) == 280
    assert sorted(np.unique(found.ids, return_counts=True)[1].tolist()) == [2] * 140
    lists = found.index.invlists
    stored = [
        faiss.rev_swig_ptr(lists.get_ids(i), lists.list_size(i)) for i in range(8) if lists.list_size(i)
    ]
    assert sorted(np.concatenate(stored).tolist()) == list(range(280))


def test_nprobe_and_metric_are_taken_over(tmp_path: Path, training_rows: Rows) -> None:
    index = bare("IVF8,PQ4x4", training_rows, faiss.METRIC_INNER_PRODUCT)
    index.nprobe = 5
    found = read_faiss_file(written(index, tmp_path / "index.faiss"))
    assert (found.nprobe, found.metric) == (5, "IP")


def test_what_cannot_be_aimed_at_is_one_line(
    tmp_path: Path, training_rows: Rows, reference_rows: Rows
) -> None:
    path = tmp_path / "index.faiss"

    def refused(index: Any, words: str) -> None:
        with pytest.raises(FaissIndexError, match=words) as raised:
            read_faiss_file(written(index, path))
        assert "\n" not in str(raised.value)

    graph = bare("HNSW8", training_rows)
    graph.add(reference_rows)
    refused(graph, "whole descriptors .IndexHNSWFlat.: there is nothing to draw a picture to")
    refused(bare("Flat", training_rows), "whole descriptors")
    refused(bare("IDMap,Flat", training_rows), "whole descriptors")
    refused(bare("IVF8,PQ4x4", training_rows, faiss.METRIC_L1), "expected METRIC_L2")
    refused(faiss.index_factory(DIM, "IVF8,PQ4x4"), "not trained")
    packed = bare("IVF8,PQ4x4fs", training_rows)
    packed.add_with_ids(reference_rows, np.arange(300) * 7)
    refused(packed, "packs the codes of its rows together")
    faiss.write_index_binary(faiss.IndexBinaryFlat(64), str(path))
    with pytest.raises(FaissIndexError, match="holds a binary index"):
        read_faiss_file(path)


def test_damaged_files_are_one_line(tmp_path: Path, training_rows: Rows, reference_rows: Rows) -> None:
    index = bare("IVF8,PQ4x4", training_rows)
    index.add(reference_rows)
    whole = written(index, tmp_path / "index.faiss").read_bytes()
    path = tmp_path / "bad.faiss"
    for content in (whole[: len(whole) // 2], whole[:-1], b"", b"IwZ9" + whole[4:], b"text\nand more"):
        path.write_bytes(content)
        with pytest.raises(FaissIndexError, match=r"is no index that FAISS .* reads") as raised:
            read_faiss_file(path)
        assert "\n" not in str(raised.value)
    with pytest.raises(FaissIndexError, match="cannot be read"):
        read_faiss_file(tmp_path / "absent.faiss")
    with pytest.raises(FaissIndexError, match="cannot be read"):
        read_faiss_file(tmp_path)


def model(index: Any, **entries: object) -> dict[str, object]:
    """What `GET _plugins/_knn/models/<id>` answers; the plugin's blob is FAISS's own serialisation."""
    blob = base64.b64encode(faiss.serialize_index(index).tobytes()).decode()
    return {
        "model_id": "copies",
        "model_blob": blob,
        "state": "created",
        "timestamp": "2021-03-27T10:15:30Z",
        "description": "trained on last year's pictures",
        "error": "",
        "space_type": "l2",
        "dimension": DIM,
        "engine": "faiss",
        **entries,
    }


def test_a_model_of_opensearch(tmp_path: Path, training_rows: Rows, query_rows: Rows) -> None:
    index = bare("IVF8,PQ4x4", training_rows)
    path = tmp_path / "model.json"
    for content in (model(index), {"_id": "copies", "_source": model(index)}):
        path.write_text(json.dumps(content))
        found = read_opensearch_model(path)
        assert (found.idx_factory, len(found.ids)) == ("IVF8,PQ4x4", 0)
        np.testing.assert_array_equal(
            Quantiser(found.index).targets(query_rows), Quantiser(index).targets(query_rows)
        )


def test_other_models_are_one_line(tmp_path: Path, training_rows: Rows) -> None:
    index = bare("IVF8,PQ4x4", training_rows)
    path = tmp_path / "model.json"
    blob = str(model(index)["model_blob"])
    for content, words in (
        (model(index, model_blob=""), "holds no model_blob"),
        (["a list"], "holds no model_blob"),
        (model(index, engine="nmslib"), "engine 'nmslib': expected faiss"),
        (model(index, dimension=99), "says dimension 99, its model_blob has 16"),
        (model(index, model_blob=blob[:-7]), "no whole base64"),
        (model(index, model_blob=blob[:400]), "no FAISS index"),
        (model(bare("Flat", training_rows)), "whole descriptors"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(FaissIndexError, match=words) as raised:
            read_opensearch_model(path)
        assert "\n" not in str(raised.value)
    path.write_text("{")
    with pytest.raises(FaissIndexError, match="is no JSON"):
        read_opensearch_model(path)


def test_bare_faiss_of_the_same_seed_is_what_aindex_trains(
    tmp_path: Path, training_rows: Rows, query_rows: Rows
) -> None:
    """Pictures that are activated against either then come out the same."""
    index = faiss.index_factory(DIM, "IVF8,PQ4x4")
    index.cp.seed = index.pq.cp.seed = derive_seed(0, "faiss") & 0x7FFFFFFF
    # on by itself in bare FAISS, off here: it only renumbers the codewords
    assert index.do_polysemous_training
    index.train(training_rows)
    theirs = Quantiser(read_faiss_file(written(index, tmp_path / "index.faiss")).index)
    ours = ReferenceIndex.train(training_rows, idx_factory="IVF8,PQ4x4").quantiser
    np.testing.assert_array_equal(theirs.targets(query_rows), ours.targets(query_rows))
