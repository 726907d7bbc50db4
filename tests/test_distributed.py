import signal
import threading
from itertools import chain

import pytest

from aindex.distributed import DealtBatches, UsualSignals, everywhere, gather, on_rank_zero
from aindex.errors import DataError


@pytest.mark.parametrize("count", [0, 1, 5, 16, 17])
@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("world_size", [1, 2, 3, 20])
@pytest.mark.parametrize("done", [(), (0,), (0, 1, 3)])
def test_every_position_once_and_equally_many_batches(count, batch_size, world_size, done):
    shares = [
        list(DealtBatches(count, batch_size, rank=rank, world_size=world_size, done=done))
        for rank in range(world_size)
    ]
    assert len({len(share) for share in shares}) == 1
    assert len(shares[0]) == len(DealtBatches(count, batch_size, world_size=world_size, done=done)) >= 1
    dealt = sorted(chain(*chain(*shares)))
    assert dealt == [position for position in range(count) if position // batch_size not in done]


def test_batches_are_those_of_one_process():
    whole = {tuple(batch) for batch in DealtBatches(10, 4)}
    dealt = {tuple(batch) for rank in range(2) for batch in DealtBatches(10, 4, rank=rank, world_size=2)}
    assert dealt - {()} == whole


def test_without_a_process_group_helpers_do_the_work_here():
    assert on_rank_zero(lambda: 3) == everywhere(lambda: 3) == 3
    assert gather(3) == [3]

    def fail() -> None:
        raise DataError("no")

    for helper in (on_rank_zero, everywhere):
        with pytest.raises(DataError):
            helper(fail)


def test_signals_are_taken_back_by_the_main_thread_alone():
    usual, before = UsualSignals(), signal.getsignal(signal.SIGUSR1)
    usual._handlers[signal.SIGTERM] = None  # as of a handler that was not set from Python
    other = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        thread = threading.Thread(target=usual.take_back)
        thread.start()
        thread.join()
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
        usual.take_back()
        assert signal.getsignal(signal.SIGUSR1) == before
    finally:
        signal.signal(signal.SIGUSR1, other)
