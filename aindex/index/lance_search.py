"""Searches in a Lance dataset in the place of FAISS's, for an index that was exported to it."""

from pathlib import Path
from typing import Any

import numpy as np

from aindex.errors import FaissIndexError
from aindex.index.backend import Rows
from aindex.index.lance_dataset import LanceIndex, lance_errors, open_index
from aindex.index.neighbours import Found, by_distance_then_id
from aindex.index.reference_index import ReferenceIndex
from aindex.index.rows import Descriptors, as_rows, check_k

_TOGETHER = 1024


class LanceReferenceIndex(ReferenceIndex):
    """An index whose searches run in a Lance dataset that holds its rows; everything else is FAISS's.

    Made by `open` and `search_in`. Equally close rows come by their id, but which of those that are as close as the
    last one are among the k is Lance's choice; distances differ from FAISS's in their last digits.
    """

    _engine: LanceIndex | None = None

    def search_in(self, dataset: Path | str) -> None:
        """Search in this dataset from now on; it has a column `id`, as an export writes it.

        Raises:
            FaissIndexError: no such dataset, without an index, or of other rows.
        """
        found = open_index(str(dataset))
        with lance_errors(f"{str(dataset)!r} cannot be read", "export the index again"):
            rows, columns = found.dataset.count_rows(), found.dataset.schema.names
        if rows != self.ntotal or "id" not in columns:
            raise FaissIndexError(
                f"{str(dataset)!r} has {rows} rows and the columns {', '.join(columns)}: expected "
                f"{self.ntotal} rows and id among the columns; export the index again"
            )
        self._engine = found

    def search(self, descriptors: Descriptors, k: int, nprobe: int | None = None) -> Found:
        """As :meth:`ReferenceIndex.search`, by Lance."""
        if self._engine is None:
            return super().search(descriptors, k, nprobe)
        rows = as_rows(descriptors, self.dim, "the queries")
        check_k(k, self.pictures)
        depth = min(self.ntotal, k * self.owners.most)  # among so many rows there are k pictures
        distances = np.full((len(rows), depth), np.finfo(np.float32).max, np.float32)
        if self.larger_is_closer:
            distances = -distances
        ids = np.full((len(rows), depth), -1, np.int64)
        for begin in range(0, len(rows), _TOGETHER):
            table = _nearest(self._engine, rows[begin : begin + _TOGETHER], depth, nprobe or self.nprobe)
            query = begin + table["query_index"].to_numpy()
            place = np.arange(len(query)) - np.searchsorted(query, query)
            found = table["_distance"].to_numpy()
            distances[query, place] = 1 - found if self._engine.trained.metric == "dot" else found
            ids[query, place] = table["id"].to_numpy()
        ordered = by_distance_then_id(distances, ids, depth, self.larger_is_closer)
        return self.owners.nearest_pictures(*ordered, k, self.larger_is_closer)


def _nearest(engine: LanceIndex, queries: Rows, k: int, nprobe: int) -> Any:
    """What Lance finds, query by query: a table with `query_index`, `id` and `_distance`."""
    nearest: dict[str, Any] = {
        "column": engine.column,
        "q": queries,
        "k": k,
        # with fewer of them given Lance would look into more cells as it sees fit
        "nprobes": nprobe,
        "minimum_nprobes": nprobe,
        "maximum_nprobes": nprobe,
    }
    with lance_errors("the search failed", "export the index again"):
        return engine.dataset.to_table(columns=["id", "_distance"], nearest=nearest)
