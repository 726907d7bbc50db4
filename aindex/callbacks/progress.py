"""The progress bar: Lightning's, without the logger's version number."""

import sys
from contextlib import redirect_stdout
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm


class ProgressBar(TQDMProgressBar):
    """Batches of activation and of evaluation."""

    def init_train_tqdm(self) -> Tqdm:
        """Bars are no results: they go to the error stream."""
        with redirect_stdout(sys.stderr):
            return super().init_train_tqdm()

    def init_validation_tqdm(self) -> Tqdm:
        """As the first."""
        with redirect_stdout(sys.stderr):
            return super().init_validation_tqdm()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What is shown beside the bar."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Name what goes on."""
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description("activate")

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Name what goes on, and which of several evaluations it is."""
        super().on_validation_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        count = len(trainer.num_val_batches) if isinstance(trainer.num_val_batches, list) else 1
        self.val_progress_bar.set_description(f"evaluate {dataloader_idx + 1} of {count}")
