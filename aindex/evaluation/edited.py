"""Edited copies of images, made in the loader's processes, ready for the extractor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from aindex.activation.perceptual import linf_grey_levels, psnr_db, ssim
from aindex.data.images import read_image
from aindex.data.loading import Failure
from aindex.descriptors.preprocess import prepare
from aindex.edits.named import Attack, Template, apply_attack
from aindex.edits.random_edit import apply_random_edits
from aindex.errors import AindexError, DataError, EditError, ImageReadError
from aindex.seeding import derive_seed

COPIES_PER_ITEM = 16
"""Most copies in one item: long lists of edits would fill the memory with prepared pictures."""


@dataclass(frozen=True)
class Quality:
    """How far a released image is from its original.

    Attributes:
        psnr_db: infinite where nothing changed.
        ssim: 1 where nothing changed.
        linf: largest change of a channel value, grey levels.
    """

    psnr_db: float = float("inf")
    ssim: float = 1.0
    linf: float = 0.0


def quality_of(original: Image.Image, released: Image.Image) -> Quality:
    """PSNR, SSIM and L∞ of two pictures of one size.

    Raises:
        DataError: the sizes differ.
    """
    if original.size != released.size:
        sizes = [f"{image.width}×{image.height}" for image in (released, original)]
        raise DataError(f"{sizes[0]} pixels, its original {sizes[1]}: expected one size; give it as released")
    before, after = (
        torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous() for image in (original, released)
    )
    if torch.equal(before, after):
        return Quality()
    return Quality(
        psnr_db=round(psnr_db(before, after).item(), 6),
        ssim=round(ssim(before, after), 6),
        linf=float(round(linf_grey_levels(before, after).item())),
    )


@dataclass(frozen=True)
class EditedCopies:
    """Some edited copies of one image.

    Attributes:
        item: its number in the data set.
        position: the image's number in the list.
        attacks: what was done, n.
        inputs: prepared for the extractor, n×3×R×R; the unedited image follows if it is not one of the copies.
        unedited: the row of the unedited image; only in the image's first item.
        quality: how far the image is from its original; only in the image's first item.
        failed: edit, path and reason of those that failed.
    """

    item: int
    position: int
    attacks: Sequence[Attack]
    inputs: Tensor
    unedited: int | None = None
    quality: Quality | None = None
    failed: Sequence[tuple[str, str, str]] = ()


class EditedPictures(Dataset[EditedCopies | Failure]):
    """Each image edited in each way, `COPIES_PER_ITEM` of them an item.

    The edits' random numbers derive from the image's name and the edit's, not from the file that is read, so
    originals and released images undergo the same.

    Args:
        paths: files to edit, opened only when their turn comes.
        names: the images' names.
        attacks: what to do with each.
        size: R, side of the prepared copies.
        seed: the run's.
        template: screenshot template.
        originals: the files that these were made from, to measure what changed.
        left_out: names of images that there are not, and why; read when loader processes start.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        names: Sequence[str],
        attacks: Sequence[Attack],
        *,
        size: int,
        seed: int,
        template: Template = "web",
        originals: Sequence[Path] | None = None,
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        self.paths, self.names, self.attacks = paths, names, attacks
        self.size, self.seed, self.template = size, seed, template
        self.originals = originals
        self.left_out = {} if left_out is None else left_out
        self.items_per_image = -(-len(attacks) // COPIES_PER_ITEM)

    def __len__(self) -> int:
        return len(self.paths) * self.items_per_image

    def __getitem__(self, item: int) -> EditedCopies | Failure:
        position, part = divmod(item, self.items_per_image)
        path, name = self.paths[position], self.names[position]
        wanted = self.attacks[part * COPIES_PER_ITEM : (part + 1) * COPIES_PER_ITEM]
        if name in self.left_out:
            missing = [(str(attack), str(path), self.left_out[name]) for attack in wanted]
            return EditedCopies(item, position, [], _stacked([], self.size), failed=missing)
        attacks: list[Attack] = []
        copies: list[Tensor] = []
        failed: list[tuple[str, str, str]] = []
        unedited, quality = None, None
        try:
            image = read_image(path)
            for attack in wanted:
                try:
                    copies.append(prepare(self.copy(image, position, attack), self.size))
                    attacks.append(attack)
                except EditError as error:
                    failed.append((str(attack), *why_edit_failed(path, error)))
            if part == 0:
                none = Attack("none")
                unedited = attacks.index(none) if none in attacks else len(copies)
                if unedited == len(copies):
                    copies.append(prepare(image, self.size))
                quality = self._quality(position, image)
        except AindexError as error:
            return Failure(error)
        return EditedCopies(item, position, attacks, _stacked(copies, self.size), unedited, quality, failed)

    def copy(self, image: Image.Image, position: int, attack: Attack) -> Image.Image:
        """The image at a position, edited in one way.

        Raises:
            EditError: the edit failed.
        """
        return apply_attack(
            image,
            attack,
            seed=derive_seed(self.seed, self.names[position], str(attack)),
            template=self.template,
            name=str(self.paths[position]),
        )

    def _quality(self, position: int, image: Image.Image) -> Quality | None:
        if self.originals is None:
            return None
        if self.originals[position] == self.paths[position]:
            return Quality()
        try:
            return quality_of(read_image(self.originals[position]), image)
        except DataError as error:
            raise DataError(f"released image {str(self.paths[position])!r}: {error}") from error


def _stacked(copies: list[Tensor], size: int) -> Tensor:
    return torch.stack(copies) if copies else torch.empty(0, 3, size, size)


def random_copy(image: Image.Image, path: Path, *, seed: int) -> tuple[Image.Image, list[dict[str, Any]]]:
    """A random edit of a picture, and what was done.

    Raises:
        EditError: the edit failed; it names the picture.
    """
    try:
        return apply_random_edits(image, seed=seed)
    except EditError as error:
        raise EditError(f"{path}: {error}") from error


def why_edit_failed(path: Path, error: EditError) -> tuple[str, str]:
    """Path and reason of an edit that failed because of the picture.

    Raises:
        EditError: it failed because of the machine and may work another time.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError | ImportError | FileNotFoundError | PermissionError):
            raise error
        cause = cause.__cause__
    return str(path), str(error)


@dataclass(frozen=True)
class RandomCopies:
    """Some images, each with one random edit.

    Attributes:
        item: its number in the data set.
        positions: the images' numbers in the list, n.
        edits: per image what was done, with all parameters.
        inputs: n×3×R×R, prepared for the extractor.
        skipped: path and reason of pictures that cannot be read.
        failed: path and reason of pictures whose edit failed.
    """

    item: int
    positions: Sequence[int]
    edits: Sequence[list[dict[str, Any]]]
    inputs: Tensor
    skipped: Sequence[tuple[str, str]]
    failed: Sequence[tuple[str, str]] = ()


class RandomlyEditedPictures(Dataset[RandomCopies | Failure]):
    """Each image under one random edit, `COPIES_PER_ITEM` images an item.

    Args:
        skip_unreadable: note pictures that cannot be read, instead of failing; see `EditedPictures` for the others.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        names: Sequence[str],
        *,
        size: int,
        seed: int,
        skip_unreadable: bool = False,
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        self.paths, self.names = paths, names
        self.left_out = {} if left_out is None else left_out
        self.size, self.seed, self.skip_unreadable = size, seed, skip_unreadable

    def __len__(self) -> int:
        return -(-len(self.paths) // COPIES_PER_ITEM)

    def __getitem__(self, item: int) -> RandomCopies | Failure:
        positions: list[int] = []
        edits: list[list[dict[str, Any]]] = []
        copies: list[Tensor] = []
        skipped: list[tuple[str, str]] = []
        failed: list[tuple[str, str]] = []
        first = item * COPIES_PER_ITEM
        try:
            for position in range(len(self.paths))[first : first + COPIES_PER_ITEM]:
                path, name = self.paths[position], self.names[position]
                if name in self.left_out:
                    failed.append((str(path), self.left_out[name]))
                    continue
                try:
                    seed = derive_seed(self.seed, name, "copy detection")
                    copy, drawn = random_copy(read_image(path), path, seed=seed)
                except ImageReadError as error:
                    if not self.skip_unreadable:
                        raise
                    skipped.append((str(path), str(error)))
                except EditError as error:
                    failed.append(why_edit_failed(path, error))
                else:
                    positions.append(position)
                    edits.append(drawn)
                    copies.append(prepare(copy, self.size))
        except AindexError as error:
            return Failure(error)
        return RandomCopies(item, positions, edits, _stacked(copies, self.size), skipped, failed)
