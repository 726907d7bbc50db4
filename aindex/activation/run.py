"""What a run has, in one place: made by the callback that builds the index, given to whoever works on the run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pytorch_lightning import Trainer
from torch import Tensor
from torch.utils.data import Dataset

from aindex.data.images import SkippedImages
from aindex.data.source_image import SourceImage
from aindex.descriptors.files import Matrix
from aindex.errors import ConfigError
from aindex.index.quantiser import Quantiser
from aindex.index.sharded import AnyIndex, ShardedIndex
from aindex.index.twins import Twins

LEFT_OUT = ("skipped", "failed", "skipped_queries", "failed_edits", "failed_random_edits")
"""Names of the lists of what is missing, in the order in which people read them."""


@dataclass(frozen=True)
class Copies:
    """Edited copies to evaluate: their items' batches are dealt over the ranks.

    Attributes:
        dataset: yields whatever the evaluation that made it understands, or a Failure.
        done: numbers of batches that need not be computed again.
    """

    dataset: Dataset[Any]
    done: set[int] = field(default_factory=set)


@dataclass(kw_only=True)
class Run:
    """The images of a run, the index they are in, and what has become of them so far.

    Attributes:
        folder: where everything goes.
        images: the originals that can be read.
        descriptors: n×d, theirs.
        index: with the originals in it.
        rows: per original r×d, what its rows in the index are made of; None where that is its descriptor.
        kneighbors: neighbours retrieved per search.
        batch_size: images activated together.
        batch_size_eval: images whose copies are described together.
        query_nonmatch_dir: folder or list of images that match nothing; None where there are none.
        twins: rows that count as an original's own.
        row_descriptors: reads the descriptors of all pictures in the index: matrices whose rows, one after the other,
            have the ids 0, 1, …; gives None for an index that holds none.
        evaluated: positions of the images that an evaluation takes.
        batches_done: numbers of batches of images that an interrupted run has released.
        failed: names of images that could not be activated, and why.
        copies: what is evaluated; a validation batch's `dataloader_idx` counts in this list.
        left_out: lists of pictures that are missing from the results, by the names of `LEFT_OUT`.
        notes: lines for people about the run.
        after_the_end: what to do once the results are stored.
    """

    folder: Path
    images: Sequence[SourceImage]
    descriptors: npt.NDArray[np.float32]
    index: AnyIndex
    rows: Sequence[Matrix] | None = None
    kneighbors: int = 100
    batch_size: int = 16
    batch_size_eval: int = 4
    query_nonmatch_dir: str | None = None
    twins: Twins = field(default_factory=Twins)
    row_descriptors: Callable[[], list[Matrix] | None] = lambda: None
    evaluated: Sequence[int] = ()
    batches_done: set[int] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    copies: list[Copies] = field(default_factory=list)
    left_out: dict[str, SkippedImages] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    after_the_end: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.evaluated = self.evaluated or range(len(self.images))

    @property
    def quantiser(self) -> Quantiser:
        """Says where the index files a descriptor."""
        return self.index.quantiser

    @property
    def is_collective(self) -> bool:
        """Whether all ranks must search together, each as often as the others."""
        return isinstance(self.index, ShardedIndex)

    def goal_of(self, position: int) -> Tensor:
        """r×d: what the rows of the image at a position are made of."""
        rows = self.descriptors[position : position + 1] if self.rows is None else self.rows[position]
        return torch.from_numpy(np.ascontiguousarray(rows))

    def search(
        self, descriptors: Matrix, originals: npt.NDArray[np.int64] | None = None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Distances and ids, nq×kneighbors each; collective where `is_collective`.

        Args:
            descriptors: nq×d; none to take part in a search of the other ranks.
            originals: nq rows of what the queries are copies of, −1 for none; default none. An original and its twins
                are one row then.
        """
        if not self.twins.rows:
            return self.index.search(descriptors, self.kneighbors)
        depth = min(self.kneighbors + self.twins.extra, self.index.pictures)
        distances, ids = self.index.search(descriptors, depth)
        if originals is None:
            return distances[:, : self.kneighbors], ids[:, : self.kneighbors]
        far = float(np.finfo(np.float32).max)
        worst = -far if self.index.larger_is_closer else far
        return self.twins.as_one(distances, ids, originals, self.kneighbors, worst=worst)


class GivenRun:
    """A class whose objects are given their run by the callback that makes it."""

    _run: Run | None = None

    @property
    def run(self) -> Run:
        """The run.

        Raises:
            ConfigError: nobody has given it.
        """
        if self._run is None:
            raise ConfigError(
                f"{type(self).__name__} has no index: give the trainer a callback BuildIndex(path='shipped') (from "
                "aindex.callbacks.build_index; it says where the index is or what it is made of), before the others"
            )
        return self._run

    @run.setter
    def run(self, run: Run) -> None:
        self._run = run

    def run_of(self, trainer: Trainer) -> Run:
        """The run, if it is this trainer's.

        Raises:
            ConfigError: nobody has given it, or another trainer's.
        """
        if self._run is not None and self._run.folder != Path(trainer.default_root_dir):
            self._run = None
        return self.run
