"""Whether two indexes would file every descriptor alike: what released pictures were activated against must stay."""

import numpy as np

from aindex.index.backend import FaissIndex, Rows, import_faiss
from aindex.index.quantiser import Quantiser
from aindex.index.structure import IndexParts, take_apart

_PROBES = 256


def quantiser_difference(one: FaissIndex, other: FaissIndex) -> str | None:
    """How the trained part of an index differs from that of another: a few words, or None if it does not.

    Cells and codebook are compared bit by bit, and so is what both indexes store for a few test vectors.
    """
    if one.d != other.d:
        return f"dimension {one.d}, not {other.d}"
    parts, others = take_apart(one), take_apart(other)
    cells, other_cells = _centroids(parts), _centroids(others)
    if cells is not None and other_cells is not None:
        if len(cells) != len(other_cells):
            return f"{len(cells)} cells, not {len(other_cells)}"
        changed = int((cells != other_cells).any(axis=1).sum())
        if changed:
            return f"{changed} of {len(cells)} centroids are others"
    if _codebook(parts) != _codebook(others):
        return "another codebook"
    if one.metric_type != other.metric_type:
        return "another metric"
    probes = np.random.default_rng(0).standard_normal((_PROBES, one.d)).astype(np.float32)
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    if not np.array_equal(Quantiser(one).stored(probes), Quantiser(other).stored(probes)):
        return "other points are stored for the same descriptors"
    return None


def _centroids(parts: IndexParts) -> Rows | None:
    coarse = parts.flat_coarse
    if coarse is None:
        return None
    centroids: Rows = coarse.reconstruct_n(0, coarse.ntotal)
    return centroids


def _codebook(parts: IndexParts) -> bytes | None:
    pq = getattr(parts.core, "pq", None)
    return None if pq is None else bytes(import_faiss().vector_to_array(pq.centroids).tobytes())
