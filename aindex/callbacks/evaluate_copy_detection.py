"""Copy detection: a random edit of every image, and of images that match nothing, is searched in the index."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from aindex import distributed
from aindex.activation.run import Run
from aindex.callbacks.evaluations import Evaluation, Plan, Series, merge_rows
from aindex.data.images import LEFT_OUT_COPIES, SkippedImages, image_names, list_images, names_root
from aindex.evaluation.copy_detection import COPY_DETECTION_COLUMNS, NON_MATCHING, copy_detection_rows
from aindex.evaluation.edited import RandomCopies, RandomlyEditedPictures
from aindex.evaluation.measures import COPY_DETECTION_FILE
from aindex.paths import user_path


class CopyDetectionEvaluation(Evaluation):
    """Writes `icd_df.csv`: images and non-matching queries under one random edit each.

    Only where there are queries that match nothing. They are the last data set; no activation changes them, so they are
    searched once for all sets of images.
    """

    def __init__(self, run: Run, plan: Plan) -> None:
        super().__init__(run, plan)
        if run.query_nonmatch_dir is None:
            return
        source = user_path(run.query_nonmatch_dir)
        queries = distributed.everywhere(lambda: list_images(source))
        names = [image.name for image in plan.images]
        for images in plan.sets:
            dataset = RandomlyEditedPictures(
                images.paths, names, size=plan.input_size, seed=plan.seed, left_out=self.left_out_of(images)
            )
            self.add(f"copy_detection_{images.kind}", dataset)
        self._query_count = len(queries)
        self._first_batch = -(-len(self.series[0].dataset) // run.batch_size_eval)  # type: ignore[arg-type]
        dataset = RandomlyEditedPictures(
            queries,
            image_names(queries, names_root(source)),
            size=plan.input_size,
            seed=plan.seed,
            skip_unreadable=True,
        )
        self._queries = self.add("copy_detection_queries", dataset)

    def record(self, series: Series, batch: Sequence[RandomCopies], described: Tensor) -> dict[str, Any]:
        """The batch's rows, and what is missing among them."""
        are_queries = series is self._queries
        originals = np.array(
            [
                NON_MATCHING if are_queries else self.plan.images[position].index_id
                for item in batch
                for position in item.positions
            ],
            dtype=np.int64,
        )
        distances, ids = self.run.search(described.numpy(), originals)
        rows = copy_detection_rows(
            batch=batch[0].item // self.run.batch_size_eval + (self._first_batch if are_queries else 0),
            image_index=originals,
            edits=[edits for item in batch for edits in item.edits],
            distances=distances,
            indices=ids,
        )
        return {
            "csv": rows.to_csv(index=False, header=False),
            "skipped": [row for item in batch for row in item.skipped],
            "failed": [row for item in batch for row in item.failed],
        }

    def finish(self) -> None:
        """Put all ranks' rows into one file per set: the images', then the non-matching queries'."""
        if self.series:
            skipped, failed = distributed.on_rank_zero(self._merge)
            self.run.left_out |= {"skipped_queries": skipped, "failed_random_edits": failed}

    def _merge(self) -> tuple[SkippedImages, SkippedImages]:
        skipped, failed = SkippedImages(), SkippedImages(LEFT_OUT_COPIES)
        skipped.rows, failed.rows = _noted(self._queries, "skipped"), _noted(self._queries, "failed")
        queries = self._query_count - skipped.count - failed.count
        for images, series in zip(self.plan.sets, self.series[:-1], strict=True):
            missing = _noted(series, "failed")
            left_out = self.left_out_files(images)
            failed.rows += [row for row in missing if row[0] not in left_out]
            merge_rows(
                [series.parts, self._queries.parts],
                "csv",
                images.file(self.run.folder, COPY_DETECTION_FILE),
                COPY_DETECTION_COLUMNS,
                expected=len(images.paths) - len(missing) + queries,
            )
        return skipped, failed


def _noted(series: Series, key: str) -> list[tuple[str, str]]:
    """Path and reason of a series' pictures that are missing."""
    return [(path, reason) for record in series.parts.records() for path, reason in record.get(key, ())]
