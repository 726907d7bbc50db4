"""Retrieval evaluation: edited copies of the images are searched in the index, one row of the csv each."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from aindex import distributed
from aindex.activation.module import ActivationModule
from aindex.activation.run import Run
from aindex.callbacks.evaluations import Evaluation, Plan, Series, merge_rows
from aindex.callbacks.run_folder import released_figures
from aindex.data.images import LEFT_OUT_COPIES, SkippedImages
from aindex.errors import EditError
from aindex.evaluation.analyses import QUERY_COLUMNS
from aindex.evaluation.edited import EditedCopies, EditedPictures
from aindex.evaluation.measures import IMAGES_FILE, INDEX_FILE, QUERIES_FILE, RETRIEVAL_FILE, SEARCH_FILE
from aindex.evaluation.measuring import Analyses
from aindex.evaluation.retrieval import RETRIEVAL_COLUMNS, retrieval_rows
from aindex.evaluation.run_files import write_csv

_TABLES = {"csv": (RETRIEVAL_FILE, RETRIEVAL_COLUMNS), "queries": (QUERIES_FILE, QUERY_COLUMNS)}


class RetrievalEvaluation(Evaluation):
    """Writes `retr_df.csv` and `queries_df.csv`, a row per image and edit, and what was measured of the images."""

    def __init__(self, run: Run, plan: Plan) -> None:
        super().__init__(run, plan)
        for images in plan.sets:
            copies = EditedPictures(
                images.paths,
                [image.name for image in plan.images],
                plan.attacks,
                size=plan.input_size,
                seed=plan.seed,
                template=plan.template,
                originals=[image.path for image in plan.images] if images.is_main else None,
                left_out=self.left_out_of(images),
            )
            self.add(f"retrieval_{images.kind}", copies)

    def start(self, module: ActivationModule) -> None:
        """Find what copies are measured against."""
        run, positions = self.run, self.run.evaluated
        rows = distributed.everywhere(run.row_descriptors) if self.plan.exhaustive else None
        self._extractor = module.extractor.name
        self._analyses = Analyses(
            run.index,
            self.plan.images,
            run.descriptors[list(positions)],
            rows,
            None if run.rows is None else [run.rows[position] for position in positions],
            twins=run.twins,
            device=module.device,
        )

    def record(self, series: Series, batch: Sequence[EditedCopies], described: Tensor) -> dict[str, Any]:
        """The batch's rows, and what was measured of the images that it begins with."""
        copies, unedited = _rows_of(batch)
        descriptors = described[copies].numpy()
        attacks = [attack for item in batch for attack in item.attacks]
        positions = [item.position for item in batch for _ in item.attacks]
        originals = np.array([self.plan.images[position].index_id for position in positions], dtype=np.int64)
        distances, ids = self.run.search(descriptors, originals)
        rows = retrieval_rows(
            batch=[position // self.run.batch_size_eval for position in positions],
            image_index=originals,
            attacks=attacks,
            distances=distances,
            indices=ids,
        )
        queries = self._analyses.queries(positions, attacks, descriptors)
        return {
            "csv": rows.to_csv(index=False, header=False),
            "queries": queries.to_csv(index=False, header=False),
            "images": self._measured(batch, unedited, described),
            "failed": [row for item in batch for row in item.failed],
        }

    def _measured(
        self, batch: Sequence[EditedCopies], unedited: list[int], described: Tensor
    ) -> list[dict[str, Any]]:
        """Quality and distance to the code of the released images that a batch begins with."""
        items = [item for item in batch if item.unedited is not None]
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

    def finish(self) -> None:
        """Put all ranks' rows into one file per set, in the order of images and edits."""
        # alone, so that ranks do not slow each other down, unless they must search together
        together = self.run.is_collective or distributed.rank() == 0
        times = self._analyses.search_times() if together else None
        self.run.left_out["failed_edits"] = distributed.on_rank_zero(lambda: self._merge(times))
        if self.plan.exhaustive and self._analyses.exhaustive is None:
            self.run.notes.append(
                "left out: R@1 of an exhaustive search; an index that is given as a folder (index.path) has no "
                "descriptors to search in"
            )

    def _merge(self, search_times: pd.DataFrame | None) -> SkippedImages:
        failed = SkippedImages(LEFT_OUT_COPIES)
        folder = self.run.folder
        for images, one in zip(self.plan.sets, self.series, strict=True):
            missing = [row for record in one.parts.records() for row in record.get("failed", ())]
            # the list of images that could not be activated has those
            left_out = self.left_out_files(images)
            failed.rows += [(path, reason) for _, path, reason in missing if path not in left_out]
            for attack, times in Counter(attack for attack, _, _ in missing).items():
                if times == len(images.paths):
                    raise EditError(f"edit {attack} failed on every image; {missing[0][2]}")
            count = len(images.paths) * len(self.plan.attacks) - len(missing)
            for key, (name, columns) in _TABLES.items():
                merge_rows([one.parts], key, images.file(folder, name), columns, expected=count)
        main = self.series[0].parts
        measured = {int(image["position"]): image for record in main.records() for image in record["images"]}
        released = released_figures(folder)
        if released is not None:  # images that have a twin may be left out
            ids = [image.index_id for image in self.plan.images]
            released = released[released["image_index"].isin(ids)].reset_index(drop=True)
        write_csv(self._analyses.images(measured, released), folder / IMAGES_FILE)
        write_csv(self._analyses.index(self._extractor, self.run.kneighbors), folder / INDEX_FILE)
        assert search_times is not None
        write_csv(search_times, folder / SEARCH_FILE)
        return failed


def _rows_of(batch: Sequence[EditedCopies]) -> tuple[list[int], list[int]]:
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
