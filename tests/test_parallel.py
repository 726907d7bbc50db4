"""Threads side by side, and what becomes of them in errors and in forked processes."""

import multiprocessing
import sys
import time

import pytest
import torch

from aindex.parallel import side_by_side


def test_results_come_in_order_whatever_the_number_of_threads():
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            assert side_by_side(lambda i: i * i, range(30)) == [i * i for i in range(30)]
            assert side_by_side(lambda i: i, []) == []
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif(torch.get_num_threads() < 2, reason="needs two threads")
def test_torch_computes_on_one_thread_inside_and_as_before_outside():
    before = torch.get_num_threads()
    for count in (1, 8):
        assert side_by_side(lambda _: torch.get_num_threads(), range(count)) == [1] * count
    assert torch.get_num_threads() == before


def test_an_error_reaches_the_caller_after_all_threads_have_stopped():
    treated = []

    def treat(i):
        if i == 1:
            raise ValueError("one")
        time.sleep(0.02)
        treated.append(i)

    with pytest.raises(ValueError, match="one"):
        side_by_side(treat, range(50))
    count = len(treated)
    time.sleep(0.1)
    assert len(treated) == count < 10


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is forked there")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own():
    side_by_side(abs, range(4))
    context = multiprocessing.get_context("fork")
    process = context.Process(target=side_by_side, args=(abs, range(4)))
    process.start()
    process.join(20)
    ended = not process.is_alive()
    process.kill()
    assert ended
    assert process.exitcode == 0
