"""Pictures and their own rows in an index."""

from collections.abc import Sequence

import numpy as np

from aindex.errors import DataError
from aindex.index.backend import Ids, Rows
from aindex.index.reference_index import ReferenceIndex

_NEAR, _LEAST_NEAR, _NEAR_SHARE = 100, 3, 20
"""A picture that is in the index must be among the nearest rows of its own descriptor: so many, in a small index one in
twenty, but three in any."""

_CELLS = 16
"""Cells to look into: rounding can put a descriptor that lies between cells into another one than last time."""


def named_rows(index: ReferenceIndex, names: Sequence[str]) -> Ids:
    """The last row of each name, −1 where there is none: n ids. One pass over the index's names."""
    wanted = {name: position for position, name in enumerate(names)}
    ids = np.full(len(names), -1, dtype=np.int64)
    for row, name in enumerate(index.names):
        if name in wanted:
            ids[wanted[name]] = row
    return ids


def own_rows(index: ReferenceIndex, descriptors: Rows, names: Sequence[str]) -> Ids:
    """The rows of these pictures, told by name and descriptor: n ids, −1 where a picture has none."""
    ids = named_rows(index, names)
    present = np.flatnonzero(ids >= 0)
    if len(present):
        cells = index.quantiser.cell_count
        nprobe = None if cells is None else min(_CELLS, cells)
        depth = min(_NEAR, max(_LEAST_NEAR, index.ntotal // _NEAR_SHARE), index.ntotal)
        _, near = index.search(descriptors[present], depth, nprobe)
        ids[present[~(near == ids[present, None]).any(axis=1)]] = -1
    return ids


def add_originals(index: ReferenceIndex, descriptors: Rows, names: Sequence[str]) -> Ids:
    """Give every picture a row; one that is there under its name already keeps it.

    Args:
        index: gets the rows.
        descriptors: n×d.
        names: n different names.

    Returns:
        The n ids.

    Raises:
        DataError: a name in the index belongs to another picture.
    """
    ids = own_rows(index, descriptors, names)
    missing = np.flatnonzero(ids < 0)
    new_names = [names[int(position)] for position in missing]
    taken = named_rows(index, new_names)
    if (taken >= 0).any():
        name = new_names[int(np.argmax(taken >= 0))]
        raise DataError(
            f"image {name!r} has the name of another picture in the index: rename it, give its folder a prefix, or "
            "leave that picture out of the references"
        )
    if len(missing):
        ids[missing] = index.add(descriptors[missing], new_names)
    return ids
