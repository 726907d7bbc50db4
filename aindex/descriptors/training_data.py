"""Pictures for training a descriptor: pairs of edited views, and left-out pictures with their edited copies."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset, default_collate

from aindex.data.images import list_images, read_image
from aindex.data.loading import ProcessLoader
from aindex.descriptors.training_views import strong_view, weak_view
from aindex.edits.named import Attack, apply_attack, default_attacks
from aindex.errors import ConfigError, DataError, EditError, ImageReadError
from aindex.seeding import derive_seed


def validation_attacks() -> list[Attack]:
    """The default edits without the screenshot, which no descriptor of this size finds among others."""
    return [attack for attack in default_attacks() if attack.name != "overlay_onto_screenshot"]


def to_square(image: Image.Image, size: int) -> Tensor:
    """RGB picture → uint8 tensor 3×size×size, bilinear with antialiasing, aspect ratio not kept."""
    resized = image.resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized, dtype=np.uint8)).permute(2, 0, 1).contiguous()


LEAST_SIDE = 16
"""Pixels; of smaller pictures some views would be empty."""


class PictureStore:
    """Small copies of pictures by number, kept in memory once decoded, up to a limit."""

    def __init__(self, paths: Sequence[Path], *, max_side: int, cache_gib: float) -> None:
        self.paths = list(paths)
        self.max_side = max_side
        self.free_bytes = int(cache_gib * 2**30)
        self._kept: dict[int, Image.Image] = {}

    def __getitem__(self, index: int) -> Image.Image:
        """The picture (RGB), its longer side at most `max_side` pixels.

        Raises:
            ImageReadError: it cannot be read, or is too small.
        """
        if index in self._kept:
            return self._kept[index]
        image = read_image(self.paths[index])
        image.thumbnail((self.max_side, self.max_side), Image.Resampling.BILINEAR)
        if min(image.size) < LEAST_SIDE:
            raise ImageReadError(
                f"picture {str(self.paths[index])!r} is {image.width}×{image.height} pixels once it is shrunk: "
                f"expected {LEAST_SIDE} or more on each side"
            )
        size = 4 * image.width * image.height
        if size <= self.free_bytes:
            self.free_bytes -= size
            self._kept[index] = image
        return image


class EpochSampler(Sampler[tuple[int, int, int]]):
    """Every index once an epoch, in an order drawn from seed and epoch, as (index, epoch, input size).

    Each rank takes every `world`-th index; all take equally many.
    """

    def __init__(
        self, count: int, *, seed: int, sizes: Sequence[int], epochs: int, rank: int, world: int
    ) -> None:
        self.count, self.seed, self.sizes, self.epochs = count, seed, sizes, epochs
        self.rank, self.world = rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls it before each epoch; with `epochs` it decides the input size, small ones first."""
        self.epoch = epoch

    @property
    def input_size(self) -> int:
        """Of three sizes, the first 60 % of the epochs take the first, the last 8 % the last; of two, 70 and 30 %."""
        shares = {1: (1.0,), 2: (0.7, 1.0), 3: (0.6, 0.92, 1.0)}[len(self.sizes)]
        progress = (self.epoch + 0.5) / self.epochs
        return next(size for size, share in zip(self.sizes, shares, strict=True) if progress <= share)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", self.epoch))
        order = torch.randperm(self.count, generator=generator)[self.rank :: self.world][: len(self)]
        return iter((index, self.epoch, self.input_size) for index in order.tolist())

    def __len__(self) -> int:
        return self.count // self.world


class ViewPairs(Dataset[tuple[Tensor, Tensor, int]]):
    """(index, epoch, size) → a weak view, a strong view (uint8 3×size×size each) and the index.

    Attributes:
        left_out: a mark per picture that could not be used, in memory that worker processes share.
    """

    def __init__(self, store: PictureStore, *, seed: int) -> None:
        self.store = store
        self.seed = seed
        self.left_out = torch.zeros(len(store.paths), dtype=torch.bool)
        self.left_out.share_memory_()  # type: ignore[no-untyped-call]

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, Tensor, int]:
        index, epoch, size = key
        rng = np.random.default_rng(derive_seed(self.seed, "views", epoch, index))
        index, image = self._readable(index)
        _, background = self._readable(int(rng.integers(len(self))))
        weak, strong = weak_view(image, rng), strong_view(image, rng, [background])
        return to_square(weak, size), to_square(strong, size), index

    def _readable(self, index: int) -> tuple[int, Image.Image]:
        """The picture, or the next one that can be read (a warning says which could not)."""
        for candidate in range(index, index + len(self)):
            try:
                return candidate % len(self), self.store[candidate % len(self)]
            except ImageReadError as error:
                self.left_out[candidate % len(self)] = True
                warnings.warn(f"picture left out of training: {error}", stacklevel=2)
        raise DataError(f"none of the {len(self)} training pictures can be read; see the warnings above")

    def __len__(self) -> int:
        return len(self.store.paths)


class EditedCopies(Dataset[tuple[Tensor, int, int] | str]):
    """Left-out pictures, as they are (edit −1) and under each edit of the validation: (uint8 3×R×R, image, edit).

    Of a picture that cannot be read or edited, the reason is returned instead.
    """

    def __init__(self, paths: Sequence[Path], *, size: int, seed: int) -> None:
        self.paths, self.size, self.seed = list(paths), size, seed
        self.attacks = validation_attacks()

    def __getitem__(self, item: int) -> tuple[Tensor, int, int] | str:
        index, edit = divmod(item, len(self.attacks) + 1)
        try:
            image = read_image(self.paths[index])
            if edit > 0:
                seed = derive_seed(self.seed, "validation", index)
                image = apply_attack(image, self.attacks[edit - 1], seed=seed, name=str(self.paths[index]))
        except (ImageReadError, EditError) as error:
            return str(error)
        return to_square(image, self.size), index, edit - 1

    def __len__(self) -> int:
        return len(self.paths) * (len(self.attacks) + 1)


class TrainingPictures(LightningDataModule):
    """A folder of pictures, some left out for validation, as batches of two differently edited views each.

    Args:
        data_dir: folder of pictures (searched recursively) or a file with a path per line.
        batch_size: pictures per step; each gives two views.
        input_sizes: sides in pixels of the square input over the course of training, one to three, small ones first;
            the last is the extractor's.
        validation_pictures: how many pictures are left out of training; R@1 under edits is measured on them.
        num_workers: processes that decode and edit; 0 does it in the main process.
        max_side: pixels; larger pictures are shrunk to it before they are edited.
        cache_gib: memory each worker may keep decoded pictures in, GiB.
        seed: decides what is left out, the order and every edit.
    """

    def __init__(
        self,
        data_dir: Path,
        batch_size: int = 128,
        input_sizes: tuple[int, ...] = (96, 128, 160),
        validation_pictures: int = 250,
        num_workers: int = 1,
        max_side: int = 256,
        cache_gib: float = 2.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 1 <= len(input_sizes) <= 3:
            raise DataError(f"input_sizes has {len(input_sizes)} values, expected one to three")
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("input_sizes", min(input_sizes), 1),
            ("validation_pictures", validation_pictures, 1),
            ("num_workers", num_workers, 0),
            ("max_side", max_side, LEAST_SIDE),
            ("cache_gib", cache_gib, 0),
        ):
            if not value >= least:
                raise ConfigError(
                    f"data.{name} {value}: expected {least} or more; leave it out for the default"
                )
        self.data_dir, self.batch_size, self.input_sizes = data_dir, batch_size, input_sizes
        self.validation_pictures, self.num_workers = validation_pictures, num_workers
        self.max_side, self.cache_gib, self.seed = max_side, cache_gib, seed
        self._validation: TensorDataset | None = None
        self._pairs: ViewPairs | None = None

    def setup(self, stage: str) -> None:
        """Split the pictures, and make the edited copies of the left-out ones, which stay the same throughout."""
        if self._validation is not None:
            return
        paths = list_images(self.data_dir)
        if len(paths) < self.validation_pictures + self.batch_size:
            raise DataError(
                f"{self.data_dir} has {len(paths)} pictures, expected at least validation_pictures + batch_size = "
                f"{self.validation_pictures} + {self.batch_size}; lower these or give more pictures"
            )
        order = np.random.default_rng(derive_seed(self.seed, "split")).permutation(len(paths)).tolist()
        self.left_out = [paths[index] for index in order[: self.validation_pictures]]
        self.train_paths = [paths[index] for index in sorted(order[self.validation_pictures :])]
        self._validation = self._edited_copies()

    def _edited_copies(self) -> TensorDataset:
        copies = EditedCopies(self.left_out, size=self.input_sizes[-1], seed=self.seed)
        made = [
            copy
            for batch in ProcessLoader(copies, batch_size=64, num_workers=self.num_workers, collate_fn=list)
            for copy in batch
        ]
        reasons = [copy for copy in made if isinstance(copy, str)]
        good = [copy for copy in made if not isinstance(copy, str)]
        if not any(edit < 0 for _, _, edit in good):
            raise DataError(
                f"none of the {len(self.left_out)} validation pictures can be read: {reasons[0]}; give others"
            )
        if reasons:
            warnings.warn(
                f"{len(reasons)} of {len(made)} validation copies left out: {reasons[0]}", stacklevel=2
            )
        pictures, images, edits = zip(*good, strict=True)
        return TensorDataset(torch.stack(pictures), torch.tensor(images), torch.tensor(edits))

    def train_dataloader(self) -> ProcessLoader:
        """Batches of (weak views B×3×R×R uint8, strong views, image numbers B)."""
        store = PictureStore(self.train_paths, max_side=self.max_side, cache_gib=self.cache_gib)
        trainer = self.trainer
        sampler = EpochSampler(
            len(self.train_paths),
            seed=self.seed,
            sizes=self.input_sizes,
            epochs=max(1, (trainer.max_epochs or 1) if trainer else 1),
            rank=trainer.global_rank if trainer else 0,
            world=trainer.world_size if trainer else 1,
        )
        self._pairs = ViewPairs(store, seed=self.seed)
        return ProcessLoader(
            self._pairs,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=default_collate,
            persistent_workers=True,
            drop_last=True,
        )

    def teardown(self, stage: str) -> None:
        """Say how many pictures training had to do without."""
        count = 0 if self._pairs is None else int(self._pairs.left_out.sum())
        if self._pairs is not None and count:
            warnings.warn(f"{count} of {len(self._pairs)} pictures were left out of training", stacklevel=2)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Batches of (pictures B×3×R×R uint8, image numbers B, edit numbers B, −1 for the picture itself)."""
        assert self._validation is not None, "setup comes first"
        return DataLoader(self._validation, batch_size=256)
