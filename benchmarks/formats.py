"""What the form of released pictures costs: R@1 over the default edits, by file format and PSNR budget.

    python benchmarks/formats.py --images folder [--index shipped] [--count 60]

The pictures must be in the index, or are added to it in memory. Prints a Markdown table; `none` is the released picture
itself, the average is over all edits but the screenshot.
"""

import argparse
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from aindex.collection.equipment import Equipment, describing, open_equipment
from aindex.data.images import list_images, read_image
from aindex.descriptors.inference import fast_extractor
from aindex.descriptors.preprocess import prepare
from aindex.edits.named import apply_attack, default_attacks
from aindex.release.activating import activate
from aindex.seeding import derive_seed

VARIANTS: dict[str, dict[str, Any]] = {
    "png": {},
    "jpeg, quality 95": {"format": "jpeg", "jpeg_quality": 95},
    "jpeg, quality 85": {"format": "jpeg", "jpeg_quality": 85},
    "jpeg, quality 75": {"format": "jpeg", "jpeg_quality": 75},
    "png, at least 40 dB": {"min_psnr": 40.0},
    "png, at least 42 dB": {"min_psnr": 42.0},
    "png, at least 44 dB": {"min_psnr": 44.0},
}


@torch.no_grad()
def recall(
    files: Sequence[Path], names: Sequence[str], rows: Sequence[int], equipment: Equipment
) -> list[float]:
    """R@1 of the pictures and of each edit of them."""
    size = equipment.extractor.input_size
    fast = fast_extractor(equipment.extractor, precision=equipment.settings.precision)
    found = []
    for attack in default_attacks():
        if attack.name == "overlay_onto_screenshot":
            continue
        copies: list[Image.Image] = [
            apply_attack(read_image(file), attack, seed=derive_seed(0, name, attack.name))
            for file, name in zip(files, names, strict=True)
        ]
        inputs = torch.stack([prepare(copy, size) for copy in copies])
        descriptors = torch.cat([fast(batch) for batch in inputs.split(16)])
        ids = equipment.index.search(descriptors, 1)[1][:, 0]
        found.append(float((ids == torch.tensor(rows).numpy()).mean()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--index", default="shipped")
    parser.add_argument("--count", type=int, default=60)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    equipment = open_equipment(
        arguments.index, settings=describing(batch_size=8, progress=False), read_only=False
    )
    listed = list_images(arguments.images)
    paths = listed[:: max(1, len(listed) // arguments.count)][: arguments.count]
    print("| released as | R@1 average | R@1 none | median PSNR | bytes per picture |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        given: dict[str, Any] = dict(vars(equipment))
        released = activate(paths, Path(folder) / "rows", add=True, iterations=0, **given)
        names, rows = released.table["name"].tolist(), released.table["row"].tolist()
        show("passive (the originals)", recall(paths, names, rows, equipment), float("inf"), paths)
        for label, options in VARIANTS.items():
            out = Path(folder) / label
            released = activate(paths, out, **given, **options)
            files = [out / file for file in released.table["file"]]
            show(label, recall(files, names, rows, equipment), released.table["psnr_db"].median(), files)


def show(label: str, recalls: list[float], psnr_db: float, files: Sequence[Path]) -> None:
    size = sum(file.stat().st_size for file in files) / len(files)
    average = sum(recalls) / len(recalls)
    print(f"| {label} | {average:.3f} | {recalls[0]:.3f} | {psnr_db:.1f} | {size:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
