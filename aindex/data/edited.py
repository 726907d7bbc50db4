"""Edited copies of images, made in the loader's processes, ready for the extractor."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from aindex.data.datamodule import Failure
from aindex.data.images import read_image
from aindex.descriptors.preprocess import prepare
from aindex.edits import Attack, Template, apply_attack
from aindex.errors import AindexError
from aindex.seeding import derive_seed

COPIES_PER_ITEM = 16
"""Most copies of one image in one item: long lists of attacks would fill the memory with prepared pictures."""


@dataclass(frozen=True)
class EditedCopies:
    """Some edited copies of one image.

    Attributes:
        item: its number in the data set.
        position: the image's number in the list.
        attacks: what was done, n.
        inputs: n×3×R×R, prepared for the extractor.
    """

    item: int
    position: int
    attacks: Sequence[Attack]
    inputs: Tensor


class EditedPictures(Dataset[EditedCopies | Failure]):
    """Each image under each attack, `COPIES_PER_ITEM` of them an item.

    The edits' random numbers derive from the image's name and the attack, not from the file that is read, so
    originals and released images undergo the same.

    Args:
        paths: files to edit, opened only when their turn comes.
        names: the images' names.
        attacks: what to do with each.
        size: R, side of the prepared copies.
        seed: the run's.
        template: screenshot template.
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
    ) -> None:
        self.paths, self.names, self.attacks = paths, names, attacks
        self.size, self.seed, self.template = size, seed, template
        self.items_per_image = -(-len(attacks) // COPIES_PER_ITEM)

    def __len__(self) -> int:
        return len(self.paths) * self.items_per_image

    def __getitem__(self, item: int) -> EditedCopies | Failure:
        position, part = divmod(item, self.items_per_image)
        attacks = self.attacks[part * COPIES_PER_ITEM : (part + 1) * COPIES_PER_ITEM]
        try:
            image = read_image(self.paths[position])
            copies = [
                prepare(
                    apply_attack(
                        image,
                        attack,
                        seed=derive_seed(self.seed, self.names[position], str(attack)),
                        template=self.template,
                        name=str(self.paths[position]),
                    ),
                    self.size,
                )
                for attack in attacks
            ]
        except AindexError as error:
            return Failure(error)
        return EditedCopies(item, position, attacks, torch.stack(copies))
