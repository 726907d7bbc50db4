"""Curves over iterations."""

from types import SimpleNamespace

import pytest
import torch

from aindex.activation.outcome import Curves
from aindex.callbacks.curves import LogCurves


class _Logger:
    def __init__(self):
        self.points = {}

    def log_metrics(self, metrics, step):
        for name, value in metrics.items():
            self.points.setdefault(name, []).append((step, value))


def _batch(value, images, measured):
    known = torch.full((2, images), value)
    measures = {"psnr_db": known, "linf_grey_levels": known} if measured else {}
    return {"curves": Curves(loss=known, feature_loss=known, image_loss=known, **measures)}


def test_all_curves_by_iteration_are_of_the_same_batches():
    logger = _Logger()
    trainer = SimpleNamespace(loggers=[logger], global_step=2, is_global_zero=True)
    curves = LogCurves()
    for number, batch in enumerate([_batch(1.0, 3, True), _batch(9.0, 3, False), _batch(2.0, 1, True)]):
        curves.on_train_batch_end(trainer, None, batch, None, number)
    curves.on_train_end(trainer, None)
    names = ("loss", "feature_loss", "image_loss", "psnr_db", "linf_grey_levels")
    for name in names:
        assert logger.points[f"by_iteration/{name}"] == [(0, pytest.approx(1.25)), (1, pytest.approx(1.25))]
