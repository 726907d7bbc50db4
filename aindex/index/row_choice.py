"""Several rows for one picture: in the cells that its edited copies fall into."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aindex.descriptors.extractor import Extractor
from aindex.descriptors.simulated import simulated_copies
from aindex.errors import ConfigError
from aindex.index.backend import Rows
from aindex.index.quantiser import Quantiser
from aindex.index.rows import MOST_ROWS

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
        paths, names: n, where their pixels are read; what is drawn derives from the names.
        extractor: describes the edited copies.
        quantiser: of an index with cells.
        count: most rows per picture.

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
    is_other = (times >= LEAST_SHARE * len(descriptors)) & (names != cells[0])
    others = names[is_other][np.argsort(-times[is_other], kind="stable")]
    chosen = [cells[0], *others]
    return np.stack([_row_of(descriptors[cells == cell], cell, quantiser) for cell in chosen[:count]])


def _row_of(members: Rows, cell: int, quantiser: Quantiser) -> Rows:
    """The members' mean with their average norm; if it lies in another cell, the member nearest to it."""
    mean = members.mean(axis=0)
    length = np.linalg.norm(members, axis=1).mean()
    row: Rows = (mean * (length / max(float(np.linalg.norm(mean)), 1e-12))).astype(np.float32)
    if quantiser.cells(row[None]) == cell:
        return row
    nearest: Rows = members[np.square(members - row).sum(axis=1).argmin()]
    return nearest
