"""Example pictures for the report: each image in a folder of its own, JPEG files and `example.json` that names them.

`example.json` holds `image_index`, `name`, `amplification`, the files `original`, `released`, `difference` and
`heatmap` (or null), and `copies`: a list of `attack`, `attack_param` and `file`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from aindex.data.atomic import replace_when_done
from aindex.errors import DataError
from aindex.evaluation.retrieval import attack_label

if TYPE_CHECKING:
    from aindex.edits.named import Attack

EXAMPLE_FILE = "example.json"
AMPLIFICATION = 10
_LONGEST_SIDE = 480
_LONGEST_SIDE_OF_A_COPY = 240


@dataclass(frozen=True)
class Example:
    """A stored example.

    Attributes:
        image_index: the image's id in the index.
        name: the image's name.
        amplification: by which the difference is multiplied.
        pictures: files by what they show: `original`, `released`, `difference`, `heatmap` where there is one.
        copies: files of edited copies, by the edit's label.
    """

    image_index: int
    name: str
    amplification: float
    pictures: dict[str, Path]
    copies: dict[str, Path]

    def caption(self, shown: str) -> str:
        """Words below a picture."""
        return f"difference × {self.amplification:g}" if shown == "difference" else shown


def amplified_difference(original: Image.Image, released: Image.Image) -> Image.Image:
    """Released minus original, ten times, around middle grey."""
    before, after = (np.asarray(image.convert("RGB"), dtype=np.float32) for image in (original, released))
    return Image.fromarray(np.clip(128 + AMPLIFICATION * (after - before), 0, 255).round().astype(np.uint8))


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
    copies: "Mapping[Attack, Image.Image]",
) -> Path:
    """Write one image's pictures for the report, and their description.

    Whether a copy was found is not stored: the report looks it up in `retr_df.csv`.

    Args:
        folder: the run's `report_assets`.
        image_index: the image's id in the index.
        name: the image's name.
        original: before activation.
        released: after.
        heatmap: H×W or 1×H×W, or None.
        copies: a few edited copies, by the edit.

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
    for number, (attack, copy) in enumerate(copies.items()):
        file = f"copy_{number}.jpg"
        _save(copy, own / file, _LONGEST_SIDE_OF_A_COPY)
        record["copies"].append({"attack": attack.name, "attack_param": attack.param, "file": file})
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
        shown = ("original", "released", "difference", *(["heatmap"] if record["heatmap"] else []))
        # only the last part of a name counts, so a description cannot point outside its folder
        pictures = {name: path.parent / Path(record[name]).name for name in shown}
        copies = {
            attack_label(copy["attack"], copy["attack_param"]): path.parent / Path(copy["file"]).name
            for copy in record["copies"]
        }
        example = Example(
            int(record["image_index"]), str(record["name"]), float(record["amplification"]), pictures, copies
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: {type(error).__name__} {error}; expected an example's description, evaluate again"
        ) from error
    for picture in (*pictures.values(), *copies.values()):
        if not picture.is_file():
            raise DataError(f"{picture}: no such picture, {path.name} names it; evaluate again")
    return example
