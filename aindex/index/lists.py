"""The inverted lists of an index, entry by entry: which rows lie in which cell, and their codes."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from aindex.errors import FaissIndexError
from aindex.index.backend import FaissIndex, Ids, import_faiss

Codes = npt.NDArray[np.uint8]
Cells = npt.NDArray[np.int32]


class ListEntries(NamedTuple):
    """Some entries of one list.

    Attributes:
        cell: number of the list.
        ids: n.
        codes: n×bytes.
    """

    cell: int
    ids: Ids
    codes: Codes


def list_ids(ivf: FaissIndex) -> Ids:
    """The ids of all entries, list after list: n."""
    faiss, lists = import_faiss(), ivf.invlists
    parts = [np.empty(0, np.int64)]
    for cell in range(ivf.nlist):
        size = lists.list_size(cell)
        if size:
            parts.append(faiss.rev_swig_ptr(lists.get_ids(cell), size).copy())
    return np.concatenate(parts)


def list_entries(ivf: FaissIndex) -> Iterator[ListEntries]:
    """The lists that hold something, one after the other, copied; lists on the disk are read one at a time.

    Raises:
        FaissIndexError: the codes of several rows are packed together.
    """
    faiss, lists = import_faiss(), ivf.invlists
    if type(faiss.downcast_InvertedLists(lists)) not in (
        faiss.ArrayInvertedLists,
        faiss.OnDiskInvertedLists,
    ):
        raise FaissIndexError(
            f"{type(faiss.downcast_index(ivf)).__name__} packs the codes of its rows together: expected IVF…,PQ…, "
            "IVF…,SQ… or IVF…,Flat; add the rows to such an index with the same centroids"
        )
    for cell in range(ivf.nlist):
        size = lists.list_size(cell)
        if size:
            ids = faiss.rev_swig_ptr(lists.get_ids(cell), size).copy()
            codes = faiss.rev_swig_ptr(lists.get_codes(cell), size * ivf.code_size)
            yield ListEntries(cell, ids, codes.reshape(size, -1).copy())


def replace_lists(root: FaissIndex, ivf: FaissIndex, entries: Iterable[ListEntries]) -> None:
    """Put other entries, held in memory, in the place of all that an index holds; in each list in the order of ids.

    Args:
        root: the whole index.
        ivf: the part of it that has the cells.
        entries: of as many rows as there are different ids.
    """
    faiss = import_faiss()
    lists: Any = faiss.ArrayInvertedLists(ivf.nlist, ivf.code_size)
    rows = 0
    for cell, ids, codes in entries:
        order = np.argsort(ids, kind="stable")
        ids, codes = np.ascontiguousarray(ids[order]), np.ascontiguousarray(codes[order])
        lists.add_entries(cell, len(ids), faiss.swig_ptr(ids), faiss.swig_ptr(codes))
        rows += len(ids)
    ivf.set_direct_map_type(faiss.DirectMap.NoMap)
    ivf.replace_invlists(lists, True)
    # the index owns them now
    lists.this.disown()
    root.ntotal = ivf.ntotal = rows


def cells_and_codes(ivf: FaissIndex, rows: int) -> tuple[Cells, Codes]:
    """The cell of each row, n, and its code, n×bytes, by id; ids are positions."""
    cells = np.full(rows, -1, np.int32)
    codes = np.zeros((rows, ivf.code_size), np.uint8)
    for cell, ids, part in list_entries(ivf):
        cells[ids], codes[ids] = cell, part
    return cells, codes
