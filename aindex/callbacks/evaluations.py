"""What an evaluation at validation end is: data sets of edited copies, what is noted of a batch, what is written."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from torch.utils.data import Dataset

from aindex import distributed
from aindex.activation.module import ActivationModule
from aindex.activation.run import Copies, Run
from aindex.callbacks.run_folder import PROGRESS_FOLDER
from aindex.data.atomic import replace_when_done
from aindex.data.parts import PartFiles
from aindex.data.source_image import SourceImage
from aindex.edits.named import Attack, Template
from aindex.errors import DataError
from aindex.evaluation.run_files import passive_file

Kind = Literal["passive", "active"]


@dataclass(frozen=True)
class ImageSet:
    """One set of images under evaluation.

    Attributes:
        kind: `active` for released images, `passive` for originals.
        paths: of the images, in the order of the evaluated ones.
        is_main: whether its results have the plain file names; those of a passive set beside an active one do not.
    """

    kind: Kind
    paths: list[Path]
    is_main: bool

    def file(self, folder: Path, name: str) -> Path:
        """Where this set's table of that name goes."""
        return folder / (name if self.is_main else passive_file(name))


@dataclass(frozen=True)
class Plan:
    """What is evaluated, and how; see `Evaluate`.

    Attributes:
        images: the originals that are evaluated.
        sets: their files, the main set first.
        input_size: R, side of the extractor's input.
    """

    images: Sequence[SourceImage]
    sets: Sequence[ImageSet]
    attacks: Sequence[Attack]
    template: Template
    exhaustive: bool
    input_size: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Series(Copies):
    """Edited copies under evaluation, and the records noted of them."""

    parts: PartFiles


class Evaluation(ABC):
    """A measurement of edited copies.

    Attributes:
        series: its data sets, each with the part files that its records go to.
    """

    def __init__(self, run: Run, plan: Plan) -> None:
        self.run, self.plan = run, plan
        self.series: list[Series] = []

    def add(self, name: str, dataset: Dataset[Any]) -> Series:
        """Have a data set evaluated; its part files have that name, and go when the run ends.

        Collective: all ranks add the same ones in the same order. What is added is in `run.copies`, too.
        """
        parts = PartFiles(self.run.folder / PROGRESS_FOLDER, name, rank=distributed.rank())
        done = distributed.on_rank_zero(lambda: set(parts.offsets()))
        series = Series(dataset=dataset, done=done, parts=parts)
        self.series.append(series)
        self.run.copies.append(series)
        self.run.after_the_end.append(parts.remove)
        return series

    def left_out_of(self, images: ImageSet) -> dict[str, str]:
        """Names of the set's images that could not be released, and why; complete once all are activated."""
        return self.run.failed if images.kind == "active" else {}

    def left_out_files(self, images: ImageSet) -> set[str]:
        """The same as the files that they would be."""
        names = self.left_out_of(images)
        return {
            str(path)
            for path, image in zip(images.paths, self.plan.images, strict=True)
            if image.name in names
        }

    def start(self, module: ActivationModule) -> None:  # noqa: B027 (not all need it)
        """Before the first batch; collective."""

    @abstractmethod
    def record(self, series: Series, batch: Sequence[Any], described: Tensor) -> dict[str, Any]:
        """What is noted of a batch.

        Args:
            series: which data set it is of.
            batch: items of the data set.
            described: descriptors of their inputs, n×d float32 on the CPU, one item's after the other's.
        """

    @abstractmethod
    def finish(self) -> None:
        """Write the results of all ranks' records; collective."""


def merge_rows(
    parts: Sequence[PartFiles], key: str, file: Path, columns: Sequence[str], *, expected: int
) -> None:
    """Write the rows of all finished batches, lines of csv text under a key of their records, into one csv file.

    One series comes after the other, each in the order of its batches. No cell may hold a line break.

    Raises:
        DataError: there are more or fewer rows than expected.
        OutputError: the file cannot be written.
    """
    written = 0
    with replace_when_done(file) as temporary, open(temporary, "w", encoding="utf-8", newline="") as out:
        out.write(",".join(columns) + "\n")
        for series in parts:
            for record in series.records():
                out.write(record[key])
                written += record[key].count("\n")
        if written != expected:
            raise DataError(
                f"{file.name} would hold {written} rows, expected {expected}: remove {str(parts[0].folder)!r} and "
                "run again"
            )
