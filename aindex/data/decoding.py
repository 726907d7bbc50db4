"""Batches of pictures that threads decode ahead."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch

_BATCHES_AHEAD = 2


class Batches(Protocol):
    """Positions of batch after batch, and how many batches there are."""

    def __iter__(self) -> Iterator[Sequence[int]]: ...

    def __len__(self) -> int: ...


class DecodedBatches:
    """Items of a data set in batches; while one is in use, threads of this process make the next ones.

    Decoding lets go of Python's lock. Threads start at once, and hand pictures over as they lie in memory; processes
    would import torch anew and send every picture through the system.

    Args:
        load: position → item.
        batches: positions of each batch.
        threads: how many; with 0 items are made when they are asked for.
    """

    def __init__(self, load: Callable[[int], Any], batches: Batches, *, threads: int) -> None:
        self._load, self._batches, self._threads = load, batches, threads

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[Any]]:
        if not self._threads:
            yield from ([self._load(position) for position in batch] for batch in self._batches)
            return
        # as many threads as wanted, each of which computes alone
        pool = ThreadPoolExecutor(self._threads, "decode", initializer=torch.set_num_threads, initargs=(1,))
        waiting: deque[list[Future[Any]]] = deque()
        try:
            for batch in self._batches:
                waiting.append([pool.submit(self._load, position) for position in batch])
                if len(waiting) > _BATCHES_AHEAD:
                    yield [future.result() for future in waiting.popleft()]
            while waiting:
                yield [future.result() for future in waiting.popleft()]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
