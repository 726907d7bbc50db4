"""The choices by which a trained index files a descriptor: the points it chooses among, as tensors."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aindex.errors import FaissIndexError
from aindex.index.backend import FaissIndex, Ids, Rows, faiss_errors, import_faiss
from aindex.index.structure import IndexParts, forward, row_by_row

_MOST_LEVELS = 8
"""Bits of a scalar quantiser's code; with more it keeps what it is given."""


@dataclass(frozen=True)
class Step:
    """One transform in front of the codes: x ↦ (x − shift) / ‖x − shift‖ · matrixᵀ + bias; None leaves a part out."""

    matrix: Tensor | None = None
    bias: Tensor | None = None
    shift: Tensor | None = None
    normalise: bool = False

    def __call__(self, rows: Tensor) -> Tensor:
        """…×d_in → …×d_out."""
        rows = rows if self.shift is None else rows - self.shift
        rows = rows / rows.norm(dim=-1, keepdim=True) if self.normalise else rows
        rows = rows if self.matrix is None else rows @ self.matrix.T
        return rows if self.bias is None else rows + self.bias

    def to(self, device: torch.device | str) -> "Step":
        """The same on a device."""
        matrix, bias, shift = (
            part if part is None else part.to(device) for part in (self.matrix, self.bias, self.shift)
        )
        return Step(matrix, bias, shift, self.normalise)


@dataclass(frozen=True)
class Choices:
    """M choices, each of one among K points: a coarse cell, a codeword of each part, a level or bit of each dimension.

    Attributes:
        kind: what is chosen: `cell`, `codeword`, `level` or `bit`.
        steps: transforms of a descriptor, in their order.
        columns: M×s, which components of the transformed descriptor each choice looks at.
        points: M×K×s.
        by_product: the largest inner product is chosen; else the smallest Euclidean distance.
        additive: the chosen points add up to the code, and each choice is made with the others given.
    """

    kind: str
    steps: tuple[Step, ...]
    columns: Tensor
    points: Tensor
    by_product: bool = False
    additive: bool = False

    def scores(self, rows: Tensor, right: Tensor) -> Tensor:
        """How well each point of each choice fits: the largest is what the index chooses.

        Args:
            rows: …×N×d descriptors, N of each picture, differentiable.
            right: …×M×r, the points that count as right; only additive codes need them, r = 1.

        Returns:
            …×N×M×K; differences are those of the inner product, or of minus the squared distance.
        """
        for step in self.steps:
            rows = step(rows)
        rows = rows[..., self.columns]  # …×N×M×s
        if self.additive:
            own = self.points[torch.arange(len(self.points), device=right.device), right[..., 0]]  # …×M×s
            rows = rows - (own.sum(dim=-2, keepdim=True) - own).unsqueeze(-3)
        products = torch.einsum("...nms,mks->...nmk", rows, self.points)
        return products if self.by_product else 2 * products - self.points.square().sum(dim=-1)

    def to(self, device: torch.device | str) -> "Choices":
        """The same on a device."""
        steps = tuple(step.to(device) for step in self.steps)
        return replace(self, steps=steps, columns=self.columns.to(device), points=self.points.to(device))


def choices_of(parts: IndexParts) -> Choices:
    """What a trained index chooses among.

    Coarse cells where there are some; else the codewords of each part of a product or additive quantiser, the
    levels of a scalar quantiser, the bits of LSH and RaBitQ.

    Raises:
        FaissIndexError: it chooses nothing, or nothing that is known here.
    """
    faiss, core = import_faiss(), parts.core
    steps = tuple(_step(transform) for transform in parts.transforms)
    if parts.ivf is not None:
        return _cells(parts.ivf, steps)
    if hasattr(core, "pq"):
        books = faiss.vector_to_array(core.pq.centroids).reshape(core.pq.M, core.pq.ksub, core.pq.dsub)
        return _choices("codeword", steps, books)
    if isinstance(core, faiss.IndexAdditiveQuantizer):
        return _choices("codeword", steps, _additive_books(core), additive=True)
    if parts.is_scalar and _bits_per_level(core) <= _MOST_LEVELS:
        return _choices("level", steps, _levels(core))
    if parts.is_lsh:
        return _choices("bit", (*steps, *_lsh_steps(core)), _two_sides(core.nbits))
    if isinstance(core, faiss.IndexRaBitQ):
        centre = Step(shift=_tensor(faiss.vector_to_array(core.center)))
        return _choices("bit", (*steps, centre), _two_sides(core.d))
    raise FaissIndexError(
        f"loss_f 'assignment' on an index that makes no choices ({parts.kind}): there is nowhere to file a descriptor; "
        "take loss_f cossim with target ori_ft (of fit), or an idx_factory with cells or codes, such as "
        "'IVF4096,PQ8x8'; where whole descriptors are compared, as here, activation has little to gain"
    )


def right_choices(parts: IndexParts, rows: Rows) -> Ids:
    """What the index chooses for descriptors: B×d → B×M numbers of points, row by row; errors as of `choices_of`."""
    codes_of = _codes_of(parts)
    return np.concatenate(row_by_row(codes_of, forward(parts.transforms, rows))).astype(np.int64)


def _codes_of(parts: IndexParts) -> Any:
    faiss, core = import_faiss(), parts.core
    if parts.ivf is not None:
        coarse: Any = parts.coarse
        if isinstance(coarse, faiss.MultiIndexQuantizer):
            shifts = np.arange(coarse.pq.M) * coarse.pq.nbits
            return lambda row: coarse.search(row, 1)[1] >> shifts & (coarse.pq.ksub - 1)
        return lambda row: coarse.search(row, 1)[1]
    if hasattr(core, "pq"):
        return lambda row: faiss.unpack_bitstrings(core.pq.compute_codes(row), core.pq.M, core.pq.nbits)
    if isinstance(core, faiss.IndexAdditiveQuantizer):
        count, width = _additive_shape(core)
    elif parts.is_lsh:
        count, width = core.nbits, 1
    else:
        count, width = core.d, _bits_per_level(core) if parts.is_scalar else 1
    return lambda row: faiss.unpack_bitstrings(core.sa_encode(row), count, width)


def _choices(kind: str, steps: tuple[Step, ...], points: Rows, **more: bool) -> Choices:
    """Choices among points M×K×s: each looks at the next s components; additive ones all look at the same."""
    count, _, width = points.shape
    first = 0 if more.get("additive") else np.arange(count)[:, None] * width
    columns = torch.from_numpy(np.broadcast_to(first + np.arange(width), (count, width)).copy())
    return Choices(kind, steps, columns, _tensor(points), **more)


def _cells(ivf: FaissIndex, steps: tuple[Step, ...]) -> Choices:
    faiss = import_faiss()
    coarse = faiss.downcast_index(ivf.quantizer)
    if isinstance(coarse, faiss.MultiIndexQuantizer):
        books = faiss.vector_to_array(coarse.pq.centroids)
        return _choices("cell", steps, books.reshape(coarse.pq.M, coarse.pq.ksub, coarse.pq.dsub))
    with faiss_errors("the coarse quantiser does not tell its centroids", "take an idx_factory IVF<cells>,…"):
        centroids = coarse.reconstruct_n(0, ivf.nlist)
    by_product = coarse.metric_type == faiss.METRIC_INNER_PRODUCT
    return _choices("cell", steps, centroids[None], by_product=by_product)


def _additive_shape(core: FaissIndex) -> tuple[int, int]:
    """Number of codebooks, and the bits of each."""
    bits = [core.aq.nbits.at(i) for i in range(core.aq.nbits.size())]
    if len(set(bits)) > 1:
        raise FaissIndexError(
            f"loss_f 'assignment' on codebooks of different sizes ({bits} bits): take loss_f cossim"
        )
    return len(bits), bits[0]


def _additive_books(core: FaissIndex) -> Rows:
    """Codebooks M×K×d whose words add up to what is decoded; of products each is zero beyond its own components."""
    count, width = _additive_shape(core)
    size = 2**width
    words = np.zeros((count * size + 1, count), np.int32)
    words[np.arange(count * size), np.repeat(np.arange(count), size)] = np.tile(np.arange(size), count)
    codes = np.zeros((len(words), core.sa_code_size()), np.uint8)  # a norm may come after the words
    packed = import_faiss().pack_bitstrings(words, width)
    codes[:, : packed.shape[1]] = packed
    decoded = core.sa_decode(codes)
    # the other codebooks' first words are in each; all of them together are shared out
    books: Rows = (decoded[:-1] - decoded[-1]).reshape(count, size, -1) + decoded[-1] / np.float32(count)
    return books


def _bits_per_level(core: FaissIndex) -> int:
    return int(core.code_size) * 8 // int(core.d)


def _levels(core: FaissIndex) -> Rows:
    """Decoded values of all codes of each dimension: d×K×1."""
    width = _bits_per_level(core)
    codes = np.repeat(np.arange(2**width, dtype=np.int32)[:, None], core.d, axis=1)
    levels: Rows = core.sa_decode(import_faiss().pack_bitstrings(codes, width)).T[:, :, None]
    return levels


def _two_sides(count: int) -> Rows:
    """Bits: below zero and above, count×2×1, a distance of 1 apart."""
    return np.tile(np.array([-0.5, 0.5], np.float32)[None, :, None], (count, 1, 1))


def _lsh_steps(core: FaissIndex) -> tuple[Step, ...]:
    faiss = import_faiss()
    rotation = (_step(core.rrot),) if core.rotate_data else ()
    if not core.train_thresholds:
        # without rotation the first components are taken, in their order
        return rotation
    return (*rotation, Step(shift=_tensor(faiss.vector_to_array(core.thresholds))))


def _step(transform: Any) -> Step:
    faiss = import_faiss()
    if isinstance(transform, faiss.NormalizationTransform):
        return Step(normalise=True)
    if isinstance(transform, faiss.ITQTransform):
        mean, inner = _tensor(faiss.vector_to_array(transform.mean)), _step(transform.pca_then_itq)
        return replace(inner, shift=mean, normalise=True)
    # the others are affine: what they do to zero and to the axes says all
    bias = transform.apply(np.zeros((1, transform.d_in), np.float32))
    axes = transform.apply(np.eye(transform.d_in, dtype=np.float32)) - bias
    return Step(matrix=_tensor(axes.T), bias=_tensor(bias[0]) if bias.any() else None)


def _tensor(values: Any) -> Tensor:
    return torch.from_numpy(np.array(values, np.float32))
