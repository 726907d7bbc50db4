"""Pictures and their own rows in an index."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from aindex.errors import DataError
from aindex.index.backend import Ids, Rows
from aindex.index.reference_index import ReferenceIndex
from aindex.index.sharded import AnyIndex

_NEAR, _LEAST_NEAR, _NEAR_SHARE = 100, 3, 20
"""A picture that is in the index must be among the nearest rows of its own descriptor: so many, in a small index one in
twenty, but three in any."""

_CELLS = 16
"""Cells to look into: rounding can put a descriptor that lies between cells into another one than last time."""


def last_rows(rows: Iterable[str], names: Sequence[str]) -> Ids:
    """The last row of each name, −1 where there is none: n ids. One pass over the names of all rows."""
    wanted = set(names)
    last = {name: row for row, name in enumerate(rows) if name in wanted}
    return np.array([last.get(name, -1) for name in names], np.int64)


def are_near(index: AnyIndex, descriptors: Rows, ids: Ids) -> npt.NDArray[np.bool_]:
    """Whether each row is among the nearest of the descriptor that should be its own: n; collective for shards."""
    if not index.pictures:
        return np.zeros(len(ids), dtype=bool)
    cells = index.quantiser.cell_count
    nprobe = None if cells is None else min(_CELLS, cells)
    depth = min(_NEAR, max(_LEAST_NEAR, index.pictures // _NEAR_SHARE), index.pictures)
    _, near = index.search(descriptors, depth, nprobe)
    found: npt.NDArray[np.bool_] = (near == ids[:, None]).any(axis=1)
    return found


def own_rows(index: ReferenceIndex, descriptors: Rows, names: Sequence[str]) -> Ids:
    """The rows of these pictures, told by name and descriptor: n ids, −1 where a picture has none."""
    ids = last_rows(index.names, names)
    present = np.flatnonzero(ids >= 0)
    ids[present[~are_near(index, descriptors[present], ids[present])]] = -1
    return ids


def name_taken_error(name: str) -> DataError:
    """What is to be raised where a name in the index belongs to another picture."""
    return DataError(
        f"image {name!r} has the name of another picture in the index: rename it, give its folder a prefix, or leave "
        "that picture out of the references"
    )


def add_originals(
    index: ReferenceIndex,
    descriptors: Rows,
    names: Sequence[str],
    append: Callable[[Rows, Sequence[str]], Ids],
) -> Ids:
    """Give every picture a row, n ids; one that is there under its name already keeps it.

    Args:
        index: is searched for the pictures.
        descriptors: n×d.
        names: n different names.
        append: adds rows, such as the index's own `add`.

    Raises:
        DataError: a name in the index belongs to another picture.
    """
    ids = own_rows(index, descriptors, names)
    missing = np.flatnonzero(ids < 0)
    new_names = [names[int(position)] for position in missing]
    taken = last_rows(index.names, new_names)
    if (taken >= 0).any():
        raise name_taken_error(new_names[int(np.argmax(taken >= 0))])
    if len(missing):
        ids[missing] = append(descriptors[missing], new_names)
    return ids
