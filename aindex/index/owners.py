"""Which picture each row of an index belongs to."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from aindex.errors import FaissIndexError
from aindex.index.backend import Ids
from aindex.index.neighbours import Found, by_distance_then_id, in_order_of_ids, joined
from aindex.index.rows import check_counts

_TOGETHER = 1 << 19
"""Neighbours treated at a time."""


class Owners:
    """Rows of one picture follow each other; pictures are numbered in the order of their rows.

    As long as every picture has one row nothing is kept: row and picture have the same number.

    Args:
        pictures: how many there are.
        counts: rows of each; None for one.

    Raises:
        FaissIndexError: another number of counts, or a picture without rows.
    """

    def __init__(self, pictures: int = 0, counts: bytes | npt.NDArray[np.uint8] | None = None) -> None:
        self.pictures = pictures
        self._counts = None if counts is None else np.frombuffer(bytes(counts), np.uint8)
        self._owners: npt.NDArray[np.int32] | None = None
        if self._counts is not None:
            if len(self._counts) != pictures or not self._counts.all():
                raise FaissIndexError(
                    f"{len(self._counts)} numbers of rows for {pictures} pictures, of which none may be 0: build the "
                    "index again"
                )
            # of row −1, which is the last, there is one more picture than there are
            self._owners = np.repeat(np.arange(pictures + 1, dtype=np.int32), np.append(self._counts, 1))

    @property
    def is_one_to_one(self) -> bool:
        """Whether every picture has one row."""
        return self._owners is None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.pictures if self._owners is None else len(self._owners) - 1

    @property
    def most(self) -> int:
        """Rows of the picture that has most."""
        return 1 if self._counts is None else int(self._counts.max(initial=1))

    def bytes_per_picture(self, row_bytes: int | None) -> float | None:
        """What a picture takes: its rows, of so many bytes each, and its number of them; None if unknown.

        In memory it is four bytes more for each of its rows where any picture has several.
        """
        if row_bytes is None or not self.pictures:
            return None
        return (row_bytes * self.rows + len(self.to_bytes() or b"")) / self.pictures

    def extended(self, pictures: int, counts: Sequence[int] | None = None) -> "Owners":
        """With more pictures at the end, one row each unless `counts` says otherwise.

        Raises:
            DescriptorError: another number of counts, or one below 1 or above MOST_ROWS.
        """
        if counts is not None:
            check_counts(counts, pictures)
        if self._counts is None and (counts is None or all(count == 1 for count in counts)):
            return Owners(self.pictures + pictures)
        known = np.ones(self.pictures, np.uint8) if self._counts is None else self._counts
        new = np.ones(pictures, np.uint8) if counts is None else np.array(counts, np.uint8)
        return Owners(self.pictures + pictures, np.concatenate([known, new]))

    def without(self, removed: Ids) -> "Owners":
        """Without some pictures; those after them move up."""
        kept = np.ones(self.pictures, dtype=bool)
        kept[removed] = False
        counts = None if self._counts is None else self._counts[kept]
        return Owners(int(kept.sum()), None if counts is None or (counts == 1).all() else counts)

    def of_rows(self, rows: Ids) -> Ids:
        """The picture of each row; −1 stays −1."""
        if self._owners is None:
            return rows
        owners = self._owners[rows]
        return np.where(owners == self.pictures, -1, owners).astype(np.int64)

    def rows_of(self, pictures: Ids) -> list[Ids]:
        """The rows of each picture."""
        if self._owners is None:
            return [np.array([picture], np.int64) for picture in pictures]
        first = np.searchsorted(self._owners, pictures, "left")
        end = np.searchsorted(self._owners, pictures, "right")
        return [np.arange(a, b, dtype=np.int64) for a, b in zip(first, end, strict=True)]

    def nearest_pictures(
        self, distances: npt.NDArray[np.float32], rows: Ids, k: int, larger_is_closer: bool
    ) -> Found:
        """Each picture once, at its nearest row; equally close ones by their number.

        Args:
            distances: nq×n, of the nearest rows.
            rows: nq×n, closest first, equally close ones in any order; absent ones −1, last. With n at least k times
                `most` nothing is missing.
            k: pictures per query.
            larger_is_closer: whether these are similarities.

        Returns:
            Distances nq×k and numbers of pictures nq×k; absent ones −1.
        """
        if self._owners is None:
            return by_distance_then_id(distances, rows, k, larger_is_closer)
        # some queries at a time: what is made of a list takes several times its memory
        step = max(1, _TOGETHER // max(1, rows.shape[1]))
        parts = [
            self._nearest_of_some(self._owners, distances[i : i + step], rows[i : i + step], k)
            for i in range(0, max(1, len(rows)), step)
        ]
        return joined(parts)

    def _nearest_of_some(
        self, of_rows: npt.NDArray[np.int32], distances: npt.NDArray[np.float32], rows: Ids, k: int
    ) -> Found:
        owners, count = of_rows[rows], rows.shape[1]
        is_tied = (distances[:, 1:] == distances[:, :-1]) & (owners[:, 1:] != owners[:, :-1])
        tied = np.flatnonzero(is_tied.any(axis=1))
        owners[tied] = of_rows[in_order_of_ids(distances[tied], rows[tied])]
        # by picture, then place: the first of a picture is its nearest row
        bits = count.bit_length()
        few = self.pictures.bit_length() + bits < 32
        keys = owners.astype(np.int32 if few else np.int64) << bits | np.arange(count, dtype=np.int32)
        keys.sort(axis=1)
        again = keys[:, 1:] ^ keys[:, :-1] < 1 << bits
        # the others get the last place there is
        places = (keys & (1 << bits) - 1).astype(np.uint16 if count < 1 << 16 else np.uint32)
        places[:, 1:] |= -again.astype(places.dtype)
        places.sort(axis=1)
        lists = count * np.arange(len(rows))[:, None]
        places = lists + np.minimum(places[:, :k], count - 1)
        found = owners.take(places)
        there = found < self.pictures
        closest = np.where(there, distances.take(places), distances[:, -1:])
        return closest, np.where(there, found, -1).astype(np.int64)

    def to_bytes(self) -> bytes | None:
        """Rows of each picture, a byte each; None where all have one."""
        return None if self._counts is None else self._counts.tobytes()


def row_names(names: Sequence[str], counts: Sequence[int] | None) -> Sequence[str]:
    """The name of each row: its picture's."""
    if counts is None:
        return names
    return [name for name, count in zip(names, counts, strict=True) for _ in range(count)]
