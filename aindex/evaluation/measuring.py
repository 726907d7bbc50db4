"""Measurements of images, their edited copies and the index, beside the answers of the search."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from aindex.data.released import SourceImage
from aindex.descriptors.files import Matrix
from aindex.edits import Attack
from aindex.errors import FaissIndexError
from aindex.evaluation.analyses import INDEX_COLUMNS, image_rows, query_rows
from aindex.evaluation.exhaustive import ExhaustiveSearch, time_search
from aindex.evaluation.measures import IMAGES_FILE, columns_of
from aindex.index.costs import SearchCosts
from aindex.index.filling import AnyIndex
from aindex.index.twins import Twins

_TIMED_QUERIES = 200
_NPROBES = (1, 16, 32)
_NEIGHBOURS = (1, 100)
_EXTRA_COLUMNS = ("file", "loss", "feature_loss", "image_loss")


class Analyses:
    """Coarse cells, distances to codes, and exhaustive ranks of edited copies.

    Columns stay empty where the index has no cells, or codes that FAISS cannot decode.

    Args:
        index: the copies are searched in it.
        images: the originals.
        descriptors: n×d, theirs.
        rows: descriptors of all pictures in the index, see `BuildIndex.row_descriptors`; None if they are not known.
        own_rows: per original the r×d descriptors of its rows in the index; None if that is its own descriptor.
        twins: rows that count as an original's own.
        device: where the exhaustive search multiplies.

    With shards all ranks must make one together.
    """

    def __init__(
        self,
        index: AnyIndex,
        images: Sequence[SourceImage],
        descriptors: npt.NDArray[np.float32],
        rows: Sequence[Matrix] | None,
        own_rows: Sequence[Matrix] | None = None,
        *,
        twins: Twins | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._index, self._images, self._descriptors = index, images, descriptors
        self._twins = twins or Twins()
        self._own_rows = descriptors[:, None] if own_rows is None else _padded(own_rows)  # n×r×d
        self._costs = SearchCosts(index)
        self._ids = np.array([image.index_id for image in images], dtype=np.int64)
        self._exhaustive = (
            None if rows is None else ExhaustiveSearch(rows, metric=index.metric, device=device)
        )

    @property
    def knows_ceiling(self) -> bool:
        """Whether an exhaustive search is possible."""
        return self._exhaustive is not None

    def index(self, extractor: str, kneighbors: int) -> pd.DataFrame:
        """The row of `index_df.csv`."""
        index = self._index
        rows = [len(rows) for rows in index.owners.rows_of(self._ids)]
        values = {
            # a file's place on one machine says nothing on another
            "extractor": Path(extractor).name,
            "idx_factory": index.idx_factory,
            "metric": index.metric,
            "nprobe": index.nprobe,
            "cells": index.quantiser.cell_count,
            "kneighbors": kneighbors,
            "pictures": index.pictures,
            "rows": index.ntotal,
            "rows_per_picture": float(np.mean(rows)),
            "bytes_per_picture": self._costs.bytes_per_picture,
        }
        return pd.DataFrame([values], columns=list(INDEX_COLUMNS))

    @cached_property
    def _cells(self) -> npt.NDArray[np.int64] | None:
        count, most, dim = self._own_rows.shape
        cells = self._index.quantiser.cells(self._own_rows.reshape(-1, dim))
        return None if cells is None else cells.reshape(count, most)

    @cached_property
    def _stored(self) -> npt.NDArray[np.float32] | None:
        """What the index stores for the originals, n×r×d."""
        try:
            self._index.quantiser.stored(self._descriptors[:1])
        except FaissIndexError:
            # a kind of index whose codes FAISS cannot decode
            return None
        rows = self._own_rows.reshape(-1, self._own_rows.shape[2])
        return self._index.quantiser.stored(rows).reshape(self._own_rows.shape)

    def queries(
        self, positions: Sequence[int], attacks: Sequence[Attack], descriptors: npt.NDArray[np.float32]
    ) -> pd.DataFrame:
        """Rows of `queries_df.csv`.

        Args:
            positions: nq numbers of the originals.
            attacks: nq.
            descriptors: nq×d of the copies.
        """
        visited = self._index.quantiser.visited(descriptors, self._index.nprobe)
        rows = list(positions)
        stored = None if self._stored is None else self._stored[rows]
        return query_rows(
            image_index=self._ids[rows],
            attack=[attack.name for attack in attacks],
            attack_param=[attack.param for attack in attacks],
            cells=None if visited is None else visited[:, 0],
            original_cells=None if self._cells is None else self._cells[rows],
            code_distance=self.code_distance(descriptors),
            stored_distance=None if stored is None else _nearest_distances(descriptors, stored).round(7),
            exhaustive_rank=self._exhaustive.ranks(descriptors, self._ids[rows], twins=self._twins.rows)
            if self._exhaustive
            else None,
            scanned_rows=self._costs.scanned_rows(visited, len(rows)),
        )

    def code_distance(self, descriptors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64] | None:
        """Squared distances of n×d descriptors to their own codes, n; None for an index without codes."""
        if self._stored is None:
            return None
        return self._index.quantiser.code_distance(descriptors).astype(np.float64).round(7)

    def images(
        self, measured: Mapping[int, Mapping[str, Any]], released: pd.DataFrame | None
    ) -> pd.DataFrame:
        """Rows of `images_df.csv`, followed by what activation noted.

        Args:
            measured: by the image's position its `Quality` and `code_distance_released`; images that could not be
                activated are missing.
            released: a row per released image, or None where nothing was activated in this run.
        """
        positions = sorted(measured)
        columns = {
            name: [measured[position][name] for position in positions]
            for name in columns_of(IMAGES_FILE)
            if positions and name in measured[positions[0]]
        }
        rows = image_rows(
            image_index=self._ids[positions],
            names=[self._images[position].name for position in positions],
            code_distance_original=self.code_distance(self._descriptors[positions]),
            activation_seconds=None if released is None else released["seconds"].round(6),
            **columns,
        )
        return rows if released is None else rows.assign(**{name: released[name] for name in _EXTRA_COLUMNS})

    def search_times(self) -> pd.DataFrame:
        """Rows of `search_df.csv`: the originals' descriptors at several nprobe and k; collective for shards."""
        cells = self._index.quantiser.cell_count
        nprobes: list[int | None] = [None]
        if cells is not None:
            nprobes = [nprobe for nprobe in _NPROBES if nprobe <= cells]
        return time_search(
            self._index.search,
            self._descriptors[:_TIMED_QUERIES],
            nprobes=nprobes,
            neighbours=[k for k in _NEIGHBOURS if k <= self._index.pictures],
        )


def _padded(rows: Sequence[Matrix]) -> npt.NDArray[np.float32]:
    """Per original r×d to n×r×d, the first row repeated where there are fewer."""
    most = max(len(some) for some in rows)
    return np.stack([np.concatenate([some, np.repeat(some[:1], most - len(some), axis=0)]) for some in rows])


def _nearest_distances(
    descriptors: npt.NDArray[np.float32], stored: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Squared distance of each descriptor, nq×d, to the nearest of its original's rows, nq×r×d."""
    differences = descriptors[:, None].astype(np.float64) - stored
    nearest: npt.NDArray[np.float64] = np.square(differences).sum(axis=2).min(axis=1)
    return nearest
