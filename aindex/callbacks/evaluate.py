"""Edited copies of the images are searched in the index when validation comes."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn

from aindex import distributed
from aindex.activation.module import ActivationModule
from aindex.activation.run import Run
from aindex.callbacks.evaluate_copy_detection import CopyDetectionEvaluation
from aindex.callbacks.evaluate_retrieval import RetrievalEvaluation
from aindex.callbacks.evaluations import Evaluation, ImageSet, Plan, Series
from aindex.callbacks.run_folder import IMAGES_FOLDER
from aindex.data.source_image import SourceImage, find_released
from aindex.edits.named import Attack, AttackList, Template, attacks_of
from aindex.errors import ConfigError
from aindex.paths import user_path


class Evaluate(Callback):
    """Edits every image in every way of the list, and sees at which rank the index finds it.

    With `data.query_nonmatch_dir` copy detection is evaluated too: one random edit of each image and of images that
    match nothing; without those precision would only speak of confusions among the images.

    Args:
        attacks: `default` the fifteen edits of a normal evaluation; `full` a fine grid over their parameters (105);
            `unseen` sixteen others, whose families no activation is trained against.
        use_attacks_2: the full list, by its older name.
        template: screenshot template of the edit `overlay_onto_screenshot`; the paper used `mobile`.
        passive: evaluate the originals too, beside the released images, into `retr_df_passive.csv`.
        released_dir: for `evaluate`: folder of released images (`imgs` of a run); default: the images of
            data_dir themselves.
        exhaustive: compare every copy with the descriptors of all references too: the ceiling of R@1. With a million
            references on a few cores this takes about as long as describing the copies.
        seed: of the random edits; with the command line it is `seed_everything`.
    """

    kinds: ClassVar[Sequence[type[Evaluation]]] = (RetrievalEvaluation, CopyDetectionEvaluation)
    """What is measured; a subclass may measure something else."""

    def __init__(
        self,
        attacks: AttackList = "default",
        use_attacks_2: bool = False,
        template: Template = "web",
        passive: bool = False,
        released_dir: str | None = None,
        exhaustive: bool = True,
        seed: int = 0,
    ) -> None:
        if use_attacks_2 and attacks == "unseen":
            raise ConfigError(
                "retrieval.use_attacks_2 true with retrieval.attacks unseen: give one of the two"
            )
        self.attacks: list[Attack] = attacks_of("full" if use_attacks_2 else attacks)
        self.template: Template = template
        self.passive = passive
        self.released_dir = released_dir
        self.exhaustive = exhaustive
        self.seed = seed
        self._evaluations: list[Evaluation] = []
        self._of_loader: dict[int, tuple[Evaluation, Series]] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Say what is to be evaluated; pictures are opened later."""
        assert isinstance(pl_module, ActivationModule)
        run = pl_module.run_of(trainer)
        images = [run.images[position] for position in run.evaluated]
        plan = Plan(
            images=images,
            sets=self._image_sets(run, images, pl_module, fitting=trainer.state.fn == TrainerFn.FITTING),
            attacks=self.attacks,
            template=self.template,
            exhaustive=self.exhaustive,
            input_size=pl_module.extractor.input_size,
            seed=self.seed,
        )
        first = len(run.copies)
        self._evaluations = [kind(run, plan) for kind in self.kinds]
        added = [(evaluation, series) for evaluation in self._evaluations for series in evaluation.series]
        self._of_loader = dict(enumerate(added, first))

    def _image_sets(
        self, run: Run, images: Sequence[SourceImage], module: ActivationModule, *, fitting: bool
    ) -> list[ImageSet]:
        originals = [image.path for image in images]
        if fitting:
            if self.released_dir is not None:
                raise ConfigError(
                    "retrieval.released_dir is for evaluate: fit evaluates what it releases; leave it out"
                )
            released = [run.folder / IMAGES_FOLDER / image.released for image in images]
        elif self.released_dir is not None:
            released = find_released(user_path(self.released_dir), [image.name for image in images])
        else:
            released = originals
        if released is originals or (fitting and not module.active):
            return [ImageSet("passive", released, True)]
        active = ImageSet("active", released, True)
        return [active, ImageSet("passive", originals, False)] if self.passive else [active]

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find what copies are measured against."""
        assert isinstance(pl_module, ActivationModule)
        for evaluation in self._evaluations:
            evaluation.start(pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Sequence[Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Search a batch's copies and note what was found."""
        if dataloader_idx not in self._of_loader:
            return
        evaluation, series = self._of_loader[dataloader_idx]
        run = evaluation.run
        if not batch:
            if run.is_collective:
                run.search(np.empty((0, run.index.dim), np.float32))
            return
        record = evaluation.record(series, batch, outputs)
        series.parts.append(batch[0].item // run.batch_size_eval, record)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put all ranks' records into one file per table."""
        distributed.barrier()
        for evaluation in self._evaluations:
            evaluation.finish()
