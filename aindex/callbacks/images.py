"""Writes the released images while activation goes on, and leaves out what an interrupted run finished."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn

from aindex import distributed
from aindex.activation.outcome import Failed, Released
from aindex.callbacks.run_folder import IMAGES_FOLDER, PROGRESS_FOLDER
from aindex.data.datamodule import ImageData
from aindex.data.images import SkippedImages
from aindex.data.parts import PartFiles
from aindex.data.release_writer import (
    FailureRecord,
    ReleaseRecord,
    ReleaseWriter,
    failure_records,
    finished_batches,
    release_records,
)
from aindex.data.tables import name_table
from aindex.errors import ConfigError, DataError
from aindex.evaluation.analyses import image_rows
from aindex.evaluation.run_folder import IMAGES_FILE, write_csv


class WriteImages(Callback):
    """Writes each activated image to ``imgs/`` of the run's folder, under its own name.

    Args:
        save_imgs: keep the released images after the run; false removes them once they are evaluated.
        compress_level: zlib level of the PNG files, 0 (large, fast) to 9; the pixels are the same.
    """

    def __init__(self, save_imgs: bool = True, compress_level: int = 1) -> None:
        if not 0 <= compress_level <= 9:
            raise ConfigError(f"images.compress_level {compress_level}: expected 0 to 9")
        self.save_imgs = save_imgs
        self.compress_level = compress_level
        self.failed = SkippedImages("image(s) that could not be activated")
        self._writer: ReleaseWriter | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find what an interrupted run has finished."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self._folder = Path(trainer.default_root_dir) / IMAGES_FOLDER
        progress = self._folder.parent / PROGRESS_FOLDER
        self._parts = PartFiles(progress, "images", rank=distributed.rank())
        data = _data_of(trainer)
        data.batches_done = distributed.on_rank_zero(lambda: finished_batches(self._parts, self._folder))
        self._writer = ReleaseWriter(self._folder, self._parts, compress_level=self.compress_level)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Hand a batch to the writing threads; after the last one wait until all ranks' images are on disk.

        Lightning starts the validation's loader processes before `on_validation_start`: too late to wait there.
        """
        if self._writer is None:
            return
        if outputs:
            released: list[Released] = outputs["released"]
            failed: list[Failed] = outputs["failed"]
            self._writer.submit(
                min([one.position for one in released] + [one.position for one in failed])
                // _data_of(trainer).batch_size,
                [one.pixels.numpy() for one in released],
                [_record(one) for one in released],
                [
                    FailureRecord(position=one.position, name=one.image.name, reason=one.reason)
                    for one in failed
                ],
            )
        if batch_idx + 1 == trainer.num_training_batches:
            distributed.everywhere(self._writer.flush)
            self._leave_out_failed(_data_of(trainer))

    def _leave_out_failed(self, data: ImageData) -> None:
        """Tell the evaluation, on all ranks, which images there are not.

        Raises:
            DataError: there is none.
        """
        failed = distributed.on_rank_zero(lambda: failure_records(self._parts))
        data.failed.update({one.name: one.reason for one in failed})
        self.failed.rows = [(one.name, one.reason) for one in failed]
        if len(failed) == len(data.images):
            raise DataError(f"none of the {len(failed)} images could be released: {failed[0].reason}")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have all released images of all ranks on disk before they are evaluated."""
        if self._writer is not None:
            self.finish(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same where nothing is evaluated."""
        if self._writer is None:
            return
        if not trainer.enable_validation:
            self.finish(trainer)

    def finish(self, trainer: Trainer) -> None:
        """Flush, and list the released images in ``images_df.csv``.

        Raises:
            DataError: fewer or more images were released than given.
        """
        assert self._writer is not None
        distributed.everywhere(self._writer.flush)
        data = _data_of(trainer)
        names = [image.name for image in data.images if image.name not in data.failed]
        distributed.on_rank_zero(lambda: self._list_images(names))

    def _list_images(self, names: list[str]) -> None:
        table = name_table(release_records(self._parts))
        if list(table.get("name", [])) != names:
            raise DataError(
                f"{len(table)} images were released of {len(names)} given: expected each exactly once; remove "
                f"{str(self._parts.folder)!r} and run again"
            )
        rows = image_rows(
            image_index=table["image_index"],
            names=names,
            psnr_db=table["psnr_db"],
            ssim=np.full(len(table), np.nan),
            linf=table["linf_grey_levels"].round(3),
            activation_seconds=table["seconds"].round(6),
        )
        columns = ["file", "loss", "feature_loss", "image_loss"]
        write_csv(rows.assign(**{name: table[name] for name in columns}), self._folder.parent / IMAGES_FILE)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop the threads."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop the threads."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def forget_progress(self) -> None:
        """Remove the images if they are not to be kept, once the run is finished."""
        if self._writer is not None and not self.save_imgs:
            shutil.rmtree(self._folder)

    def figures(self) -> pd.DataFrame | None:
        """One row per released image (`ReleaseRecord`), or None where none were released in this run."""
        return name_table(release_records(self._parts)) if hasattr(self, "_parts") else None


def _record(released: Released) -> ReleaseRecord:
    return ReleaseRecord(
        image_index=released.image.index_id,
        name=released.image.name,
        file=released.image.released,
        psnr_db=released.psnr_db,
        linf_grey_levels=released.linf_grey_levels,
        loss=released.loss,
        feature_loss=released.feature_loss,
        image_loss=released.image_loss,
        seconds=released.seconds,
    )


def _data_of(trainer: Trainer) -> ImageData:
    data: ImageData = trainer.datamodule  # type: ignore[attr-defined]
    return data
