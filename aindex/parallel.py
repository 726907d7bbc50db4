"""Threads side by side, for work that lets go of Python's lock."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Apply a function to items on as many threads as torch uses; the results in the items' order.

    Within the function torch computes on one thread, also for a single item: sums that threads share are rounded
    otherwise, and a result must not depend on how many items there are beside it. Whoever is free takes the next item,
    so that a thread whose core is busy otherwise holds nobody up.

    Args:
        function: must not depend on the thread it runs on.
        items: pieces of work, of some tenths of a millisecond or more.
    """
    threads = torch.get_num_threads()
    if threads < 2:
        return [function(item) for item in items]
    waiting = iter(enumerate(items))
    pool = _threads(threads, os.getpid())
    shares = [pool.submit(_treat, function, waiting) for _ in range(min(threads, len(items)))]
    wait(shares)
    results = dict(pair for share in shares for pair in share.result())
    return [results[number] for number in range(len(items))]


def _treat(
    function: Callable[[Item], Result], waiting: Iterator[tuple[int, Item]]
) -> list[tuple[int, Result]]:
    # an iterator over a sequence hands every item out once, whichever thread asks
    try:
        return [(number, function(item)) for number, item in waiting]
    except BaseException:
        for _ in waiting:  # the others end after what they have in hand
            pass
        raise


@lru_cache(maxsize=1)
def _threads(count: int, process: int) -> ThreadPoolExecutor:
    # a forked process makes its own: the threads of the one before do not exist in it
    return ThreadPoolExecutor(count, "side by side", initializer=torch.set_num_threads, initargs=(1,))
