"""Names of an index's rows, compact enough for many millions."""

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import overload

import numpy as np

from aindex.errors import FaissIndexError


class RowNames(Sequence[str]):
    """A list of names that only grows, held as the bytes of its file: one JSON string per line.

    JSON, so that a name may hold line breaks, quotes and bytes that are no text.

    Args:
        data: such a file's content.

    Raises:
        FaissIndexError: the last line is not whole.
    """

    def __init__(self, data: bytes = b"") -> None:
        if data and not data.endswith(b"\n"):
            raise FaissIndexError("the names of the rows break off in the last line: build the index again")
        self._data = bytearray(data)
        self._ends = array("q", (np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1).tobytes())

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._name(i) for i in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self._name(position)

    def __iter__(self) -> Iterator[str]:
        return map(self._name, range(len(self)))

    def extend(self, names: Iterable[str]) -> None:
        """Append names."""
        for name in names:
            self._data += json.dumps(name).encode("ascii") + b"\n"
            self._ends.append(len(self._data))

    def without(self, positions: Iterable[int]) -> "RowNames":
        """A copy without some of the names."""
        removed = set(map(int, positions))
        kept = RowNames()
        kept.extend(name for position, name in enumerate(self) if position not in removed)
        return kept

    def to_bytes(self) -> bytes:
        """The content of the file."""
        return bytes(self._data)

    def _name(self, position: int) -> str:
        start = self._ends[position - 1] if position else 0
        with suppress(ValueError):
            name = json.loads(self._data[start : self._ends[position]])
            if isinstance(name, str):
                return name
        raise FaissIndexError(f"the name of row {position} is no JSON string: build the index again")
