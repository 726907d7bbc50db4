"""What a FAISS index is made of: transforms, coarse cells, codes, graph, refinement."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from aindex.errors import FaissIndexError
from aindex.index.backend import FaissIndex, Rows, faiss_errors, import_faiss

# Others make the tables of a batch by one matrix product.
_QUERY_BY_QUERY = {
    "IndexFlat", "IndexFlatL2", "IndexFlatIP", "IndexScalarQuantizer", "IndexIVFFlat", "IndexIVFPQ",
    "IndexIVFScalarQuantizer", "IndexHNSWFlat", "IndexLSH",
}  # fmt: skip


@dataclass(frozen=True)
class IndexParts:
    """An index taken apart, from the outside in. The parts live as long as ``root`` does.

    Attributes:
        root: the whole.
        transforms: vector transforms (OPQ, PCA, …), in the order in which they are applied.
        refine: the whole again if it re-ranks a base index's candidates (``…,RFlat``).
        graph: the HNSW or NSG around the codes, if any.
        inner: what remains without the transforms and the re-ranking: it searches transformed vectors.
        core: what holds the codes.
        ivf: the core if it has coarse cells.
    """

    root: FaissIndex
    transforms: tuple[Any, ...]
    refine: FaissIndex | None
    graph: FaissIndex | None
    inner: FaissIndex
    core: FaissIndex
    ivf: FaissIndex | None

    @property
    def kind(self) -> str:
        """The FAISS class of the core."""
        return type(self.core).__name__

    @property
    def chooses_by_k(self) -> bool:
        """Whether what is found depends on how much is asked for: graphs, and indexes that re-rank candidates."""
        faiss = import_faiss()
        return self.refine is not None or self.graph is not None or isinstance(self.core, faiss.IndexIVFPQR)

    @property
    def is_lossless(self) -> bool:
        """Whether the core keeps what it is given, unrounded."""
        faiss = import_faiss()
        return isinstance(self.core, (faiss.IndexFlat, faiss.IndexIVFFlat))

    @property
    def is_lsh(self) -> bool:
        """Whether the core keeps signs alone."""
        return isinstance(self.core, import_faiss().IndexLSH)

    @property
    def is_scalar(self) -> bool:
        """Whether the core, without cells, rounds each component by itself."""
        return isinstance(self.core, import_faiss().IndexScalarQuantizer)

    @property
    def coarse(self) -> FaissIndex | None:
        """The coarse quantiser; None without cells."""
        return None if self.ivf is None else import_faiss().downcast_index(self.ivf.quantizer)

    @property
    def flat_coarse(self) -> FaissIndex | None:
        """The coarse quantiser if it compares with all centroids."""
        coarse = self.coarse
        return coarse if isinstance(coarse, import_faiss().IndexFlat) else None

    @property
    def treats_queries_alone(self) -> bool:
        """Whether no query of a batch feels the others, once matrix products are off."""
        if type(self.inner).__name__ not in _QUERY_BY_QUERY or getattr(self.inner, "rotate_data", False):
            return False
        faiss = import_faiss()
        return self.ivf is None or isinstance(self.coarse, (faiss.IndexFlat, faiss.IndexHNSWFlat))

    @property
    def codec(self) -> tuple[tuple[Any, ...], FaissIndex]:
        """What encodes and decodes: transforms, and the index behind them.

        Of an index that re-ranks with whole descriptors it is the base index; of one that re-ranks with other codes
        it is those.
        """
        faiss = import_faiss()
        if self.refine is not None:
            refiner = faiss.downcast_index(self.refine.refine_index)
            if not isinstance(refiner, faiss.IndexFlat):
                return (), refiner
        return self.transforms, self.core


def take_apart(index: FaissIndex) -> IndexParts:
    """The parts of any index that ``index_factory`` makes.

    Raises:
        FaissIndexError: an index with ids of its own (rows are numbered by their position here), or one that
            cannot search.
    """
    faiss = import_faiss()
    current = faiss.downcast_index(index)
    transforms: list[Any] = []
    refine = graph = None
    inner = current
    while True:
        if isinstance(current, (faiss.IndexIDMap, faiss.IndexIDMap2)):
            raise FaissIndexError(
                "an index with IDMap: expected rows numbered by their position; leave IDMap out of idx_factory"
            )
        if isinstance(current, faiss.IndexRefine):
            refine, current = current, faiss.downcast_index(current.base_index)
        elif isinstance(current, faiss.IndexPreTransform):
            chain = current.chain
            transforms += [faiss.downcast_VectorTransform(chain.at(i)) for i in range(chain.size())]
            current = faiss.downcast_index(current.index)
        elif isinstance(current, (faiss.IndexHNSW, faiss.IndexNSG, faiss.IndexNNDescent)):
            inner = graph = current
            current = faiss.downcast_index(current.storage)
        else:
            break
        if graph is None:
            inner = current
    if isinstance(current, faiss.Index2Layer):
        raise FaissIndexError(
            "a Residual index only encodes and cannot search: take IVF<cells>,PQ<bytes> with the same numbers"
        )
    for transform in transforms:
        if isinstance(transform, faiss.PCAMatrix) and transform.eigen_power != 0:
            # FAISS 1.15.1 takes whitening for a rotation once the index was read from a file.
            transform.is_orthonormal = False
    if hasattr(current, "fine_quantizer"):
        # FAISS 1.15.1 loses this pointer in reading an index and copies it in cloning one: decoding then crashes.
        current.fine_quantizer = current.pq if hasattr(current, "pq") else current.aq
    ivf = current if isinstance(current, faiss.IndexIVF) else None
    return IndexParts(index, tuple(transforms), refine, graph, inner, current, ivf)


def clone_of(index: FaissIndex) -> FaissIndex:
    """An index of its own with all that is in another, also where FAISS has no clone of a part (L2norm)."""
    faiss = import_faiss()
    try:
        return faiss.clone_index(index)
    except RuntimeError:
        return faiss.deserialize_index(faiss.serialize_index(index))


def has_plain_lists(ivf: FaissIndex) -> bool:
    """Whether the code of each row is stored by itself, not packed with those of other rows."""
    faiss = import_faiss()
    plain = (faiss.ArrayInvertedLists, faiss.OnDiskInvertedLists)
    return type(faiss.downcast_InvertedLists(ivf.invlists)) in plain


def empty_clone(index: FaissIndex) -> FaissIndex:
    """The same trained index without rows; the rows are not copied on the way where FAISS allows it."""
    faiss = import_faiss()
    ivf = take_apart(index).ivf
    if ivf is None or not has_plain_lists(ivf):
        clone = clone_of(index)
        clone.reset()
        return clone
    lists, owned, rows = ivf.invlists, ivf.own_invlists, index.ntotal
    nothing = faiss.ArrayInvertedLists(ivf.nlist, ivf.code_size)
    ivf.own_invlists = False
    ivf.replace_invlists(nothing, False)
    try:
        clone = clone_of(index)
    finally:
        ivf.replace_invlists(lists, owned)
    clone.reset()
    assert index.ntotal == rows
    return clone


def row_by_row(treat: Callable[[Rows], Any], rows: Rows) -> list[Any]:
    """What FAISS makes of each of n×d rows, given as 1×d, so that its rounding is the row's own."""
    return [treat(rows[i : i + 1]) for i in range(len(rows))]


def forward(transforms: tuple[Any, ...], rows: Rows) -> Rows:
    """Rows n×d_in through the transforms, one by one: n×d_out."""
    for transform in transforms if len(rows) else ():
        rows = np.concatenate(row_by_row(transform.apply, rows))
    return rows


def backward(transforms: tuple[Any, ...], rows: Rows) -> Rows:
    """Rows n×d_out back through the transforms, one by one: n×d_in.

    Raises:
        FaissIndexError: a transform has no way back (ITQ, whitening).
    """
    with faiss_errors(
        "this factory's transform cannot be undone",
        "take target ori_ft, or a factory with OPQ or PCA instead of ITQ or PCAW",
    ):
        for transform in reversed(transforms) if len(rows) else ():
            rows = np.concatenate(row_by_row(transform.reverse_transform, rows))
    return rows
