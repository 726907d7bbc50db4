"""Copy detection: a random edit of every image, and of images that match nothing, is searched in the index."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from aindex import distributed
from aindex.activation.module import ActivationModule
from aindex.callbacks.index import index_of
from aindex.callbacks.merging import merge_rows
from aindex.callbacks.retrieval import EvaluateRetrieval, ImageSet
from aindex.callbacks.run_folder import PROGRESS_FOLDER
from aindex.data.datamodule import Evaluation, ImageData
from aindex.data.edited import RandomCopies, RandomlyEditedPictures, failed_edits
from aindex.data.images import SkippedImages, image_names, list_images, names_root
from aindex.data.parts import PartFiles
from aindex.evaluation.copy_detection import COPY_DETECTION_COLUMNS, NON_MATCHING, copy_detection_rows
from aindex.evaluation.run_folder import COPY_DETECTION_FILE
from aindex.paths import user_path

_QUERIES = "queries"


@dataclass
class _Series:
    """Queries under evaluation.

    Attributes:
        dataset: the edited copies.
        parts: rows noted of them.
        ids: row in the index of each picture, -1 for those that match nothing.
        first_batch: number of the first batch in the csv file.
    """

    dataset: RandomlyEditedPictures
    parts: PartFiles
    ids: npt.NDArray[np.int64]
    first_batch: int = 0


class EvaluateCopyDetection(Callback):
    """Writes `icd_df.csv`: images and non-matching queries under one random edit each.

    Runs where `data.query_nonmatch_dir` is given: without queries that match nothing precision would only speak
    of confusions among the images. Evaluates the sets of images that the retrieval evaluation does, and must
    come after it; the non-matching queries, which no activation changes, are searched once for all sets.

    Args:
        retrieval: says which images to evaluate, and holds the seed.
    """

    def __init__(self, retrieval: EvaluateRetrieval) -> None:
        self._retrieval = retrieval
        self._series: dict[int, _Series] = {}
        self._of_set: list[tuple[ImageSet, _Series]] = []
        self._queries: _Series | None = None
        self.skipped = SkippedImages()
        self.failed = failed_edits()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Say what is to be evaluated; pictures are opened later."""
        assert isinstance(pl_module, ActivationModule)
        data: ImageData = trainer.datamodule  # type: ignore[attr-defined]
        if data.query_nonmatch_dir is None:
            return
        source = user_path(data.query_nonmatch_dir)
        queries = distributed.everywhere(lambda: list_images(source))
        names = [image.name for image in self._retrieval.images]
        ids = np.array([image.index_id for image in self._retrieval.images], dtype=np.int64)
        size = pl_module.load().input_size
        for images in self._retrieval.sets:
            dataset = RandomlyEditedPictures(
                images.paths,
                names,
                size=size,
                seed=self._retrieval.seed,
                left_out=data.failed if images.kind == "active" else {},
            )
            self._of_set.append((images, self._add(trainer, images.kind, dataset, ids)))
        dataset = RandomlyEditedPictures(
            queries,
            image_names(queries, names_root(source)),
            size=size,
            seed=self._retrieval.seed,
            skip_unreadable=True,
        )
        nothing = np.full(len(queries), NON_MATCHING, dtype=np.int64)
        self._queries = self._add(trainer, _QUERIES, dataset, nothing)
        self._queries.first_batch = -(-len(self._of_set[0][1].dataset) // data.batch_size_eval)

    def _add(
        self, trainer: Trainer, name: str, dataset: RandomlyEditedPictures, ids: npt.NDArray[np.int64]
    ) -> _Series:
        data: ImageData = trainer.datamodule  # type: ignore[attr-defined]
        progress = Path(trainer.default_root_dir) / PROGRESS_FOLDER
        parts = PartFiles(progress, f"copy_detection_{name}", rank=distributed.rank())
        done = distributed.on_rank_zero(lambda: set(parts.offsets()))
        series = _Series(dataset, parts, ids)
        self._series[len(data.evaluations)] = series
        data.evaluations.append(Evaluation(dataset, done))
        return series

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: list[RandomCopies],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Search a batch's copies and note their rows."""
        if dataloader_idx not in self._series:
            return
        if not batch:
            index_of(trainer).answer_others()
            return
        described: Tensor = outputs
        data: ImageData = trainer.datamodule  # type: ignore[attr-defined]
        series = self._series[dataloader_idx]
        number = batch[0].item // data.batch_size_eval
        originals = series.ids[[position for item in batch for position in item.positions]]
        distances, ids = index_of(trainer).search(described.numpy(), originals)
        rows = copy_detection_rows(
            batch=series.first_batch + number,
            image_index=originals,
            edits=[edits for item in batch for edits in item.edits],
            distances=distances,
            indices=ids,
        )
        record = {
            "csv": rows.to_csv(index=False, header=False),
            "skipped": [row for item in batch for row in item.skipped],
            "failed": [row for item in batch for row in item.failed],
        }
        series.parts.append(number, record)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put all ranks' rows into one file per set: the images', then the non-matching queries'."""
        if self._queries is None:
            return
        distributed.barrier()
        self.skipped, self.failed = distributed.on_rank_zero(
            lambda: self._merge(Path(trainer.default_root_dir))
        )

    def _merge(self, folder: Path) -> tuple[SkippedImages, SkippedImages]:
        assert self._queries is not None
        skipped, failed = SkippedImages(), failed_edits()
        skipped.rows, failed.rows = _left_out(self._queries)
        queries = len(self._queries.ids) - skipped.count - failed.count
        for images, series in self._of_set:
            _, missing = _left_out(series)
            left_out = {
                str(path)
                for path, name in zip(series.dataset.paths, series.dataset.names, strict=True)
                if name in series.dataset.left_out
            }
            failed.rows += [row for row in missing if row[0] not in left_out]
            merge_rows(
                [series.parts, self._queries.parts],
                "csv",
                images.file(folder, COPY_DETECTION_FILE),
                COPY_DETECTION_COLUMNS,
                expected=len(series.ids) - len(missing) + queries,
            )
        return skipped, failed

    def forget_progress(self) -> None:
        """Remove the part files once the run is finished."""
        for one in self._series.values():
            one.parts.remove()


def _left_out(series: _Series) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Path and reason of unreadable pictures, and of pictures whose edit failed."""
    skipped: list[tuple[str, str]] = []
    failed: list[tuple[str, str]] = []
    for record in series.parts.records():
        skipped += [(path, reason) for path, reason in record["skipped"]]
        failed += [(path, reason) for path, reason in record.get("failed", ())]
    return skipped, failed
