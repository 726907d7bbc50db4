"""Writes the released images while activation goes on, and leaves out what an interrupted run finished."""

import shutil
from dataclasses import asdict
from typing import Any

import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn

from aindex import distributed
from aindex.activation.module import ActivationModule
from aindex.activation.outcome import Failed, Released
from aindex.activation.run import GivenRun
from aindex.callbacks.picture_writer import PictureWriter
from aindex.callbacks.run_folder import IMAGES_FOLDER, PROGRESS_FOLDER, released_figures
from aindex.data.images import SkippedImages
from aindex.data.parts import PartFiles
from aindex.errors import ConfigError, DataError
from aindex.evaluation.analyses import image_rows
from aindex.evaluation.measures import IMAGES_FILE
from aindex.evaluation.run_files import write_csv

_LOSSES = ("loss", "feature_loss", "image_loss")


class WriteImages(GivenRun, Callback):
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
        self._writer: PictureWriter | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find what an interrupted run has finished."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        assert isinstance(pl_module, ActivationModule)
        run = self.run = pl_module.run_of(trainer)
        self._folder = run.folder / IMAGES_FOLDER
        progress = run.folder / PROGRESS_FOLDER
        self._parts = PartFiles(progress, "images", rank=distributed.rank())
        run.batches_done = distributed.on_rank_zero(self._finished_batches)
        self._writer = PictureWriter(self._folder, self._parts, compress_level=self.compress_level)
        if not self.save_imgs:
            run.after_the_end.append(lambda: shutil.rmtree(self._folder))

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
            positions = [one.position for one in released] + [one.position for one in failed]
            self._writer.submit(
                min(positions) // self.run.batch_size,
                {one.image.released: one.pixels.numpy() for one in released},
                {"images": [_record(one) for one in released], "failed": [asdict(one) for one in failed]},
            )
        if batch_idx + 1 == trainer.num_training_batches:
            distributed.everywhere(self._writer.flush)
            self._leave_out_failed()

    def _finished_batches(self) -> set[int]:
        """Batches whose images are noted and still there."""
        return {
            int(record["batch"])
            for record in self._parts.records()
            if all((self._folder / image["file"]).is_file() for image in record["images"])
        }

    def _failed(self) -> list[tuple[str, str]]:
        """Names of all images that could not be activated, and why, in the order of the list of images."""
        return [
            (one["name"], one["reason"])
            for record in self._parts.records()
            for one in record.get("failed", ())
        ]

    def _leave_out_failed(self) -> None:
        """Tell the evaluation, on all ranks, which images could not be released."""
        failed = distributed.on_rank_zero(self._failed)
        self.run.failed.update(failed)
        self.run.left_out["failed"] = SkippedImages("image(s) that could not be activated", failed)
        if len(failed) == len(self.run.images):
            raise DataError(f"none of the {len(failed)} images could be released: {failed[0][1]}")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have all released images of all ranks on disk before they are evaluated."""
        if self._writer is not None:
            self.finish()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same where nothing is evaluated."""
        if self._writer is not None and not (trainer.enable_validation and self.run.copies):
            self.finish()

    def finish(self) -> None:
        """Flush, and list the released images in ``images_df.csv``."""
        assert self._writer is not None
        distributed.everywhere(self._writer.flush)
        names = [image.name for image in self.run.images if image.name not in self.run.failed]
        distributed.on_rank_zero(lambda: self._list_images(names))

    def _list_images(self, names: list[str]) -> None:
        table = released_figures(self.run.folder)
        if table is None or list(table.get("name", [])) != names:
            raise DataError(
                f"{0 if table is None else len(table)} images were released of {len(names)} given: expected each "
                f"exactly once; remove {str(self._parts.folder)!r} and run again"
            )
        rows = image_rows(
            image_index=table["image_index"],
            names=names,
            psnr_db=table["psnr_db"],
            ssim=np.full(len(table), np.nan),
            linf=table["linf_grey_levels"].round(3),
            activation_seconds=table["seconds"].round(6),
        )
        own = {name: table[name] for name in ("file", *_LOSSES)}
        write_csv(rows.assign(**own), self.run.folder / IMAGES_FILE)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop the threads."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop the threads."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _record(released: Released) -> dict[str, Any]:
    image, measures = released.image, ("psnr_db", "linf_grey_levels", *_LOSSES, "seconds")
    record = {"image_index": image.index_id, "name": image.name, "file": image.released}
    return record | {measure: getattr(released, measure) for measure in measures}
