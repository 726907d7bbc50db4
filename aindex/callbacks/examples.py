"""A dozen images for the report: before, after, the change, and a few edited copies."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer

from aindex import distributed
from aindex.activation.canvas import heatmap
from aindex.activation.module import ActivationModule
from aindex.callbacks.retrieval import EvaluateRetrieval
from aindex.data.edited import EditedPictures
from aindex.data.images import read_image, to_tensor
from aindex.edits import Attack
from aindex.errors import EditError
from aindex.evaluation.examples import EditedCopy, save_example
from aindex.evaluation.run_folder import ASSETS_FOLDER

_SHOWN = (
    Attack("auto"),
    Attack("meme_format"),
    Attack("overlay_onto_screenshot"),
    Attack("rotation", 25),
    Attack("center_crop", 0.5),
    Attack("contrast", 2),
)


class SaveExamples(Callback):
    """Saves examples of the main set under evaluation, spread evenly over its images.

    At the end of the validation, while the released images are certainly there.

    Args:
        retrieval: says what is evaluated, and how copies are made.
        count: number of images.
    """

    def __init__(self, retrieval: EvaluateRetrieval, count: int = 12) -> None:
        self._retrieval = retrieval
        self.count = count

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write `report_assets/`; rank 0."""
        assert isinstance(pl_module, ActivationModule)
        distributed.on_rank_zero(lambda: self._save(trainer, pl_module))

    def _save(self, trainer: Trainer, module: ActivationModule) -> None:
        main = next(one for one in self._retrieval.series if one.images.is_main)
        attacks = shown_attacks(self._retrieval.attacks)
        there = [
            position
            for position in range(len(self._retrieval.images))
            if main.dataset.names[position] not in main.dataset.left_out
        ]
        for place in spread_over(len(there), self.count):
            self._save_one(Path(trainer.default_root_dir), module, main.dataset, there[place], attacks)

    def _save_one(
        self,
        folder: Path,
        module: ActivationModule,
        dataset: EditedPictures,
        position: int,
        attacks: Sequence[Attack],
    ) -> None:
        image = self._retrieval.images[position]
        original, released = read_image(image.path), read_image(dataset.paths[position])
        active = dataset.paths[position] != image.path and module.active
        save_example(
            folder / ASSETS_FOLDER,
            image_index=image.index_id,
            name=image.name,
            original=original,
            released=released,
            heatmap=heatmap(to_tensor(original), module.settings).numpy() if active else None,
            copies=_copies(dataset, released, position, attacks),
        )


def _copies(
    dataset: EditedPictures, image: Image.Image, position: int, attacks: Sequence[Attack]
) -> list[EditedCopy]:
    copies = []
    for attack in attacks:
        with suppress(EditError):  # the evaluation has recorded it
            copies.append(EditedCopy(attack.name, attack.param, dataset.copy(image, position, attack)))
    return copies


def shown_attacks(attacks: Sequence[Attack]) -> list[Attack]:
    """Six attacks to show: of different kinds where they were run, else spread over those that were."""
    chosen = [attack for attack in _SHOWN if attack in attacks]
    if len(chosen) < 3:
        chosen = [attacks[place] for place in spread_over(len(attacks), len(_SHOWN))]
    return chosen


def spread_over(length: int, count: int) -> list[int]:
    """Up to `count` places of a list, evenly spread, the first and the last among them."""
    return sorted({int(place) for place in np.linspace(0, length - 1, min(count, length)).round()})
