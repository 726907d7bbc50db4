"""Retrieval evaluation: edited copies of the images are searched in the index, one row of the csv each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from aindex import distributed
from aindex.callbacks.index import index_of
from aindex.callbacks.run_folder import IMAGES_FOLDER, PROGRESS_FOLDER
from aindex.data.atomic import replace_when_done
from aindex.data.datamodule import Evaluation, ImageData
from aindex.data.edited import EditedCopies, EditedPictures
from aindex.data.parts import PartFiles
from aindex.data.released import find_released
from aindex.edits import Attack, Template, default_attacks, full_attacks
from aindex.errors import ConfigError, DataError
from aindex.evaluation.retrieval import LIST_COLUMNS, RETRIEVAL_COLUMNS, retrieval_rows, retrieval_table
from aindex.evaluation.run_folder import RETRIEVAL_FILE, passive_file

Kind = Literal["passive", "active"]


@dataclass
class _Set:
    """One set of images under evaluation."""

    kind: Kind
    file: Path
    dataset: EditedPictures
    parts: PartFiles


class EvaluateRetrieval(Callback):
    """Edits every image in every way of the list, and sees at which rank the index finds it.

    Args:
        use_attacks_2: the full list of edits (111) instead of the default fifteen.
        template: screenshot template of the edit `overlay_onto_screenshot`; the paper used `mobile`.
        passive: evaluate the originals too, beside the released images, into `retr_df_passive.csv`.
        released_dir: for `evaluate`: folder of released images (`imgs` of a run); default: the images of
            data_dir themselves.
        seed: of the random edits; with the command line it is `seed_everything`.
    """

    def __init__(
        self,
        use_attacks_2: bool = False,
        template: Template = "web",
        passive: bool = False,
        released_dir: str | None = None,
        seed: int = 0,
    ) -> None:
        self.attacks: list[Attack] = full_attacks() if use_attacks_2 else default_attacks()
        self.template: Template = template
        self.passive = passive
        self.released_dir = released_dir
        self.seed = seed
        self.tables: dict[Kind, pd.DataFrame] = {}
        self._sets: list[_Set] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Say what is to be evaluated; the images are opened later."""
        folder = Path(trainer.default_root_dir)
        data: ImageData = trainer.datamodule  # type: ignore[attr-defined]
        names = [image.name for image in data.images]
        originals = [image.path for image in data.images]
        if trainer.state.fn == TrainerFn.FITTING:
            if self.released_dir is not None:
                raise ConfigError(
                    "retrieval.released_dir is for evaluate: fit evaluates what it releases; leave it out"
                )
            released = [folder / IMAGES_FOLDER / image.released for image in data.images]
        elif self.released_dir is not None:
            released = find_released(Path(self.released_dir).expanduser(), names)
        else:
            released = originals
        unchanged = released is originals or (trainer.state.fn == TrainerFn.FITTING and not pl_module.active)
        kind: Kind = "passive" if unchanged else "active"
        sources: list[tuple[Kind, list[Path], str]] = [(kind, released, RETRIEVAL_FILE)]
        if self.passive and not unchanged:
            sources.append(("passive", originals, passive_file(RETRIEVAL_FILE)))
        for kind, paths, file in sources:
            dataset = EditedPictures(
                paths,
                names,
                self.attacks,
                size=pl_module.load().input_size,  # type: ignore[operator]
                seed=self.seed,
                template=self.template,
            )
            parts = PartFiles(folder / PROGRESS_FOLDER, f"retrieval_{kind}", rank=distributed.rank())
            done = distributed.on_rank_zero(lambda parts=parts: set(parts.offsets()))  # type: ignore[misc]
            self._sets.append(_Set(kind, folder / file, dataset, parts))
            data.evaluations.append(Evaluation(dataset, done))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: list[EditedCopies],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Search a batch's copies and note their rows."""
        if not batch:
            return
        descriptors: Tensor = outputs
        data: ImageData = trainer.datamodule  # type: ignore[attr-defined]
        one = self._sets[dataloader_idx]
        attacks = [attack for item in batch for attack in item.attacks]
        positions = [item.position for item in batch for _ in item.attacks]
        distances, ids = index_of(trainer).search(descriptors.numpy())
        rows = retrieval_rows(
            batch=[position // data.batch_size_eval for position in positions],
            image_index=[data.images[position].index_id for position in positions],
            attack=[attack.name for attack in attacks],
            attack_param=[attack.param for attack in attacks],
            distances=distances,
            indices=ids,
            kneighbors=ids.shape[1],
        )
        one.parts.append(
            batch[0].item // data.batch_size_eval, {"csv": rows.to_csv(index=False, header=False)}
        )

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put all ranks' rows into one file per set, in the order of images and attacks."""
        count = len(trainer.datamodule.images) * len(self.attacks)  # type: ignore[attr-defined]
        for one in self._sets:
            distributed.barrier()
            distributed.on_rank_zero(lambda one=one: _merge(one, count))  # type: ignore[misc]
            columns = [name for name in RETRIEVAL_COLUMNS if name not in LIST_COLUMNS]
            self.tables[one.kind] = retrieval_table(pd.read_csv(one.file, usecols=columns))

    def forget_progress(self) -> None:
        """Remove the part files once the run is finished."""
        for one in self._sets:
            one.parts.remove()


def _merge(one: _Set, count: int) -> None:
    """Write the rows of all finished batches.

    Raises:
        DataError: there are not as many as images × attacks.
    """
    written = 0
    with replace_when_done(one.file) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        file.write(",".join(RETRIEVAL_COLUMNS) + "\n")
        for record in one.parts.records():
            file.write(record["csv"])
            written += record["csv"].count("\n")
        if written != count:
            raise DataError(
                f"{one.file.name} would hold {written} rows, expected {count} (images × attacks): remove "
                f"{str(one.parts.folder)!r} and run again"
            )
