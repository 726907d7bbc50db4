"""Originals whose descriptor the index holds in other rows too: the same picture under other names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from aindex.index.backend import Ids, Rows
from aindex.index.neighbours import Found
from aindex.index.reference_index import ReferenceIndex

TOLERANCE = 2e-3
"""Largest squared distance, in squared lengths, of descriptors of the same pixels: bf16 rounds off some 5e-4, while
other pictures, those of one burst among them, lie at 1e-2 and more."""

_MOST = 100
"""Twins of an original that are looked for; a picture that is there more often than that is a blank one."""
_ROWS, _ORIGINALS = 16_384, 2_048


@dataclass(frozen=True)
class Twins:
    """Rows that hold what an original's own row holds: by the original's id, the ids of its twins."""

    rows: Mapping[int, Sequence[int]] = field(default_factory=dict)

    @property
    def extra(self) -> int:
        """How many rows more than wanted a search must return, so that enough are left without twins."""
        return max(map(len, self.rows.values()), default=0)

    def as_one(
        self, distances: npt.NDArray[np.float32], ids: Ids, own: Ids, k: int, *, worst: float
    ) -> Found:
        """What a search finds if an original and its twins are one row.

        Args:
            distances: nq×(k + extra), or as many as there are rows.
            ids: of the same shape; −1 for an empty place.
            own: nq rows of the originals that the queries are copies of; −1 for a query that is none.
            k: neighbours to keep.
            worst: distance of an empty place.

        Returns:
            Distances and ids, nq×k: the nearest of an original and its twins under the original's own row.
        """
        found = np.full((len(ids), k), -1, dtype=np.int64)
        away = np.full((len(ids), k), worst, dtype=np.float32)
        for query, row in enumerate(own.tolist()):
            same = np.isin(ids[query], [row, *self.rows.get(row, ())])
            keep = ~same
            if same.any():
                keep[int(same.argmax())] = True
            kept = np.flatnonzero(keep)[:k]
            found[query, : len(kept)] = np.where(same[kept], row, ids[query, kept])
            away[query, : len(kept)] = distances[query, kept]
        return away, found


def twins_by_descriptor(
    rows: Sequence[Rows], descriptors: Rows, own: Ids, *, device: torch.device | str = "cpu"
) -> Twins:
    """Twins by the descriptors of all rows, which may be a file mapped into memory.

    Args:
        rows: matrices n_i×d whose rows, one matrix after the other, have the ids 0, 1, ….
        descriptors: m×d of the originals.
        own: their m rows.
        device: where to multiply.
    """
    found: dict[int, list[int]] = {}
    originals = torch.from_numpy(np.array(descriptors, dtype=np.float32)).to(device)
    lengths = originals.square().sum(dim=1)
    start = 0
    for matrix in rows:
        for begin in range(0, len(matrix), _ROWS):
            block = torch.from_numpy(np.array(matrix[begin : begin + _ROWS], dtype=np.float32)).to(device)
            for first in range(0, len(originals), _ORIGINALS):
                part = slice(first, first + _ORIGINALS)
                for position, place in _equal(originals[part], lengths[part], block):
                    row, other = int(own[first + position]), start + begin + place
                    if other != row and len(found.setdefault(row, [])) < _MOST:
                        found[row].append(other)
        start += len(matrix)
    return Twins({row: others for row, others in found.items() if others})


def _equal(originals: torch.Tensor, lengths: torch.Tensor, block: torch.Tensor) -> list[tuple[int, int]]:
    """Pairs of positions whose descriptors are equal but for rounding."""
    squared = lengths[:, None] + block.square().sum(dim=1) - 2 * originals @ block.T
    return [(pair[0], pair[1]) for pair in (squared <= TOLERANCE * lengths[:, None]).nonzero().tolist()]


def twins_by_code(index: ReferenceIndex, descriptors: Rows, own: Ids) -> Twins:
    """Twins of an index that keeps no descriptors: rows with the same code, which no search can tell apart.

    Args:
        index: with the originals in it.
        descriptors, own: as for :func:`twins_by_descriptor`.
    """
    distances, ids = index.search(descriptors, min(_MOST, index.pictures))
    is_own = ids == own[:, None]
    # the same code is at the same distance wherever it lies
    own_distance = distances[np.arange(len(ids)), is_own.argmax(axis=1)]
    is_twin = (distances == own_distance[:, None]) & is_own.any(axis=1)[:, None] & ~is_own & (ids >= 0)
    found: dict[int, list[int]] = {}
    for position, place in np.argwhere(is_twin).tolist():
        found.setdefault(int(own[position]), []).append(int(ids[position, place]))
    return Twins(found)
