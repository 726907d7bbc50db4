"""What searches in an index cost: rows that a query is compared with, and bytes that a picture takes."""

import numpy as np
import numpy.typing as npt

from aindex.index.backend import Ids
from aindex.index.sharded import AnyIndex, ShardedIndex


class SearchCosts:
    """Counts once how many rows each cell of a filled index holds; collective for shards."""

    def __init__(self, index: AnyIndex) -> None:
        self._index = index
        self._sizes: Ids | None = None
        ivf = index.quantiser.ivf
        if ivf is not None:
            lists = ivf.invlists
            self._sizes = np.array([lists.list_size(cell) for cell in range(ivf.nlist)], np.int64)
            if isinstance(index, ShardedIndex):
                self._sizes = np.sum(index.gather(self._sizes), axis=0)

    def scanned_rows(self, visited: Ids | None, queries: int) -> npt.NDArray[np.float64]:
        """Rows that each query is compared with: nq; nan where a graph is searched.

        Args:
            visited: nq×nprobe cells (`Quantiser.visited`); None for an index without cells.
            queries: nq.
        """
        if visited is not None and self._sizes is not None:
            sizes = np.where(visited >= 0, self._sizes[visited], 0)
            return np.asarray(sizes.sum(axis=1), np.float64)
        everything = np.nan if self._index.quantiser.is_graph else self._index.ntotal
        return np.full(queries, everything, np.float64)

    @property
    def bytes_per_picture(self) -> float | None:
        """Codes, ids and numbers of rows in memory, per picture; None where the codes' size is not known."""
        return self._index.owners.bytes_per_picture(self._index.quantiser.row_bytes)
