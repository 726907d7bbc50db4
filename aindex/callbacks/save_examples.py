"""A dozen images for the report: before, after, the change, and a few edited copies."""

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from PIL import Image

from aindex.activation.canvas import heatmap
from aindex.activation.run import Run
from aindex.activation.settings import ActivationSettings
from aindex.data.images import read_image, to_tensor
from aindex.edits.named import Attack
from aindex.errors import EditError
from aindex.evaluation.edited import EditedPictures
from aindex.evaluation.examples import save_example
from aindex.evaluation.run_files import ASSETS_FOLDER

_SHOWN = (
    Attack("auto"),
    Attack("meme_format"),
    Attack("overlay_onto_screenshot"),
    Attack("rotation", 25),
    Attack("center_crop", 0.5),
    Attack("contrast", 2),
)


def save_examples(run: Run, settings: ActivationSettings | None, count: int) -> None:
    """Write `report_assets/`: examples of the main set under evaluation, spread evenly over its images.

    Those images must be there still. Without settings, where nothing was activated, there is no heat map.
    """
    main = next((one.dataset for one in run.copies if isinstance(one.dataset, EditedPictures)), None)
    if main is None:
        return
    images = {image.name: image for image in run.images}
    attacks = shown_attacks(main.attacks)
    there = [position for position, name in enumerate(main.names) if name not in main.left_out]
    for place in spread_over(len(there), count):
        position = there[place]
        image = images[main.names[position]]
        original, released = read_image(image.path), read_image(main.paths[position])
        changed = main.paths[position] != image.path
        save_example(
            run.folder / ASSETS_FOLDER,
            image_index=image.index_id,
            name=image.name,
            original=original,
            released=released,
            heatmap=heatmap(to_tensor(original), settings).numpy() if settings and changed else None,
            copies=_copies(main, released, position, attacks),
        )


def _copies(
    dataset: EditedPictures, image: Image.Image, position: int, attacks: Sequence[Attack]
) -> dict[Attack, Image.Image]:
    copies = {}
    for attack in attacks:
        with suppress(EditError):  # the evaluation has recorded it
            copies[attack] = dataset.copy(image, position, attack)
    return copies


def shown_attacks(attacks: Sequence[Attack]) -> list[Attack]:
    """Six edits to show: of different kinds where they were run, else spread over those that were."""
    chosen = [attack for attack in _SHOWN if attack in attacks]
    if len(chosen) < 3:
        chosen = [attacks[place] for place in spread_over(len(attacks), len(_SHOWN))]
    return chosen


def spread_over(length: int, count: int) -> list[int]:
    """Up to `count` places of a list, evenly spread, the first and the last among them."""
    return sorted({int(place) for place in np.linspace(0, length - 1, min(count, length)).round()})
