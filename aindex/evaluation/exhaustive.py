"""Exhaustive search, the ceiling of an approximate one, and search times."""

import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from aindex.errors import DataError

SEARCH_COLUMNS = ("nprobe", "k", "ms_per_query", "queries")

Array = npt.NDArray[Any]

_QUERIES = 512
"""Queries of one matrix product."""


class ExhaustiveSearch:
    """Compares queries with every descriptor, not with its code.

    Args:
        references: matrices n_i×d whose rows, one matrix after the other, have the ids 0, 1, …; memory maps
            are read in pieces.
        metric: the index's.
        device: where to multiply; a GPU keeps the references if they fill no more than half of what is free.
        chunk_rows: references per step; memory is about 512 × chunk_rows × 4 bytes.
    """

    def __init__(
        self,
        references: Sequence[Array],
        *,
        metric: Literal["L2", "IP"] = "L2",
        device: str | torch.device = "cpu",
        chunk_rows: int = 65_536,
    ) -> None:
        self._references = list(references)
        self._starts = np.cumsum([0, *(len(matrix) for matrix in references)])
        self._weight = 1.0 if metric == "L2" else 0.0
        self._device = torch.device(device)
        self._pieces: list[tuple[int, Array | torch.Tensor]] = [
            (int(start) + row, matrix[row : row + chunk_rows])
            for start, matrix in zip(self._starts, references, strict=False)
            for row in range(0, len(matrix), chunk_rows)
        ]
        self._norms: list[torch.Tensor] = []

    @torch.no_grad()
    def ranks(
        self,
        queries: Array,
        true_ids: npt.ArrayLike,
        *,
        twins: Mapping[int, Sequence[int]] = MappingProxyType({}),
    ) -> npt.NDArray[np.int64]:
        """The rank of each true answer, from 0; in a tie the smaller id comes first.

        Args:
            queries: nq×d descriptors of edited copies.
            true_ids: nq ids.
            twins: by a true id, other ids that are as right; they are not counted before it.

        Raises:
            DataError: an id is not among the references.
        """
        ids = np.asarray(true_ids, dtype=np.int64)
        if ids.size and not 0 <= ids.min() <= ids.max() < self._starts[-1]:
            raise DataError(
                f"true ids {ids.min()} to {ids.max()}: expected ids among the {self._starts[-1]} references"
            )
        self._prepare()
        ranks = np.zeros(len(ids), dtype=np.int64)
        for first in range(0, len(ids), _QUERIES):
            part = slice(first, first + _QUERIES)
            ranks[part] = self._ranks(self._matrix(queries[part]), ids[part], twins)
        return ranks

    def _ranks(
        self, rows: torch.Tensor, ids: npt.NDArray[np.int64], twins: Mapping[int, Sequence[int]]
    ) -> npt.NDArray[np.int64]:
        right = [(query, twin) for query, i in enumerate(ids.tolist()) for twin in twins.get(i, ())]
        true = torch.from_numpy(ids).to(self._device)
        own = self._matrix(np.stack([self._row(i) for i in ids]))
        limit = self._remoteness(own, own.square().sum(1), rows).diagonal()[:, None]
        closer = torch.zeros(len(ids), dtype=torch.int64, device=self._device)
        for (first, piece), norms in zip(self._pieces, self._norms, strict=True):
            away = self._remoteness(self._matrix(piece), norms, rows)
            candidate = torch.arange(away.shape[1], device=self._device) + first
            is_closer = (away < limit) | ((away == limit) & (candidate < true[:, None]))
            # the same vector in another matrix product may round differently: never closer than itself
            is_closer &= candidate != true[:, None]
            for query, twin in right:
                if first <= twin < first + is_closer.shape[1]:
                    is_closer[query, twin - first] = False
            closer += is_closer.sum(1)
        return closer.cpu().numpy()

    def _row(self, i: int) -> Array:
        number = int(np.searchsorted(self._starts, i, side="right")) - 1
        return np.asarray(self._references[number][i - self._starts[number]])

    def _prepare(self) -> None:
        """Compute squared norms once; copy the references to the GPU if they fit."""
        if self._norms or not self._pieces:
            return
        if self._device.type == "cuda":
            size = sum(matrix.nbytes for matrix in self._references)
            if 2 * size < torch.cuda.mem_get_info(self._device)[0]:
                self._pieces = [(first, self._matrix(piece)) for first, piece in self._pieces]
        self._norms = [self._matrix(piece).square().sum(1) for _, piece in self._pieces]

    def _matrix(self, rows: Array | torch.Tensor) -> torch.Tensor:
        if isinstance(rows, torch.Tensor):
            return rows
        # a file that is mapped read-only is copied piece by piece
        return torch.from_numpy(np.require(rows, np.float32, ["C", "W"])).to(self._device)

    def _remoteness(self, matrix: torch.Tensor, norms: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Squared distance minus the query's squared norm (which keeps the order), or −similarity."""
        return torch.addmm(self._weight * norms, rows, matrix.T, alpha=-(1.0 + self._weight))


def time_search(
    search: Callable[[Array, int, int | None], object],
    queries: Array,
    *,
    nprobes: Sequence[int | None] = (1, 16, 32),
    neighbours: Sequence[int] = (1, 100),
    repeats: int = 5,
) -> pd.DataFrame:
    """Rows of `search_df.csv`: milliseconds per query of a whole batch, the fastest of some repeats.

    Args:
        search: called as `search(queries, k, nprobe)`.
        queries: nq×d.
        nprobes: visited cells; `(None,)` for an index without cells.
        neighbours: values of k.
        repeats: timed calls per setting, after one that is not timed; 1 or more.

    Raises:
        DataError: there are no queries.
    """
    if len(queries) == 0:
        raise DataError("0 queries to time a search with: expected at least 1")
    seconds: dict[tuple[int | None, int], list[float]] = {
        (nprobe, k): [] for nprobe in nprobes for k in neighbours
    }
    # what else the machine does makes some calls slower: in turns, so that it meets all settings alike, and the
    # fastest call counts; the first turn only warms up
    for turn in range(repeats + 1):
        for (nprobe, k), times in seconds.items():
            started = time.perf_counter()
            search(queries, k, nprobe)
            if turn:
                times.append(time.perf_counter() - started)
    rows = [
        {"nprobe": nprobe, "k": k, "ms_per_query": 1000 * min(times) / len(queries)}
        for (nprobe, k), times in seconds.items()
    ]
    table = pd.DataFrame(rows).assign(queries=len(queries))
    return table[list(SEARCH_COLUMNS)].astype({"nprobe": "Int64"})
