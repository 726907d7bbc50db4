"""What an index makes of a descriptor: its cell, its decoded code, and the targets of the activation."""

from typing import Literal, TypeVar, assert_never, get_args

import numpy as np
import numpy.typing as npt
import torch

from aindex.errors import FaissIndexError
from aindex.index.backend import FaissIndex, Ids, Rows, faiss_errors, one_thread, repeatable_kernels
from aindex.index.choices import Choices, choices_of, right_choices
from aindex.index.rows import as_rows
from aindex.index.structure import backward, forward, row_by_row, take_apart

_ID_BYTES = 8

Target = Literal["pq_recons", "ivf_cluster", "ivf_cluster_half", "ori_ft"]

Descriptors = TypeVar("Descriptors", torch.Tensor, npt.NDArray[np.float32])


class Quantiser:
    """The trained part of an index: needs no rows, changes nothing, and gives every rank the same.

    Rows are treated one at a time, so a result never depends on what else is in the batch.

    Args:
        index: a trained FAISS index, empty or filled.

    Attributes:
        dim: d.
        ivf: the part of the index that has coarse cells; None for an index without.
        cell_count: number of coarse cells; None for an index without.
        is_graph: whether a search walks through a graph, so that nobody can tell how many rows it looks at.
        loses_norms: whether what is stored is a direction alone (LSH): compare it by cosine.

    Raises:
        FaissIndexError: the index is not trained.
    """

    def __init__(self, index: FaissIndex) -> None:
        self._parts = take_apart(index)
        self.dim = int(index.d)
        self.ivf = self._parts.ivf
        self.cell_count = None if self.ivf is None else int(self.ivf.nlist)
        self.is_graph = self._parts.graph is not None
        self.loses_norms = self._parts.is_lsh
        if not index.is_trained:
            raise FaissIndexError("the index is not trained: train it before asking for targets")

    @property
    def keeps_descriptors(self) -> bool:
        """Whether nothing is quantised at all: no cells, no codes, no dimension dropped."""
        parts = self._parts
        drops_none = all(transform.d_out >= transform.d_in for transform in parts.transforms)
        return parts.is_lossless and parts.ivf is None and drops_none

    def targets(self, descriptors: Descriptors, target: Target = "pq_recons") -> Descriptors:
        """What activation draws these descriptors to.

        ``pq_recons`` is what the index stores, decoded. Where that is the descriptor itself it has nothing to
        do: an index of whole descriptors in cells (``IVF…,Flat``) then gives the cell's centroid, one that
        re-ranks (``…,RFlat``) what its base index stores, and a flat one an error. LSH decodes to vectors
        whose norm is not 1: use them with the cosine loss.

        Args:
            descriptors: B×d, an array or a tensor on any device.
            target: ``pq_recons``, ``ivf_cluster`` (the centroid of the coarse cell), ``ivf_cluster_half`` (the
                midpoint between it and the descriptor) or ``ori_ft`` (the descriptor).

        Returns:
            B×d float32, of the same type and on the same device.

        Raises:
            FaissIndexError: the index has no such target.
            DescriptorError: wrong dimension, NaN or infinite values.
        """
        rows = as_rows(descriptors, self.dim)
        with one_thread(), repeatable_kernels():
            found = self._targets(rows, target)
        if isinstance(descriptors, torch.Tensor):
            return torch.from_numpy(found).to(descriptors.device)
        return found

    def cells(self, descriptors: torch.Tensor | npt.NDArray[np.float32]) -> Ids | None:
        """The coarse cell of each descriptor: B int64, or None for an index without cells."""
        visited = self.visited(descriptors, 1)
        return None if visited is None else visited[:, 0]

    def visited(self, descriptors: torch.Tensor | npt.NDArray[np.float32], nprobe: int) -> Ids | None:
        """The coarse cells that a search visits: B×nprobe int64, nearest first; None for an index without cells."""
        rows = as_rows(descriptors, self.dim)
        if self._parts.ivf is None:
            return None
        with one_thread(), repeatable_kernels():
            return self._visited(rows, nprobe)

    @property
    def row_bytes(self) -> int | None:
        """What a row takes: its code, and its id where there are cells; None for graphs and indexes that re-rank."""
        parts = self._parts
        size = getattr(parts.core, "code_size", None)
        if size is None or parts.graph is not None or parts.refine is not None:
            return None
        return int(size) + (0 if parts.ivf is None else _ID_BYTES)

    def choices(self) -> Choices:
        """As :func:`choices_of`."""
        with one_thread(), repeatable_kernels():
            return choices_of(self._parts)

    def right_choices(self, descriptors: torch.Tensor | npt.NDArray[np.float32]) -> Ids:
        """What the index chooses for each descriptor: B×M numbers of points.

        Raises:
            FaissIndexError: it chooses nothing.
            DescriptorError: wrong dimension, NaN or infinite values.
        """
        rows = as_rows(descriptors, self.dim)
        with one_thread(), repeatable_kernels():
            return right_choices(self._parts, rows)

    def code_distance(self, descriptors: torch.Tensor | npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Squared Euclidean distance of each descriptor to what is :meth:`stored` for it: B float32."""
        rows = as_rows(descriptors, self.dim)
        squared: npt.NDArray[np.float32] = np.square(rows - self.stored(rows)).sum(axis=1)
        return squared

    def stored(self, descriptors: torch.Tensor | npt.NDArray[np.float32]) -> Rows:
        """What the index stores for each descriptor, decoded: B×d float32.

        The descriptor itself where whole ones are stored; of an index that re-ranks, the base index counts.

        Raises:
            FaissIndexError: the index cannot decode.
            DescriptorError: wrong dimension, NaN or infinite values.
        """
        with one_thread(), repeatable_kernels():
            return self._decoded(as_rows(descriptors, self.dim))

    def _targets(self, rows: Rows, target: Target) -> Rows:
        match target:
            case "ori_ft":
                return np.array(rows)
            case "ivf_cluster":
                return self._centroids(rows)
            case "ivf_cluster_half":
                return (self._centroids(rows) + rows) / np.float32(2)
            case "pq_recons":
                if self.keeps_descriptors:
                    raise FaissIndexError(
                        f"target 'pq_recons' on an index that keeps whole descriptors ({self._parts.kind}): there "
                        "is nothing to draw them to; take an idx_factory that quantises, such as "
                        "'IVF4096,PQ8x8', or target ori_ft"
                    )
                if self._parts.ivf is not None and self._parts.is_lossless:
                    return self._centroids(rows)
                return self._decoded(rows)
        if target not in get_args(Target):
            raise FaissIndexError(f"target {target!r}: expected one of {', '.join(get_args(Target))}")
        assert_never(target)

    def _centroids(self, rows: Rows) -> Rows:
        ivf = self._parts.ivf
        if ivf is None:
            raise FaissIndexError(
                f"a target in a coarse cell, on an index without cells ({self._parts.kind}): take target pq_recons, "
                "or an idx_factory that begins with IVF"
            )
        centroids = [ivf.quantizer.reconstruct(int(cell)) for cell in self._visited(rows, 1)[:, 0]]
        return backward(self._parts.transforms, np.array(centroids, np.float32).reshape(-1, ivf.d))

    def _visited(self, rows: Rows, nprobe: int) -> Ids:
        ivf: FaissIndex = self._parts.ivf
        found = row_by_row(
            lambda row: ivf.quantizer.search(row, nprobe)[1], forward(self._parts.transforms, rows)
        )
        return np.array(found, np.int64).reshape(len(rows), nprobe)

    def _decoded(self, rows: Rows) -> Rows:
        transforms, codec = self._parts.codec
        transformed = forward(transforms, rows)
        with faiss_errors(
            f"the index ({self._parts.kind}) cannot decode its codes",
            "take target ori_ft, or an idx_factory with PQ, SQ, RQ or LSH",
        ):
            decoded = row_by_row(lambda row: codec.sa_decode(codec.sa_encode(row)), transformed)
        return backward(transforms, np.concatenate([np.empty((0, codec.d), np.float32), *decoded]))
