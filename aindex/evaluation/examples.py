"""Example pictures for the report, each image in a folder of its own.

`report_assets/<image_index, eight digits>/` holds JPEG files and `example.json`:

    {"image_index": 12, "name": "a/b.jpg", "amplification": 10,
     "original": "original.jpg", "released": "released.jpg", "difference": "difference.jpg",
     "heatmap": "heatmap.jpg" or null,
     "copies": [{"attack": "rotation", "attack_param": 25, "file": "copy_0.jpg"}, …]}

Whether a copy was found is not stored: the report looks it up in `retr_df.csv`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from aindex.data.atomic import replace_when_done
from aindex.errors import DataError
from aindex.evaluation.retrieval import AttackParam

EXAMPLE_FILE = "example.json"
AMPLIFICATION = 10
_LONGEST_SIDE = 480
_LONGEST_SIDE_OF_A_COPY = 240


@dataclass(frozen=True)
class EditedCopy:
    """An edited copy of a released image, with the edit that made it."""

    attack: str
    attack_param: AttackParam
    image: Image.Image


@dataclass(frozen=True)
class ExampleCopy:
    """A stored copy: its edit and its picture."""

    attack: str
    attack_param: AttackParam
    file: Path


@dataclass(frozen=True)
class Example:
    """A stored example; the paths are of pictures to show."""

    image_index: int
    name: str
    amplification: float
    original: Path
    released: Path
    difference: Path
    heatmap: Path | None
    copies: tuple[ExampleCopy, ...]


def amplified_difference(
    original: Image.Image, released: Image.Image, factor: float = AMPLIFICATION
) -> Image.Image:
    """Released minus original, times a factor, around middle grey.

    Raises:
        ValueError: the images differ in size.
    """
    if original.size != released.size:
        raise ValueError(f"original {original.size} and released {released.size}: expected one size")
    before, after = (np.asarray(image.convert("RGB"), dtype=np.float32) for image in (original, released))
    return Image.fromarray(np.clip(128 + factor * (after - before), 0, 255).round().astype(np.uint8))


def heatmap_picture(heatmap: npt.ArrayLike) -> Image.Image:
    """A map of one value per pixel in false colours, dark where it is smallest.

    Args:
        heatmap: H×W or 1×H×W, any range.
    """
    from matplotlib import colormaps

    values = np.asarray(heatmap, dtype=np.float32)
    values = values.reshape(values.shape[-2:])
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low) if high > low else np.full_like(values, 0.5)
    return Image.fromarray((colormaps["magma"](scaled)[..., :3] * 255).round().astype(np.uint8))


def save_example(
    folder: Path,
    *,
    image_index: int,
    name: str,
    original: Image.Image,
    released: Image.Image,
    heatmap: npt.ArrayLike | None,
    copies: Sequence[EditedCopy],
) -> Path:
    """Write one image's pictures for the report.

    Args:
        folder: the run's `report_assets`.
        image_index: the image's id in the index.
        name: the image's name.
        original: before activation.
        released: after.
        heatmap: H×W or 1×H×W, or None.
        copies: a few edited copies, whose edits `retr_df.csv` has rows for.

    Returns:
        The example's folder.

    Raises:
        OutputError: a file cannot be written.
    """
    own = folder / f"{image_index:08d}"
    pictures = {
        "original": original,
        "released": released,
        "difference": amplified_difference(original, released),
        "heatmap": None if heatmap is None else heatmap_picture(heatmap),
    }
    record: dict[str, Any] = {"image_index": image_index, "name": name, "amplification": AMPLIFICATION}
    for role, picture in pictures.items():
        record[role] = None if picture is None else f"{role}.jpg"
        if picture is not None:
            _save(picture, own / f"{role}.jpg", _LONGEST_SIDE)
    record["copies"] = []
    for number, copy in enumerate(copies):
        file = f"copy_{number}.jpg"
        _save(copy.image, own / file, _LONGEST_SIDE_OF_A_COPY)
        record["copies"].append({"attack": copy.attack, "attack_param": copy.attack_param, "file": file})
    with replace_when_done(own / EXAMPLE_FILE) as temporary:
        temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
    return own


def _save(image: Image.Image, path: Path, longest_side: int) -> None:
    small = image.convert("RGB")
    small.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    with replace_when_done(path) as temporary:
        # little compression and full colour resolution: the released picture's changes should survive it
        small.save(temporary, quality=92, subsampling=0)


def read_examples(folder: Path) -> list[Example]:
    """The stored examples, by id; an empty list where there are none.

    Raises:
        DataError: a description is damaged or names a picture that is not there.
    """
    return [_read_example(path) for path in sorted(folder.glob(f"*/{EXAMPLE_FILE}"))]


def _read_example(path: Path) -> Example:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        # only the last part of a name counts, so a description cannot point outside its folder
        files = {
            role: path.parent / Path(record[role]).name for role in ("original", "released", "difference")
        }
        heatmap = path.parent / Path(record["heatmap"]).name if record["heatmap"] else None
        copies = tuple(
            ExampleCopy(copy["attack"], copy["attack_param"], path.parent / Path(copy["file"]).name)
            for copy in record["copies"]
        )
        example = Example(
            int(record["image_index"]),
            str(record["name"]),
            record["amplification"],
            **files,
            heatmap=heatmap,
            copies=copies,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: {type(error).__name__} {error}; expected an example's description, evaluate again"
        ) from error
    pictures = [*files.values(), *(copy.file for copy in copies), *([heatmap] if heatmap else [])]
    missing = [picture for picture in pictures if not picture.is_file()]
    if missing:
        raise DataError(f"{missing[0]}: no such picture, {path.name} names it; evaluate again")
    return example
