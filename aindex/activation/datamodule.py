"""The images to activate, and their edited copies to evaluate, as Lightning's data module."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from aindex import distributed
from aindex.activation.run import GivenRun, Run
from aindex.data.decoding import DecodedBatches
from aindex.data.demo import DEMO_SOURCE, demo_folder, demo_images
from aindex.data.images import image_names, list_images, names_root, read_image
from aindex.data.loading import Failure, ProcessLoader
from aindex.data.source_image import SourceImage
from aindex.errors import AindexError, ConfigError
from aindex.paths import user_path

_MOST_WORKERS = 8


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Picture:
    """One decoded image on its way to be activated.

    Attributes:
        position: its number in the run's list of images, counted from 0.
        image: where it comes from and goes.
        pixels: 3×H×W uint8.
        goal: r×d, what the image's rows in the index are made of.
    """

    position: int
    image: SourceImage
    pixels: Tensor
    goal: Tensor


def decoded(run: Run, position: int) -> Picture | Failure:
    """One of a run's images at its own size."""
    image = run.images[position]
    try:
        pixels = np.asarray(read_image(image.path))
    except AindexError as error:
        return Failure(error)
    # torch would start threads for it
    planes = torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))
    if torch.cuda.is_available():  # which can fetch from pinned memory by itself
        planes = planes.pin_memory()
    return Picture(position, image, planes, run.goal_of(position))


class ImageData(GivenRun, LightningDataModule):
    """The images to activate or to evaluate.

    Args:
        data_dir: images to activate: a folder (with its subfolders), a text file with one path per line, or
            `skimage` for the pictures inside scikit-image.
        batch_size: images activated together. More is faster and takes more memory; results stay the same
            but for the kernels' rounding.
        batch_size_eval: images whose edited copies are described together in an evaluation.
        num_workers: threads that decode what is activated, and processes that edit copies of it; default: one
            per core, 8 at most. 0 does it all in between.
        query_nonmatch_dir: images that are not in the index, folder or list, for the copy detection
            evaluation; without it there is none.
    """

    def __init__(
        self,
        data_dir: str,
        batch_size: int = 16,
        batch_size_eval: int = 4,
        num_workers: int | None = None,
        query_nonmatch_dir: str | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("batch_size_eval", batch_size_eval)):
            if value < 1:
                raise ConfigError(f"data.{name} {value}: expected 1 or more")
        if num_workers is not None and num_workers < 0:
            raise ConfigError(f"data.num_workers {num_workers}: expected 0 or more")
        self.data_dir = data_dir
        self.batch_size = batch_size
        self.batch_size_eval = batch_size_eval
        self.num_workers = min(_MOST_WORKERS, _cores()) if num_workers is None else num_workers
        self.query_nonmatch_dir = query_nonmatch_dir

    @property
    def root(self) -> Path:
        """The folder that the images' names are relative to.

        For a list of images elsewhere the nearest folder that holds them all, so that they have the names that
        they would have there.
        """
        if self.data_dir == DEMO_SOURCE:
            return demo_folder()
        source = user_path(self.data_dir)
        root, paths = names_root(source), list_images(source)
        if all(path.is_relative_to(root) for path in paths):
            return root
        return Path(os.path.commonpath([path.parent.absolute() for path in paths]))

    def check_queries(self) -> None:
        """Raise a DataError if there are to be queries that match nothing, and there is none."""
        if self.query_nonmatch_dir is not None:
            list_images(user_path(self.query_nonmatch_dir))

    def listed(self) -> tuple[list[Path], list[str]]:
        """Paths and names of the images given, whether or not they can be read.

        Raises:
            DataError: none there.
        """
        demo = self.data_dir == DEMO_SOURCE
        paths = demo_images() if demo else list_images(user_path(self.data_dir))
        return paths, image_names(paths, self.root)

    def train_dataloader(self) -> DecodedBatches:
        """The images in whole batches, this rank's share."""
        run = self._own_run()
        batches = self._dealt(len(run.images), self.batch_size, run.batches_done)
        return DecodedBatches(partial(decoded, run), batches, threads=self.num_workers)

    def val_dataloader(self) -> list[ProcessLoader]:
        """One loader per data set of copies; pictures are opened only when their turn comes."""
        return [
            ProcessLoader(
                copies.dataset,
                batch_sampler=self._dealt(len(copies.dataset), self.batch_size_eval, copies.done),  # type: ignore[arg-type]
                num_workers=self.num_workers,
                collate_fn=list,
            )
            for copies in self._own_run().copies
        ]

    def _own_run(self) -> Run:
        return self.run if self.trainer is None else self.run_of(self.trainer)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave the batch to the module, which knows what of it belongs on the device."""
        return batch

    @staticmethod
    def _dealt(count: int, batch_size: int, done: set[int]) -> distributed.DealtBatches:
        rank, world_size = distributed.rank(), distributed.world_size()
        return distributed.DealtBatches(count, batch_size, rank=rank, world_size=world_size, done=done)
