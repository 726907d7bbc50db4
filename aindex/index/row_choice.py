"""Several rows for one picture: in the cells that its edited copies fall into."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aindex.descriptors.extractor import Extractor
from aindex.descriptors.simulated import simulated_copies
from aindex.errors import ConfigError
from aindex.index.backend import Rows
from aindex.index.owners import MOST_ROWS
from aindex.index.quantiser import Quantiser

LEAST_SHARE = 0.05
"""Of a picture's copies; a cell that fewer fall into gets no row."""


def check_row_count(count: int, quantiser: Quantiser | None = None) -> None:
    """Raise a ConfigError unless pictures can have this many rows, in this quantiser's index if it is known."""
    if not 1 <= count <= MOST_ROWS:
        raise ConfigError(f"rows {count}: expected 1 to {MOST_ROWS} per picture; the default is 1")
    if count > 1 and quantiser is not None and quantiser.cell_count is None:
        raise ConfigError(
            f"rows {count} in an index without cells, which compares a copy with every row: expected 1; take an "
            "idx_factory that begins with IVF"
        )


def rows_of_pictures(
    own: Rows,
    paths: Sequence[Path],
    names: Sequence[str],
    extractor: Extractor,
    quantiser: Quantiser,
    count: int,
    *,
    seed: int = 0,
    progress: bool = False,
) -> list[Rows]:
    """The rows of each picture, chosen by simulated edits of it.

    Args:
        own: n×d, the pictures' descriptors.
        paths: n, where their pixels are read.
        names: n; what is drawn derives from them.
        extractor: describes the edited copies.
        quantiser: of an index with cells.
        count: most rows per picture.
        seed: of the edits.
        progress: show a bar.

    Raises:
        ConfigError: pictures cannot have so many rows in this index.
        ImageReadError: a picture cannot be read.
    """
    check_row_count(count, quantiser)
    copies = simulated_copies(paths, names, extractor, seed=seed, progress=progress)
    return [choose_rows(*pair, quantiser, count) for pair in zip(np.array(own), copies, strict=True)]


def choose_rows(own: Rows, copies: Rows, quantiser: Quantiser, count: int) -> Rows:
    """The rows of a picture: one in its own cell, the others in those that most copies fall into.

    Each row is the mean of the descriptors in its cell, with their average norm. A cell with less than LEAST_SHARE of
    them gets none, so there may be fewer rows than asked for.

    Args:
        own: d, the picture's own descriptor.
        copies: c×d, those of edited copies.
        quantiser: of an index with cells.
        count: most rows.

    Returns:
        r×d, 1 ≤ r ≤ count, the own cell's first.
    """
    descriptors = np.concatenate([own[None], copies])
    cells = quantiser.cells(descriptors)
    assert cells is not None
    names, times = np.unique(cells, return_counts=True)
    ranked = names[np.argsort(-times, kind="stable")]
    enough = {int(cell) for cell in names[times >= LEAST_SHARE * len(descriptors)]}
    chosen = [int(cells[0]), *(int(cell) for cell in ranked if cell != cells[0] and int(cell) in enough)]
    return np.stack([_row_of(descriptors[cells == cell], cell, quantiser) for cell in chosen[:count]])


def _row_of(members: Rows, cell: int, quantiser: Quantiser) -> Rows:
    """The members' mean with their average norm; if it lies in another cell, the member nearest to it."""
    mean = members.mean(axis=0)
    length = np.linalg.norm(members, axis=1).mean()
    row: Rows = (mean * (length / max(float(np.linalg.norm(mean)), 1e-12))).astype(np.float32)
    found = quantiser.cells(row[None])
    assert found is not None
    if found[0] == cell:
        return row
    nearest: Rows = members[np.square(members - row).sum(axis=1).argmin()]
    return nearest


def split_rows(rows: Rows, counts: Sequence[int]) -> list[Rows]:
    """Rows of all pictures, one after the other, picture by picture."""
    ends = np.cumsum(counts)
    return [rows[end - count : end] for end, count in zip(ends, counts, strict=True)]
