"""How fast edited copies are evaluated: `aindex evaluate`, a serial loop, and the two parts alone, in turns.

    python benchmarks/evaluation.py --data disc21/references --images 200
    python benchmarks/evaluation.py --data disc21/references --extractor torchvision/resnet50 --images 64

Items are edited copies, fifteen an image. "evaluate" is the retrieval evaluation of released images as a run makes it,
from the first copy to the last row: read, edit, prepare, describe, search, analyse, note. "serial" does the first five
one copy after the other in fp32, with torchvision and AugLy as they are. "edits" is what the loader's processes do, on
all cores, its results thrown away; "extractor" is the forward pass on prepared pictures, on all cores. Where both
parts share the cores, the time of an evaluation cannot be below the sum of theirs; where the extractor has a device of
its own, not below the slower. The index holds random descriptors. Without --data, pictures are made up.
"""

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
from activation import make_pictures
from common import Work, as_the_commands_do, machine, median_ratio, print_table, take_turns
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.utils.data import Dataset
from torchvision.transforms.functional import gaussian_blur

from aindex.activation.module import _ROWS_PER_CALL
from aindex.commands.pipeline import PipelineCLI
from aindex.data.images import list_images, read_image, to_tensor
from aindex.data.loading import ProcessLoader
from aindex.data.source_image import png_names
from aindex.descriptors.files import write_descriptors
from aindex.descriptors.inference import best_precision, fast_extractor
from aindex.descriptors.preprocess import normalise, resize
from aindex.descriptors.registry import load_extractor
from aindex.edits import augly_repairs
from aindex.edits.named import Attack, apply_attack, default_attacks
from aindex.evaluation.edited import EditedPictures
from aindex.index.reference_index import ReferenceIndex
from aindex.seeding import derive_seed

ROWS = ("evaluate", "serial", "edits", "extractor")
FACTORY = "IVF128,PQ8x8"
TRAINING, REFERENCES, NEIGHBOURS = 5000, 3500, 100


class Silent(Dataset[int]):
    """Does the work of a data set and keeps it to itself."""

    def __init__(self, dataset: EditedPictures) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: int) -> int:
        self.dataset[item]
        return item


class Clock(Callback):
    """Seconds from the start of a validation to its last batch; must be the last callback."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.perf_counter()

    def on_validation_batch_end(self, trainer: Trainer, *args: object) -> None:
        self.seconds = time.perf_counter() - self.started


def plain_copy(image: Image.Image, attack: Attack, seed: int) -> Image.Image:
    """An edited copy by torchvision and AugLy as they are, where aindex has something faster."""
    if attack.name == "blur":
        return gaussian_blur(image, [int(attack.param)] * 2)
    if attack.name == "overlay_onto_screenshot":
        augly = augly_repairs._functional()  # as it is, imported where libmagic may be missing
        return augly.overlay_onto_screenshot(image, template_filepath=augly_repairs.template_path("web"))
    return apply_attack(image, attack, seed=seed)


def release(paths: list[Path], names: list[str], folder: Path) -> list[Path]:
    """Slightly changed copies, as an activation would leave them."""
    rng = np.random.default_rng(0)
    released = [folder / name for name in png_names(names)]
    for path, target in zip(paths, released, strict=True):
        pixels = np.asarray(read_image(path), dtype=np.int16)
        noisy = np.clip(pixels + rng.integers(-4, 5, pixels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(target, compress_level=1)
    return released


class Subject:
    """The pictures, their copies, and the rows measured on them."""

    def __init__(self, options: argparse.Namespace, paths: list[Path], folder: Path) -> None:
        self.options, self.folder = options, folder
        self.device = torch.device(options.device)
        self.attacks = default_attacks()
        self.names = [f"{i:06d}.jpg" for i in range(len(paths))]
        self.originals = [folder / "originals" / name for name in self.names]
        for part in ("originals", "released"):
            (folder / part).mkdir()
        for original, path in zip(self.originals, paths, strict=True):
            original.symlink_to(path.absolute())
        self.released = release(paths, self.names, folder / "released")
        self.extractor = load_extractor(options.extractor, device=self.device)
        self.fast = fast_extractor(self.extractor, device=self.device, precision=options.precision)
        self._make_index()
        self.copies = EditedPictures(
            self.released,
            self.names,
            self.attacks,
            size=self.extractor.input_size,
            seed=0,
            originals=self.originals,
        )
        prepared = [self.copies[i].inputs for i in range(min(8, len(self.copies)))]
        self.inputs = torch.cat(prepared)[:_ROWS_PER_CALL]
        self.runs = 0

    def _make_index(self) -> None:
        rng = np.random.default_rng(0)
        rows = rng.standard_normal((TRAINING + REFERENCES, self.extractor.dim), dtype=np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        write_descriptors(self.folder / "training.npy", rows[:TRAINING])
        write_descriptors(self.folder / "references.npy", rows[TRAINING:])
        self.index = ReferenceIndex.train(rows[:TRAINING], idx_factory=FACTORY)
        self.index.add(rows[TRAINING:], [str(i) for i in range(REFERENCES)])

    @property
    def count(self) -> int:
        return len(self.released) * len(self.attacks)

    def evaluate(self) -> tuple[int, float]:
        self.runs += 1
        options = {
            "output_dir": self.folder / f"run{self.runs}",
            "model.extractor": self.options.extractor,
            "data.data_dir": self.folder / "originals",
            "data.num_workers": self.options.workers,
            "data.batch_size_eval": self.options.batch_size,
            "retrieval.released_dir": self.folder / "released",
            "index.idx_factory": FACTORY,
            "index.idx_dir": self.folder / "indexes",
            "index.fts_training_path": self.folder / "training.npy",
            "index.fts_reference_path": self.folder / "references.npy",
            "index.kneighbors": NEIGHBOURS,
            "report.html": "false",
            "report.examples": 0,
            "trainer.precision": "bf16-mixed" if self.fast.precision == "bf16" else "32-true",
            "trainer.accelerator": "gpu" if self.device.type == "cuda" else "cpu",
            "trainer.devices": 1,
            "trainer.logger": "false",
            "trainer.enable_progress_bar": "false",
        }
        cli = PipelineCLI("evaluate", [f"--{key}={value}" for key, value in options.items()])
        clock = Clock()
        cli.trainer.callbacks.append(clock)
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            cli.trainer.evaluate(cli.model, cli.datamodule)
        return self.count, clock.seconds

    @torch.no_grad()
    def serial(self) -> int:
        some = range(min(len(self.released), self.options.serial_images))
        for i in some:
            image = read_image(self.released[i])
            for attack in self.attacks:
                copy = plain_copy(image, attack, derive_seed(0, self.names[i], str(attack)))
                inputs = resize(normalise(to_tensor(copy)), self.extractor.input_size)[None].to(self.device)
                self.index.search(self.extractor(inputs).cpu().numpy(), NEIGHBOURS)
        return len(some) * len(self.attacks)

    def edits(self) -> int:
        cores = len(os.sched_getaffinity(0))
        loader = ProcessLoader(
            Silent(self.copies), batch_size=self.options.batch_size, num_workers=cores, collate_fn=list
        )
        for _ in loader:
            pass
        return self.count

    @torch.no_grad()
    def describe(self) -> int:
        calls = max(1, self.count // len(self.inputs))
        for _ in range(calls):
            self.fast(self.inputs.to(self.device)).cpu()
        return calls * len(self.inputs)

    def rows(self) -> dict[str, Work]:
        works = (self.evaluate, self.serial, self.edits, self.describe)
        return {name: work for name, work in zip(ROWS, works, strict=True) if name in self.options.rows}


def ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Speed of the evaluation over that of others; medians over the rounds."""
    if "evaluate" not in seconds:
        return {}
    mine = seconds["evaluate"]
    found = {}
    if "serial" in seconds:
        found["evaluate / serial"] = median_ratio(seconds["serial"], mine)
    if "edits" in seconds and "extractor" in seconds:
        pairs = list(zip(seconds["edits"], seconds["extractor"], strict=True))
        found["evaluate / slower part"] = median_ratio([max(pair) for pair in pairs], mine)
        found["evaluate / sum of the parts"] = median_ratio([sum(pair) for pair in pairs], mine)
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, help="folder of pictures; default: made-up ones")
    add("--images", type=int, default=200)
    add("--serial_images", type=int, default=20, help="images of the serial loop (default 20)")
    add("--extractor", default="aindex_small")
    add("--precision", choices=("fp32", "bf16"), help="default: the machine's best")
    add("--batch_size", type=int, default=4, help="images per batch (default 4)")
    add("--workers", type=int, default=len(os.sched_getaffinity(0)), help="default: one per core")
    add("--device", default="cpu")
    add("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    add("--rounds", type=int, default=5)
    add("--json", type=Path, help="write the figures here, too")
    return parser.parse_args()


def main() -> None:
    options = parse()
    as_the_commands_do()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    options.precision = options.precision or best_precision(options.device)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "pictures")
        made.mkdir()
        paths = (
            list_images(options.data)[: options.images]
            if options.data
            else make_pictures(made, options.images)
        )
        subject = Subject(options, paths, Path(folder))
        seconds = take_turns(subject.rows(), options.rounds)
        about = machine(subject.device)
    print(json.dumps(about))
    print(
        f"{len(paths)} images x {len(subject.attacks)} copies, {options.extractor}, {options.precision}, "
        f"{options.workers} workers"
    )
    rates = {name: 1 / statistics.median(times) for name, times in seconds.items()}
    print_table(
        ["row", "copies/s", "ms per copy"], [[n, f"{r:.1f}", f"{1000 / r:.2f}"] for n, r in rates.items()]
    )
    found = ratios(seconds)
    for name, ratio in found.items():
        print(f"{name}: {ratio:.2f}")
    if options.json:
        result = {
            "machine": about,
            "images": len(paths),
            "extractor": options.extractor,
            "precision": options.precision,
            "workers": options.workers,
            "copies_per_second": rates,
            "seconds_per_copy": seconds,
            "ratios": found,
        }
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
