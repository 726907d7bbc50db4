import faiss
import numpy as np
import pytest
import torch

from aindex.errors import DescriptorError, FaissIndexError
from aindex.index.factory import make_index
from aindex.index.quantiser import Quantiser

QUANTISING = [
    "PQ4x4",
    "SQ8",
    "RQ2x6",
    "LSH",
    "IVF8,PQ4x4",
    "IVF8,PQ4x8",
    "IVF8,SQ8",
    "IVF8,PQ4x4fs",
    "IVF8,RaBitQ",
    "IVF8_HNSW8,PQ4x4",
    "IMI2x3,PQ4x4",
    "OPQ4_8,PQ4x4",
    "OPQ4_16,IVF8,PQ4x4",
    "PCA8,LSH",
    "PCAR8,IVF8,SQ8",
    "PCA8,Flat",
    "IVF8,PQ4x4,Refine(SQ8)",
]
FLAT = ["Flat", "L2norm,Flat", "PCAR16,Flat", "HNSW8", "NSG8", "Flat,RFlat"]


def stored_by(index, rows):
    """Add one by one (as the targets are made), make_direct_map, reconstruct."""
    index = faiss.clone_index(index)
    for row in rows:
        index.add(row[None])
    if faiss.try_extract_index_ivf(index) is not None:
        faiss.extract_index_ivf(index).make_direct_map()
    # Row by row: transforms of many rows at once round differently.
    return np.stack([index.reconstruct(i) for i in range(len(rows))])


@pytest.mark.parametrize("idx_factory", QUANTISING)
def test_targets_are_what_the_index_stores(trained_index, query_rows, idx_factory: str) -> None:
    index = trained_index(idx_factory)
    targets = Quantiser(index).targets(query_rows)
    assert np.array_equal(targets, stored_by(index, query_rows))
    assert index.ntotal == 0

    together = faiss.clone_index(index)
    together.add(query_rows)
    if faiss.try_extract_index_ivf(together) is not None:
        faiss.extract_index_ivf(together).make_direct_map()
    np.testing.assert_allclose(targets, together.reconstruct_n(0, len(query_rows)), atol=1e-5)


@pytest.mark.parametrize("idx_factory", ["IVF8,PQ4x4", "OPQ4_16,IVF8,PQ4x4", "PCAR8,IVF8,SQ8"])
def test_targets_do_not_depend_on_the_batch(trained_index, query_rows, idx_factory: str) -> None:
    quantiser = Quantiser(trained_index(idx_factory))
    for target in ("pq_recons", "ivf_cluster", "ivf_cluster_half", "ori_ft"):
        whole = quantiser.targets(query_rows, target)
        shuffled = quantiser.targets(query_rows[::-1].copy(), target)[::-1]
        assert np.array_equal(whole, shuffled)
        assert np.array_equal(whole[7:8], quantiser.targets(query_rows[7:8], target))


def test_filled_and_empty_give_the_same(trained_index, query_rows) -> None:
    index = trained_index("IVF8,PQ4x4")
    empty = Quantiser(index).targets(query_rows)
    index.add(query_rows)
    assert np.array_equal(empty, Quantiser(index).targets(query_rows))


@pytest.mark.parametrize("idx_factory", FLAT)
def test_where_nothing_is_quantised_there_is_no_target(trained_index, query_rows, idx_factory: str) -> None:
    quantiser = Quantiser(trained_index(idx_factory))
    assert quantiser.keeps_descriptors
    with pytest.raises(FaissIndexError, match=r"keeps whole descriptors.*ori_ft"):
        quantiser.targets(query_rows)
    with pytest.raises(FaissIndexError, match="without cells"):
        quantiser.targets(query_rows, "ivf_cluster")
    assert np.array_equal(quantiser.targets(query_rows, "ori_ft"), query_rows)
    np.testing.assert_allclose(quantiser.code_distance(query_rows), 0, atol=1e-10)
    assert quantiser.cells(query_rows) is None


@pytest.mark.parametrize("idx_factory", ["IVF8,Flat", "IVF8,Flat,RFlat", "IVF8_HNSW8,Flat"])
def test_whole_descriptors_in_cells_take_the_centroid(trained_index, query_rows, idx_factory: str) -> None:
    index = trained_index(idx_factory)
    quantiser = Quantiser(index)
    quantizer = faiss.downcast_index(faiss.extract_index_ivf(index).quantizer)
    centroids = quantizer.reconstruct_n(0, 8)
    nearest = ((query_rows[:, None] - centroids) ** 2).sum(2).argmin(1)
    assert np.array_equal(quantiser.cells(query_rows), nearest)
    assert np.array_equal(quantiser.targets(query_rows), centroids[nearest])
    assert np.array_equal(quantiser.targets(query_rows, "ivf_cluster"), centroids[nearest])
    np.testing.assert_allclose(
        quantiser.targets(query_rows, "ivf_cluster_half"), (centroids[nearest] + query_rows) / 2, atol=1e-7
    )


def test_reranking_takes_the_base_index(trained_index, query_rows) -> None:
    index = trained_index("OPQ4_8,IVF8,PQ4x4,RFlat")
    base = faiss.downcast_index(index).base_index
    expected = np.concatenate([base.sa_decode(base.sa_encode(row[None])) for row in query_rows])
    assert np.array_equal(Quantiser(index).targets(query_rows), expected)


def test_graph_over_codes_decodes_its_storage(trained_index, query_rows) -> None:
    index = trained_index("HNSW8_SQ4")
    assert np.array_equal(Quantiser(index).targets(query_rows), stored_by(index, query_rows))


@pytest.mark.parametrize("prefix", ["OPQ4_16,", "OPQ4_8,", "PCA8,", "RR16,"])
def test_centroids_come_back_through_transforms(trained_index, query_rows, prefix: str) -> None:
    index = trained_index(f"{prefix}IVF8,PQ4x4")
    transform = faiss.downcast_VectorTransform(faiss.downcast_index(index).chain.at(0))
    ivf = faiss.extract_index_ivf(index)
    cells = ivf.quantizer.search(transform.apply(query_rows), 1)[1][:, 0]
    centroids = np.stack([ivf.quantizer.reconstruct(int(cell)) for cell in cells])
    quantiser = Quantiser(index)
    assert np.array_equal(quantiser.cells(query_rows), cells)
    np.testing.assert_allclose(
        quantiser.targets(query_rows, "ivf_cluster"), transform.reverse_transform(centroids), atol=1e-6
    )


def test_inner_product_cells(trained_index, query_rows) -> None:
    index = trained_index("IVF8,PQ4x4", "IP")
    centroids = faiss.downcast_index(faiss.extract_index_ivf(index).quantizer).reconstruct_n(0, 8)
    assert np.array_equal(Quantiser(index).cells(query_rows), (query_rows @ centroids.T).argmax(1))


def test_lsh_norm_is_not_one(trained_index, query_rows) -> None:
    targets = Quantiser(trained_index("PCA8,LSH")).targets(query_rows)
    assert not np.allclose(np.linalg.norm(targets, axis=1), 1)


def test_code_distance(trained_index, query_rows) -> None:
    quantiser = Quantiser(trained_index("IVF8,PQ4x4"))
    expected = ((query_rows - quantiser.targets(query_rows)) ** 2).sum(1)
    np.testing.assert_allclose(quantiser.code_distance(query_rows), expected, rtol=1e-6)


@pytest.mark.parametrize("idx_factory", ["ITQ8,LSH", "PCAW8,PQ4x4"])
def test_a_transform_without_way_back(trained_index, query_rows, idx_factory: str) -> None:
    quantiser = Quantiser(trained_index(idx_factory))
    with pytest.raises(FaissIndexError, match=r"cannot be undone.*ori_ft"):
        quantiser.targets(query_rows)


def test_tensors_in_tensors_out(trained_index, query_rows) -> None:
    quantiser = Quantiser(trained_index("IVF8,PQ4x4"))
    given = torch.from_numpy(query_rows).requires_grad_()
    targets = quantiser.targets(given)
    assert isinstance(targets, torch.Tensor)
    assert not targets.requires_grad
    assert np.array_equal(targets.numpy(), quantiser.targets(query_rows))
    assert quantiser.targets(given[:0]).shape == (0, 16)
    assert quantiser.targets(given[:0], "ivf_cluster").shape == (0, 16)
    assert quantiser.cell_count == 8


def test_bad_descriptors(trained_index, query_rows) -> None:
    quantiser = Quantiser(trained_index("IVF8,PQ4x4"))
    broken = query_rows.copy()
    broken[2, 0] = np.inf
    with pytest.raises(DescriptorError, match="row 2"):
        quantiser.targets(broken)
    with pytest.raises(DescriptorError, match="dimension 8, expected 16"):
        quantiser.targets(query_rows[:, :8])
    with pytest.raises(FaissIndexError, match="expected one of pq_recons"):
        quantiser.targets(query_rows, "centre")  # type: ignore[arg-type]
    with pytest.raises(FaissIndexError, match="not trained"):
        Quantiser(make_index(16, "IVF8,PQ4x4"))
