"""What an approximate search is measured against: the exhaustive one, and the clock."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from aindex.errors import DataError

SEARCH_COLUMNS = ("nprobe", "k", "ms_per_query", "queries")

Array = npt.NDArray[Any]


@torch.no_grad()
def exhaustive_ranks(
    queries: Array,
    references: Sequence[Array],
    true_ids: npt.ArrayLike,
    *,
    metric: Literal["L2", "IP"] = "L2",
    device: str | torch.device = "cpu",
    chunk_rows: int = 65_536,
) -> npt.NDArray[np.int64]:
    """Each true answer's rank, from 0, if every query were compared with every descriptor as it is.

    This is the ceiling of an approximate index. As in an exact search the smaller id wins a tie.

    Args:
        queries: nq×d descriptors of edited copies.
        references: matrices n_i×d whose rows, one matrix after the other, have the ids 0, 1, …; memory maps
            are read in pieces.
        true_ids: nq ids.
        metric: the index's.
        device: where to multiply.
        chunk_rows: references per step; memory is about 512 × chunk_rows × 4 bytes.

    Raises:
        DataError: an id is not among the references.
    """
    ids = np.asarray(true_ids, dtype=np.int64)
    starts = np.cumsum([0, *(len(matrix) for matrix in references)])
    if ids.size and not 0 <= ids.min() <= ids.max() < starts[-1]:
        raise DataError(
            f"true ids {ids.min()} to {ids.max()}: expected ids among the {starts[-1]} references"
        )
    weight = 1.0 if metric == "L2" else 0.0

    def remoteness(block: Array, rows: torch.Tensor) -> torch.Tensor:
        # squared distance without the query's own norm, which does not change the order; or −similarity
        matrix = torch.from_numpy(np.array(block, dtype=np.float32)).to(device)
        return torch.addmm(weight * matrix.square().sum(1), rows, matrix.T, alpha=-(1.0 + weight))

    ranks = np.zeros(len(ids), dtype=np.int64)
    for first in range(0, len(ids), 512):
        part = slice(first, first + 512)
        rows = torch.from_numpy(np.array(queries[part], dtype=np.float32)).to(device)
        true = torch.from_numpy(ids[part]).to(device)
        own = np.stack([references[m][i - starts[m]] for i, m in _located(ids[part], starts)])
        limit = remoteness(own, rows).diagonal()[:, None]
        for start, matrix in zip(starts, references, strict=False):
            for row in range(0, len(matrix), chunk_rows):
                away = remoteness(matrix[row : row + chunk_rows], rows)
                candidate = torch.arange(away.shape[1], device=device) + int(start) + row
                closer = (away < limit) | ((away == limit) & (candidate < true[:, None]))
                # the same vector in another matrix product may round differently: never closer than itself
                closer &= candidate != true[:, None]
                ranks[part] += closer.sum(1).cpu().numpy()
    return ranks


def _located(ids: npt.NDArray[np.int64], starts: Array) -> list[tuple[int, int]]:
    """Each id with the number of the matrix that holds its row."""
    return [(int(i), int(np.searchsorted(starts, i, side="right")) - 1) for i in ids]


def time_search(
    search: Callable[[Array, int, int | None], object],
    queries: Array,
    *,
    nprobes: Sequence[int | None] = (1, 16, 32),
    neighbours: Sequence[int] = (1, 100),
    repeats: int = 3,
) -> pd.DataFrame:
    """Rows of `search_df.csv`: milliseconds per query of a whole batch, the median of some repeats.

    Args:
        search: called as `search(queries, k, nprobe)`.
        queries: nq×d.
        nprobes: visited cells; `(None,)` for an index without cells.
        neighbours: values of k.
        repeats: timed calls per setting, after one that is not timed.

    Raises:
        DataError: there are no queries.
    """
    if len(queries) == 0:
        raise DataError("0 queries to time a search with: expected at least 1")
    rows = []
    for nprobe in nprobes:
        for k in neighbours:
            search(queries, k, nprobe)
            seconds = []
            for _ in range(repeats):
                started = time.perf_counter()
                search(queries, k, nprobe)
                seconds.append(time.perf_counter() - started)
            ms = 1000 * float(np.median(seconds)) / len(queries)
            rows.append({"nprobe": nprobe, "k": k, "ms_per_query": ms, "queries": len(queries)})
    return pd.DataFrame(rows, columns=list(SEARCH_COLUMNS)).astype({"nprobe": "Int64"})
