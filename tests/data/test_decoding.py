import threading
import time

import pytest

from aindex.data.decoding import DecodedBatches

BATCHES = [[0, 1, 2], [], [3, 4], [5]]


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_batches_come_in_order_however_long_an_item_takes(threads):
    def load(position):
        time.sleep(0.01 * (position % 3 == 0))
        return -position

    batches = DecodedBatches(load, BATCHES, threads=threads)
    assert len(batches) == 4
    for _ in range(2):
        assert list(batches) == [[0, -1, -2], [], [-3, -4], [-5]]


def test_what_is_decoded_ahead_is_bounded():
    loaded = []
    batches = iter(DecodedBatches(loaded.append, [[i] for i in range(50)], threads=2))
    next(batches)
    time.sleep(0.1)
    assert 1 <= len(loaded) <= 4
    batches.close()


def test_threads_end_with_the_iteration_and_errors_reach_the_reader():
    def load(position):
        if position == 3:
            raise ValueError("three")
        return position

    with pytest.raises(ValueError, match="three"):
        list(DecodedBatches(load, BATCHES, threads=2))
    unfinished = iter(DecodedBatches(load, BATCHES, threads=2))
    next(unfinished)
    unfinished.close()
    deadline = time.monotonic() + 5
    while any(thread.name.startswith("decode") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
