"""TensorBoard: statistics per iteration, and pictures before, after, and their difference."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.tensorboard import SummaryWriter

from aindex import distributed
from aindex.activation.outcome import Curves, Released

_LARGEST_SIDE = 512
"""Pixels; larger pictures are shown smaller, so that the log stays small."""


class LogCurves(Callback):
    """Logs loss, feature loss, image loss, PSNR and L∞ at each iteration.

    Over the run (``activation/…``, one point per gradient step) for every batch that holds a step which the
    trainer logs, and by iteration (``by_iteration/…``, mean over those batches' images) at its end.
    """

    def __init__(self) -> None:
        self._sums: dict[str, npt.NDArray[np.float64]] = {}
        self._images: dict[str, int] = {}

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
            total = np.asarray(values) * curves.images
            self._sums[name] = self._sums.get(name, 0) + total
            self._images[name] = self._images.get(name, 0) + curves.images
        first = trainer.global_step - len(means["psnr_db"])
        for iteration, point in enumerate(zip(*means.values(), strict=True)):
            metrics = {f"activation/{name}": value for name, value in zip(means, point, strict=True)}
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=first + iteration)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the means by iteration, over all ranks."""
        gathered = distributed.gather((self._sums, self._images))
        if not trainer.is_global_zero:
            return
        for name in {name: None for sums, _ in gathered for name in sums}:
            total = sum(sums[name] for sums, _ in gathered if name in sums)
            count = sum(images[name] for _, images in gathered if name in images)
            for iteration, value in enumerate(np.asarray(total) / count):
                for logger in trainer.loggers:
                    logger.log_metrics({f"by_iteration/{name}": float(value)}, step=iteration)


class LogPictures(Callback):
    """Shows the first images of a run before, after, and their difference (grey = none, amplified).

    Args:
        count: number of images.
        amplification: factor of the difference.
    """

    def __init__(self, count: int = 8, amplification: float = 10.0) -> None:
        self.count = count
        self.amplification = amplification
        self._shown = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the batch's images until there are enough; rank 0's."""
        released: list[Released] = outputs["released"] if outputs else []
        writers = _tensorboards(trainer)
        for one in released[: self.count - self._shown] if writers else []:
            picture = side_by_side(one.original, one.pixels, self.amplification)
            for writer in writers:
                writer.add_image(f"before, after, difference/{one.image.name}", picture, trainer.global_step)
            self._shown += 1


def _tensorboards(trainer: Trainer) -> list[SummaryWriter]:
    if not trainer.is_global_zero:
        return []
    return [one.experiment for one in trainer.loggers if isinstance(one, TensorBoardLogger)]


def side_by_side(before: Tensor, after: Tensor, amplification: float) -> Tensor:
    """Before, after and amplified difference beside each other, 3×H×3W uint8, at most 512 pixels high or wide each.

    Args:
        before: H×W×3 uint8.
        after: H×W×3 uint8.
        amplification: factor of the difference, whose zero is shown as mid-grey.
    """
    change = (after.float() - before.float()) * amplification + 128
    row = torch.cat([before.float(), after.float(), change], dim=1).permute(2, 0, 1)
    scale = _LARGEST_SIDE / max(before.shape[:2])
    if scale < 1:
        height, width = max(1, round(before.shape[0] * scale)), max(1, round(before.shape[1] * scale))
        row = interpolate(row[None], size=(height, 3 * width), mode="bilinear", antialias=True)[0]
    return row.clamp(0, 255).round().to(torch.uint8)
