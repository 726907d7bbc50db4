"""The rows of a Lance index: their cells and codes, as FAISS keeps them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from aindex.errors import FaissIndexError
from aindex.index.backend import FaissIndex, Ids, Rows, import_faiss
from aindex.index.lance_dataset import LanceIndex, float_rows, lance_errors
from aindex.index.lists import Codes, ListEntries, list_entries, replace_lists
from aindex.index.structure import take_apart

_QUIET = "LANCE_INCLUDE_VECTOR_CENTROIDS"


def row_addresses(found: LanceIndex, columns: tuple[str, ...] = ()) -> tuple[Ids, Any]:
    """Lance's ids of the rows that there are, in their order, n; and a table of other columns."""
    with lance_errors(f"the rows of {found.dataset.uri!r} cannot be read", "see whether its files are whole"):
        table = found.dataset.to_table(columns=list(columns), with_row_id=True)
    return table["_rowid"].to_numpy().astype(np.int64), table.drop_columns(["_rowid"])


def entries_of(found: LanceIndex, addresses: Ids) -> Iterator[ListEntries]:
    """The indexed rows cell by cell, under their positions; rows that were deleted since are left out."""
    order = np.argsort(addresses, kind="stable")
    ordered = addresses[order]
    for cell, ids, codes in _stored_entries(found):
        places = np.minimum(np.searchsorted(ordered, ids), max(0, len(ordered) - 1))
        there = ordered[places] == ids if len(ordered) else np.zeros(len(ids), bool)
        if there.any():
            yield ListEntries(cell, order[places[there]].astype(np.int64), codes[there])


def unindexed_rows(found: LanceIndex) -> int:
    """How many rows Lance has not put into the index yet."""
    with lance_errors(f"index {found.name!r} cannot be read", "build it again"), _quiet_statistics():
        return int(found.dataset.stats.index_stats(found.name)["num_unindexed_rows"])


def fill_from_lance(index: FaissIndex, found: LanceIndex, addresses: Ids) -> Ids:
    """Give an empty FAISS index the rows of a Lance index, under their positions.

    Rows that Lance has not put into its index yet are encoded here, as its next optimisation would.

    Returns:
        The positions of those.

    Raises:
        FaissIndexError: a row that is not indexed has no descriptor.
    """
    entries = list(entries_of(found, addresses))
    indexed = np.concatenate([np.empty(0, np.int64), *[one.ids for one in entries]])
    missing: Ids = np.setdiff1d(np.arange(len(addresses)), indexed)
    if len(missing):
        rows, there = stored_descriptors(found, missing)
        if not there.all():
            raise FaissIndexError(
                f"{(~there).sum()} rows of {found.dataset.uri!r} are not in its index and have no "
                f"{found.column}: give them one, and run dataset.optimize.optimize_indices(num_indices_to_merge=1)"
            )
        encoder = import_faiss().clone_index(index)
        encoder.add_with_ids(rows, missing)
        entries += list(list_entries(take_apart(encoder).ivf))
    replace_lists(index, _joined(entries))
    return missing


def _joined(entries: list[ListEntries]) -> Iterator[ListEntries]:
    """One entry per cell, of all parts of it."""
    by_cell: dict[int, list[ListEntries]] = {}
    for entry in entries:
        by_cell.setdefault(entry.cell, []).append(entry)
    for cell, parts in by_cell.items():
        yield ListEntries(
            cell, np.concatenate([one.ids for one in parts]), np.concatenate([one.codes for one in parts])
        )


def stored_descriptors(found: LanceIndex, positions: Ids) -> tuple[Rows, npt.NDArray[np.bool_]]:
    """Descriptors of some rows, n×d, 0 where a row has none; and which have one."""
    with lance_errors(f"rows of {found.dataset.uri!r} cannot be read", "see whether its files are whole"):
        column = found.dataset.take(positions.tolist(), columns=[found.column])[found.column].combine_chunks()
    there: npt.NDArray[np.bool_] = column.is_valid().to_numpy(zero_copy_only=False)
    rows = np.zeros((len(positions), found.trained.centroids.shape[1]), np.float32)
    rows[there] = float_rows(column.drop_null(), f"column {found.column!r}")
    return rows, there


def _stored_entries(found: LanceIndex) -> Iterator[ListEntries]:
    """All entries of the index under Lance's ids, with codes as FAISS keeps them: row after row."""
    from lance.dataset import VectorIndexReader

    with lance_errors(f"index {found.name!r} cannot be read", "build it again"), _quiet_statistics():
        reader = VectorIndexReader(found.dataset, found.name)
        for cell in range(reader.num_partitions()):
            for batch in reader.read_partition(cell, with_vector=True).to_batches():
                ids = batch["_rowid"].to_numpy().astype(np.int64)
                if len(ids):
                    yield ListEntries(cell, ids, _as_rows(batch.column(1), len(ids), found))


def _as_rows(column: Any, count: int, found: LanceIndex) -> Codes:
    values = np.asarray(column.flatten())
    if found.trained.kind == "IVF_FLAT":
        return np.ascontiguousarray(values, np.float32).view(np.uint8).reshape(count, -1)
    # a cell's codes are turned as they are read, all first bytes before all second ones, however they lie in the file
    return np.ascontiguousarray(values.reshape(-1, count).T)


@contextmanager
def _quiet_statistics() -> Iterator[None]:
    """Leave the centroids, as text, out of Lance's statistics, and the warning about them."""
    before = os.environ.get(_QUIET)
    os.environ[_QUIET] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_QUIET]
        else:
            os.environ[_QUIET] = before
