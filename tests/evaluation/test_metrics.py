import subprocess
import sys
import textwrap

import pytest
import torch

from aindex.evaluation.metrics import MicroAveragePrecision, RecallAtPrecision

SCORES = torch.tensor([0.9, 0.1, 0.5, 0.3, 0.7])
TRUTHS = torch.tensor([True, True, True, False, False])


def test_batches_are_pooled():
    metric = MicroAveragePrecision()
    metric.update(SCORES[:2], TRUTHS[:2], 1)
    metric.update(SCORES[2:], TRUTHS[2:], 3)
    assert metric.compute().item() == pytest.approx((1 + 2 / 3 + 3 / 5) / 4)
    metric.reset()
    metric.update(SCORES[:1], TRUTHS[:1], 1)
    assert metric.compute().item() == 1


def test_recall_at_precision():
    metric = RecallAtPrecision(precision=0.6)
    metric.update(SCORES, TRUTHS, 4)
    assert metric.compute().item() == pytest.approx(3 / 4)


def test_two_ranks_give_what_one_gives_even_if_one_is_empty(tmp_path):
    script = textwrap.dedent("""
        import sys, torch
        import torch.distributed as dist
        from aindex.evaluation.metrics import MicroAveragePrecision, RecallAtPrecision
        rank, store = int(sys.argv[1]), sys.argv[2]
        dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
        scores, truths = torch.tensor([.9, .1, .5, .3, .7]), torch.tensor([True, True, True, False, False])
        for parts in ((slice(0, 2), slice(2, 5)), (slice(0, 5), None)):
            for metric in (MicroAveragePrecision(), RecallAtPrecision(.6)):
                if (part := parts[rank]) is not None:
                    metric.update(scores[part], truths[part], 2 if part.stop - (part.start or 0) < 5 else 4)
                print(metric.compute().item())
        dist.destroy_process_group()
    """)
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", script, str(rank), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    printed = [process.communicate(timeout=120)[0].split() for process in ranks]
    uap, recall = (1 + 2 / 3 + 3 / 5) / 4, 3 / 4
    for values in printed:
        assert [float(value) for value in values] == pytest.approx([uap, recall, uap, recall])
