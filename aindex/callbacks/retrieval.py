"""Retrieval evaluation: edited copies of the images are searched in the index, one row of the csv each."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from aindex import distributed
from aindex.activation.module import ActivationModule
from aindex.callbacks.analyses import Analyses
from aindex.callbacks.images import WriteImages
from aindex.callbacks.index import index_of
from aindex.callbacks.merging import merge_rows
from aindex.callbacks.run_folder import IMAGES_FOLDER, PROGRESS_FOLDER
from aindex.data.datamodule import Evaluation, ImageData
from aindex.data.edited import EditedCopies, EditedPictures, failed_edits
from aindex.data.images import SkippedImages
from aindex.data.parts import PartFiles
from aindex.data.released import SourceImage, find_released
from aindex.edits import Attack, AttackList, Template, attacks_of
from aindex.errors import ConfigError, EditError
from aindex.evaluation.analyses import QUERY_COLUMNS
from aindex.evaluation.retrieval import RETRIEVAL_COLUMNS, retrieval_rows
from aindex.evaluation.run_folder import (
    IMAGES_FILE,
    INDEX_FILE,
    QUERIES_FILE,
    RETRIEVAL_FILE,
    SEARCH_FILE,
    passive_file,
    write_csv,
)
from aindex.paths import user_path

Kind = Literal["passive", "active"]


@dataclass
class ImageSet:
    """One set of images under evaluation.

    Attributes:
        kind: `active` for released images, `passive` for originals.
        paths: of the images, in the order of the data's list.
        is_main: whether its results have the plain file names; a passive set beside an active one has not.
    """

    kind: Kind
    paths: list[Path]
    is_main: bool

    def file(self, folder: Path, name: str) -> Path:
        """Where this set's table of that name goes."""
        return folder / (name if self.is_main else passive_file(name))


@dataclass
class _Series:
    """A set's copies and the rows noted of them."""

    images: ImageSet
    dataset: EditedPictures
    parts: PartFiles


class EvaluateRetrieval(Callback):
    """Edits every image in every way of the list, and sees at which rank the index finds it.

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
        self.images: list[SourceImage] = []
        self._positions: list[int] = []
        self.sets: list[ImageSet] = []
        self.failed = failed_edits()
        self._series: dict[int, _Series] = {}
        self._analyses: Analyses | None = None

    @property
    def series(self) -> list[_Series]:
        """What is evaluated, the main set first."""
        return list(self._series.values())

    @property
    def knows_ceiling(self) -> bool:
        """Whether the exhaustive search was made, if it was asked for."""
        return not self.exhaustive or (self._analyses is not None and self._analyses.knows_ceiling)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Say what is to be evaluated; the images are opened later."""
        assert isinstance(pl_module, ActivationModule)
        folder = Path(trainer.default_root_dir)
        data: ImageData = trainer.datamodule  # type: ignore[attr-defined]
        self._positions = index_of(trainer).evaluated(data.images)
        self.images = [data.images[position] for position in self._positions]
        self.sets = self._image_sets(trainer, pl_module)
        for images in self.sets:
            dataset = EditedPictures(
                images.paths,
                [image.name for image in self.images],
                self.attacks,
                size=pl_module.load().input_size,
                seed=self.seed,
                template=self.template,
                originals=[image.path for image in self.images] if images.is_main else None,
                left_out=data.failed if images.kind == "active" else {},
            )
            parts = PartFiles(folder / PROGRESS_FOLDER, f"retrieval_{images.kind}", rank=distributed.rank())
            done = distributed.on_rank_zero(lambda parts=parts: set(parts.offsets()))  # type: ignore[misc]
            self._series[len(data.evaluations)] = _Series(images, dataset, parts)
            data.evaluations.append(Evaluation(dataset, done))

    def _image_sets(self, trainer: Trainer, module: ActivationModule) -> list[ImageSet]:
        originals = [image.path for image in self.images]
        fitting = trainer.state.fn == TrainerFn.FITTING
        if fitting:
            if self.released_dir is not None:
                raise ConfigError(
                    "retrieval.released_dir is for evaluate: fit evaluates what it releases; leave it out"
                )
            images = Path(trainer.default_root_dir) / IMAGES_FOLDER
            released = [images / image.released for image in self.images]
        elif self.released_dir is not None:
            folder = user_path(self.released_dir)
            released = find_released(folder, [image.name for image in self.images])
        else:
            released = originals
        if released is originals or (fitting and not module.active):
            return [ImageSet("passive", released, True)]
        active = ImageSet("active", released, True)
        return [active, ImageSet("passive", originals, False)] if self.passive else [active]

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find what copies are measured against."""
        assert isinstance(pl_module, ActivationModule)
        data: ImageData = trainer.datamodule  # type: ignore[attr-defined]
        index = index_of(trainer)
        rows = None
        if self.exhaustive:
            rows = distributed.everywhere(lambda: index.row_descriptors(data, pl_module))
        self._analyses = Analyses(
            index.index,
            self.images,
            pl_module.descriptors[self._positions],
            rows,
            None if pl_module.rows is None else [pl_module.rows[position] for position in self._positions],
            twins=index.twins,
            device=pl_module.device,
        )

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
        if dataloader_idx not in self._series:
            return
        if not batch:
            index_of(trainer).answer_others()
            return
        assert self._analyses is not None
        described: Tensor = outputs
        data: ImageData = trainer.datamodule  # type: ignore[attr-defined]
        copies, unedited = _rows_of(batch)
        descriptors = described[copies].numpy()
        attacks = [attack for item in batch for attack in item.attacks]
        positions = [item.position for item in batch for _ in item.attacks]
        originals = np.array([self.images[position].index_id for position in positions], dtype=np.int64)
        distances, ids = index_of(trainer).search(descriptors, originals)
        rows = retrieval_rows(
            batch=[position // data.batch_size_eval for position in positions],
            image_index=originals,
            attack=[attack.name for attack in attacks],
            attack_param=[attack.param for attack in attacks],
            distances=distances,
            indices=ids,
            kneighbors=ids.shape[1],
        )
        record = {
            "csv": rows.to_csv(index=False, header=False),
            "queries": self._analyses.queries(positions, attacks, descriptors).to_csv(
                index=False, header=False
            ),
            "images": self._measured(batch, unedited, described),
            "failed": [row for item in batch for row in item.failed],
        }
        self._series[dataloader_idx].parts.append(batch[0].item // data.batch_size_eval, record)

    def _measured(
        self, batch: list[EditedCopies], unedited: list[int], described: Tensor
    ) -> list[dict[str, Any]]:
        """Quality and distance to the code of the released images that a batch begins with."""
        items = [item for item in batch if item.unedited is not None]
        assert self._analyses is not None
        distances = self._analyses.code_distance(described[unedited].numpy()) if unedited else None
        return [
            {
                "position": item.position,
                **vars(item.quality),
                "code_distance_released": float("nan") if distances is None else float(distances[row]),
            }
            for row, item in enumerate(items)
            if item.quality is not None
        ]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put all ranks' rows into one file per set, in the order of images and attacks."""
        assert self._analyses is not None
        distributed.barrier()
        # alone, so that ranks do not slow each other down, unless they must search together
        times = (
            self._analyses.search_times()
            if index_of(trainer).is_collective or distributed.rank() == 0
            else None
        )
        self.failed = distributed.on_rank_zero(lambda: self._merge(trainer, times))

    def _merge(self, trainer: Trainer, search_times: pd.DataFrame | None) -> SkippedImages:
        folder = Path(trainer.default_root_dir)
        assert self._analyses is not None
        failed = failed_edits()
        for one in self.series:
            missing = [row for record in one.parts.records() for row in record.get("failed", ())]
            # the list of images that could not be activated has those
            left_out = {
                str(path)
                for path, name in zip(one.dataset.paths, one.dataset.names, strict=True)
                if name in one.dataset.left_out
            }
            failed.rows += [(path, reason) for _, path, reason in missing if path not in left_out]
            for attack, times in Counter(attack for attack, _, _ in missing).items():
                if times == len(one.dataset.paths):
                    raise EditError(f"attack {attack} failed on every image; {missing[0][2]}")
            count = len(one.dataset.paths) * len(self.attacks) - len(missing)
            tables = {"csv": (RETRIEVAL_FILE, RETRIEVAL_COLUMNS), "queries": (QUERIES_FILE, QUERY_COLUMNS)}
            for key, (name, columns) in tables.items():
                merge_rows([one.parts], key, one.images.file(folder, name), columns, expected=count)
        main = next(one for one in self.series if one.images.is_main)
        measured = {
            int(image["position"]): image for record in main.parts.records() for image in record["images"]
        }
        writer = next((one for one in trainer.callbacks if isinstance(one, WriteImages)), None)  # type: ignore[attr-defined]
        released = writer.figures() if writer is not None else None
        if released is not None and len(self.images) < len(released):
            ids = [image.index_id for image in self.images]
            released = released[released["image_index"].isin(ids)].reset_index(drop=True)
        write_csv(self._analyses.images(measured, released), folder / IMAGES_FILE)
        module = trainer.lightning_module
        assert isinstance(module, ActivationModule)
        extractor = module.load().name
        write_csv(self._analyses.index(extractor, index_of(trainer).kneighbors), folder / INDEX_FILE)
        assert search_times is not None
        write_csv(search_times, folder / SEARCH_FILE)
        return failed

    def forget_progress(self) -> None:
        """Remove the part files once the run is finished."""
        for one in self.series:
            one.parts.remove()


def _rows_of(batch: list[EditedCopies]) -> tuple[list[int], list[int]]:
    """Of a batch's rows those of the copies, and those of the images themselves."""
    copies: list[int] = []
    unedited: list[int] = []
    start = 0
    for item in batch:
        copies += range(start, start + len(item.attacks))
        if item.unedited is not None:
            unedited.append(start + item.unedited)
        start += len(item.inputs)
    return copies, unedited
