"""TensorBoard: statistics per iteration, and pictures before, after, and their difference."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from aindex import distributed
from aindex.activation.outcome import Curves, Released
from aindex.evaluation.examples import amplified_difference

_LARGEST_SIDE = 512
"""Pixels; larger pictures are shown smaller, so that the log stays small."""


class LogCurves(Callback):
    """Logs loss, feature loss, image loss, PSNR and L∞ at each iteration.

    Over the run (``activation/…``, one point per gradient step) for every batch that holds a step which the
    trainer logs, and by iteration (``by_iteration/…``, mean over those batches' images) at its end.
    """

    def __init__(self) -> None:
        self._sums: dict[str, npt.NDArray[np.float64]] = {}
        self._images = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log a batch's statistics."""
        curves: Curves | None = outputs["curves"] if outputs else None
        if curves is None or not trainer.loggers:
            return
        means = curves.means()
        # one set of batches for all curves: those of which all is known
        if "psnr_db" not in means:
            return
        for name, values in means.items():
            self._sums[name] = self._sums.get(name, 0) + np.asarray(values) * curves.images
        self._images += curves.images
        _log(trainer, "activation", means, first_step=trainer.global_step - len(means["psnr_db"]))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the means by iteration, over all ranks."""
        gathered = [
            (sums, images) for sums, images in distributed.gather((self._sums, self._images)) if images
        ]
        if trainer.is_global_zero and gathered:
            count = sum(images for _, images in gathered)
            means = {
                name: np.sum([sums[name] for sums, _ in gathered], axis=0) / count for name in gathered[0][0]
            }
            _log(trainer, "by_iteration", means, first_step=0)


def _log(trainer: Trainer, group: str, curves: Mapping[str, Iterable[float]], *, first_step: int) -> None:
    for step, point in enumerate(zip(*curves.values(), strict=True), first_step):
        metrics = {f"{group}/{name}": float(value) for name, value in zip(curves, point, strict=True)}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)


class LogPictures(Callback):
    """Shows the first eight images of rank 0 before, after, and their difference (ten times; grey = none)."""

    def __init__(self) -> None:
        self._left = 8

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the batch's images until there are enough; rank 0's."""
        loggers = [one for one in trainer.loggers if isinstance(one, TensorBoardLogger)]
        if not outputs or not loggers or not trainer.is_global_zero:
            return
        shown: list[Released] = outputs["released"][: self._left]
        self._left -= len(shown)
        for one in shown:
            picture = side_by_side(one)
            for logger in loggers:
                tag = f"before, after, difference/{one.image.name}"
                logger.experiment.add_image(tag, picture, trainer.global_step, dataformats="HWC")


def side_by_side(released: Released) -> npt.NDArray[np.uint8]:
    """Before, after and amplified difference beside each other, H×3W×3, at most 512 pixels high or wide each."""
    before, after = Image.fromarray(released.original.numpy()), Image.fromarray(released.pixels.numpy())
    pictures = [before, after, amplified_difference(before, after)]
    for picture in pictures:
        picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    return np.hstack([np.asarray(picture) for picture in pictures])
