"""The inverted lists of an index, entry by entry: which rows lie in which cell, and their codes."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from aindex.errors import FaissIndexError
from aindex.index.backend import FaissIndex, Ids, faiss_errors, import_faiss
from aindex.index.structure import has_plain_lists, take_apart

Codes = npt.NDArray[np.uint8]
Cells = npt.NDArray[np.int32]


class ListEntries(NamedTuple):
    """Some entries of one list: the list's number, n ids, and codes n×bytes."""

    cell: int
    ids: Ids
    codes: Codes


def list_ids(ivf: FaissIndex) -> Ids:
    """The ids of all entries, list after list: n."""
    return np.concatenate([np.empty(0, np.int64), *(ids for _, ids in _ids_by_cell(ivf.invlists))])


def list_entries(ivf: FaissIndex) -> Iterator[ListEntries]:
    """The lists that hold something, one after the other, copied; lists on the disk are read one at a time.

    Raises:
        FaissIndexError: the codes of several rows are packed together.
    """
    faiss, lists = import_faiss(), ivf.invlists
    if not has_plain_lists(ivf):
        raise FaissIndexError(
            f"{type(faiss.downcast_index(ivf)).__name__} packs the codes of its rows together: expected IVF…,PQ…, "
            "IVF…,SQ… or IVF…,Flat; add the rows to such an index with the same centroids"
        )
    for cell, ids in _ids_by_cell(lists):
        codes = faiss.rev_swig_ptr(lists.get_codes(cell), ids.size * ivf.code_size)
        yield ListEntries(cell, ids.copy(), codes.reshape(ids.size, -1).copy())


def entries_without(ivf: FaissIndex, removed: Ids) -> Iterator[ListEntries]:
    """The entries of all rows but some, whose ids are sorted; the rows after those move up."""
    for cell, ids, codes in list_entries(ivf):
        kept = ~np.isin(ids, removed)
        yield ListEntries(cell, ids[kept] - np.searchsorted(removed, ids[kept]), codes[kept])


def replace_lists(index: FaissIndex, entries: Iterable[ListEntries], lists: FaissIndex | None = None) -> None:
    """Put other entries in the place of all that an index holds; in each list in the order of ids.

    Args:
        index: with cells.
        entries: of as many rows as there are different ids, at most once per cell.
        lists: empty ones that get them, such as lists on the disk; None for lists in memory.
    """
    faiss, ivf = import_faiss(), take_apart(index).ivf
    assert ivf is not None
    if lists is None:
        lists = faiss.ArrayInvertedLists(ivf.nlist, ivf.code_size)
    rows = 0
    for cell, ids, codes in entries:
        order = np.argsort(ids, kind="stable")
        ids, codes = np.ascontiguousarray(ids[order]), np.ascontiguousarray(codes[order])
        lists.add_entries(cell, len(ids), faiss.swig_ptr(ids), faiss.swig_ptr(codes))
        rows += len(ids)
    put_lists(index, lists, rows)


def put_lists(index: FaissIndex, lists: FaissIndex, rows: int) -> None:
    """Give an index these lists, which hold so many rows, in the place of its own."""
    ivf: FaissIndex = take_apart(index).ivf
    ivf.set_direct_map_type(import_faiss().DirectMap.NoMap)
    ivf.replace_invlists(lists, True)
    # the index owns them now
    lists.this.disown()
    index.ntotal = ivf.ntotal = rows


def remove_rows(index: FaissIndex, rows: Ids) -> None:
    """Remove rows, by their sorted numbers, in memory; those after them move up.

    Raises:
        FaissIndexError: the kind of index cannot lose rows.
    """
    parts = take_apart(index)
    cannot = f"rows cannot be removed from an index of this kind ({parts.kind})"
    remedy = "build it again without them"
    if parts.refine is not None or parts.graph is not None:
        raise FaissIndexError(f"{cannot}: {remedy}")
    with faiss_errors(cannot, remedy):
        index.remove_ids(import_faiss().IDSelectorBatch(rows))
    if parts.ivf is not None:
        for _, ids in _ids_by_cell(parts.ivf.invlists):
            ids -= np.searchsorted(rows, ids)  # in FAISS's own memory


def cells_and_codes(ivf: FaissIndex, rows: int) -> tuple[Cells, Codes]:
    """The cell of each row, n, and its code, n×bytes, by id; ids are positions."""
    cells = np.full(rows, -1, np.int32)
    codes = np.zeros((rows, ivf.code_size), np.uint8)
    for cell, ids, part in list_entries(ivf):
        cells[ids], codes[ids] = cell, part
    return cells, codes


def _ids_by_cell(lists: FaissIndex) -> Iterator[tuple[int, Ids]]:
    """The lists that hold something and their ids, as views of FAISS's own memory."""
    for cell in range(lists.nlist):
        size = lists.list_size(cell)
        if size:
            yield cell, import_faiss().rev_swig_ptr(lists.get_ids(cell), size)
