"""aindex: pictures are changed before they are released, so that copies fall into their cell of the same index."""

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from aindex.activation.goals import GoalMaker
from aindex.activation.loop import activate_images
from aindex.activation.presets import Effort, preset
from aindex.seeding import derive_seed

from .base import Bench
from .passive import Passive


class Active(Passive):
    """One of the efforts that come with aindex; searches look into as many cells as the passive index's.

    Pictures are released once, whatever the number of cells that searches visit.
    """

    family = "aindex"

    def __init__(self, bench: Bench, effort: Effort, nprobe: int = 1) -> None:
        super().__init__(bench, nprobe)
        suffix = "" if nprobe == 1 else f", nprobe {nprobe}"
        self.released_as = f"aindex {effort}"
        self.name = f"{self.released_as}{suffix}"
        self.preset = preset(effort)
        settings = self.preset.settings
        self.make_goal = GoalMaker(
            bench.quantised.quantiser,
            loss_f=settings.loss_f,
            target=self.preset.target,
            temperature=settings.temperature,
            anchor=settings.anchor,
        )

    def rows_of(self, row: int) -> npt.NDArray[np.float32]:
        """The descriptors that a picture has in the index, r×d."""
        return self.bench.references[row : row + 1]

    def prepare(self, picture: Image.Image, row: int) -> Image.Image:
        super().prepare(picture, row)  # its row in the index is described, too
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
        activation = activate_images(
            [pixels],
            self.make_goal([torch.from_numpy(self.rows_of(row))]),
            self.extractor,
            self.preset.settings,
            seeds=[derive_seed(self.bench.seed, self.bench.names[row], "delta")],
            optimizer=self.preset.optimizer,
            scheduler=self.preset.scheduler,
        )
        return Image.fromarray(activation.released()[0].numpy())
