"""What the index is said to choose, against what FAISS does with rows that are added."""

import faiss
import numpy as np
import pytest
import torch

from aindex.errors import FaissIndexError
from aindex.index.choices import Choices
from aindex.index.quantiser import Quantiser

FACTORIES = {
    "PQ4x4": ("codeword", 4, 16),
    "PQ4x4fs": ("codeword", 4, 16),
    "SQ8": ("level", 16, 256),
    "SQ4": ("level", 16, 16),
    "LSH": ("bit", 16, 2),
    "LSHrt": ("bit", 16, 2),
    "ITQ8,LSH": ("bit", 8, 2),
    "RaBitQ": ("bit", 16, 2),
    "LSQ2x4": ("codeword", 2, 16),
    "PLSQ2x2x4": ("codeword", 4, 16),
    "IVF8,Flat": ("cell", 1, 8),
    "IVF8,PQ4x4": ("cell", 1, 8),
    "IVF8,SQ8": ("cell", 1, 8),
    "IVF8,PQ4x4fs": ("cell", 1, 8),
    "IVF8,RaBitQ": ("cell", 1, 8),
    "IVF8_HNSW8,PQ4x4": ("cell", 1, 8),
    "IMI2x3,PQ4x4": ("cell", 2, 8),
    "OPQ4_8,PQ4x4": ("codeword", 4, 16),
    "OPQ4_16,IVF8,PQ4x4": ("cell", 1, 8),
    "PCA8,LSH": ("bit", 8, 2),
    "PCAR8,IVF8,SQ8": ("cell", 1, 8),
    "L2norm,IVF8,Flat": ("cell", 1, 8),
    "IVF8,PQ4x4,Refine(SQ8)": ("cell", 1, 8),
    "HNSW8_PQ4x4": ("codeword", 4, 16),
    "RR16,RaBitQ": ("bit", 16, 2),
}
RESIDUAL = ["RQ2x6", "PRQ2x2x4", "RQ3x4_Nfloat"]


def chosen(choices: Choices, rows: np.ndarray, right: torch.Tensor) -> torch.Tensor:
    """The point with the largest score of each choice."""
    return torch.stack(
        [
            choices.scores(torch.from_numpy(rows[i : i + 1]), right[i, :, None])[0].argmax(dim=-1)
            for i in range(len(rows))
        ]
    )


@pytest.mark.parametrize("idx_factory", FACTORIES)
def test_the_largest_score_is_what_the_index_chooses(trained_index, query_rows, idx_factory: str) -> None:
    quantiser = Quantiser(trained_index(idx_factory))
    choices, right = quantiser.choices(), torch.from_numpy(quantiser.right_choices(query_rows))
    assert (choices.kind, *choices.points.shape[:2]) == FACTORIES[idx_factory]
    assert torch.equal(chosen(choices, query_rows, right), right)


@pytest.mark.parametrize("idx_factory", RESIDUAL)
def test_residual_codewords_are_the_best_but_for_their_greed(
    trained_index, query_rows, idx_factory: str
) -> None:
    """FAISS chooses them one after the other, the scores hold the others fixed."""
    quantiser = Quantiser(trained_index(idx_factory))
    choices, right = quantiser.choices(), torch.from_numpy(quantiser.right_choices(query_rows))
    assert (chosen(choices, query_rows, right) == right).float().mean() > 0.9


@pytest.mark.parametrize("idx_factory", ["IVF8,Flat", "IVF8,PQ4x4", "OPQ4_16,IVF8,PQ4x4", "PCAR8,IVF8,SQ8"])
def test_right_cells_are_where_rows_are_added(trained_index, query_rows, idx_factory: str) -> None:
    index = faiss.clone_index(trained_index(idx_factory))
    right = Quantiser(index).right_choices(query_rows)[:, 0]
    index.add(query_rows)
    lists = faiss.extract_index_ivf(index).invlists
    for cell in range(8):
        ids = faiss.rev_swig_ptr(lists.get_ids(cell), lists.list_size(cell)) if lists.list_size(cell) else []
        assert set(ids) == set(np.flatnonzero(right == cell))


@pytest.mark.parametrize("idx_factory", ["PQ4x4", "SQ8", "LSQ2x4", "RQ2x6", "PLSQ2x2x4", "RQ3x4_Nfloat"])
def test_right_points_make_up_what_the_index_stores(trained_index, query_rows, idx_factory: str) -> None:
    quantiser = Quantiser(trained_index(idx_factory))
    choices, right = quantiser.choices(), torch.from_numpy(quantiser.right_choices(query_rows))
    points = choices.points[torch.arange(right.shape[1]), right]  # B×M×s
    together = points.sum(dim=1) if choices.additive else points.flatten(1)
    np.testing.assert_allclose(together, quantiser.stored(query_rows), atol=1e-5)


def test_cells_of_inner_products(training_rows, query_rows) -> None:
    index = faiss.index_factory(16, "IVF8,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(training_rows)
    quantiser = Quantiser(index)
    choices, right = quantiser.choices(), torch.from_numpy(quantiser.right_choices(query_rows))
    assert choices.by_product
    assert torch.equal(chosen(choices, 3 * query_rows, right), right)


@pytest.mark.parametrize("idx_factory", ["Flat", "HNSW8", "Flat,RFlat", "SQfp16"])
def test_where_nothing_is_chosen_it_says_so(trained_index, idx_factory: str) -> None:
    with pytest.raises(FaissIndexError, match=r"makes no choices.*take loss_f cossim"):
        Quantiser(trained_index(idx_factory)).choices()


def test_codebooks_of_several_sizes_are_refused(training_rows) -> None:
    index = faiss.index_factory(16, "RQ1x4_1x3")
    index.train(training_rows)
    with pytest.raises(FaissIndexError, match="different sizes"):
        Quantiser(index).choices()
