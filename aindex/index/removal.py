"""Rows taken out of a FAISS index; those after them move up."""

import numpy as np

from aindex.errors import FaissIndexError
from aindex.index.backend import FaissIndex, Ids, faiss_errors, import_faiss
from aindex.index.structure import take_apart


def remove_rows(index: FaissIndex, rows: Ids) -> None:
    """Remove rows in memory; the others keep their order and are numbered anew.

    Args:
        index: with its rows in memory.
        rows: their numbers.

    Raises:
        FaissIndexError: the kind of index cannot lose rows.
    """
    faiss, parts = import_faiss(), take_apart(index)
    rows = np.unique(np.asarray(rows, np.int64))
    cannot = f"rows cannot be removed from an index of this kind ({parts.kind})"
    remedy = "build it again without them"
    if parts.refine is not None or parts.graph is not None:
        raise FaissIndexError(f"{cannot}: {remedy}")
    with faiss_errors(cannot, remedy):
        index.remove_ids(faiss.IDSelectorBatch(rows))
    if parts.ivf is not None:
        renumber(parts.ivf.invlists, rows)


def renumber(lists: FaissIndex, removed: Ids) -> None:
    """Close the gaps that removed rows left in the ids of inverted lists."""
    faiss = import_faiss()
    for cell in range(lists.nlist):
        count = lists.list_size(cell)
        if count:
            ids = faiss.rev_swig_ptr(lists.get_ids(cell), count)
            ids -= np.searchsorted(removed, ids)


def copy_without(source: FaissIndex, target: FaissIndex, removed: Ids) -> None:
    """Put the entries of inverted lists into empty ones, but for removed rows, under their new numbers.

    Args:
        source: lists that may be mapped from a file.
        target: of the same number of cells and size of code.
        removed: sorted numbers of rows.
    """
    faiss = import_faiss()
    for cell in range(source.nlist):
        count = source.list_size(cell)
        if not count:
            continue
        ids = np.array(faiss.rev_swig_ptr(source.get_ids(cell), count))
        codes = faiss.rev_swig_ptr(source.get_codes(cell), count * source.code_size).reshape(count, -1)
        kept = np.flatnonzero(~np.isin(ids, removed))
        if len(kept):
            new_ids = ids[kept] - np.searchsorted(removed, ids[kept])
            entries = np.ascontiguousarray(codes[kept])
            target.add_entries(cell, len(kept), faiss.swig_ptr(new_ids), faiss.swig_ptr(entries))
