"""How fast images are activated: aindex (a), a plain loop (b), and the limit (c), in turns in one process.

    python benchmarks/activation.py --data disc21/references
    python benchmarks/activation.py --data disc21/references --extractors small --batch_sizes 16 --rounds 5

(a) sets a batch up, iterates and renders; "loop" is its iterations alone, "files" the same as `fit` runs it, from
the picture's file to the PNG's. (b) is plain_loop.py in fp32: the published settings. (c) is the extractor's forward
and backward to its input alone, as often, in the form and precision that aindex uses. a/b and a/c compare speeds: above
1 is faster.
Per picture, "once" is what does not belong to the loop: decode, heatmap, resize, render, encode; beside it bare
decoding and encoding. Without --data, pictures are made up.
"""

import argparse
import io
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from common import (
    Work,
    as_the_commands_do,
    machine,
    median_ratio,
    peak_mib,
    print_table,
    reset_peak,
    take_turns,
)
from PIL import Image
from plain_loop import plain_loop
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from aindex.activation.canvas import Canvas
from aindex.activation.datamodule import ImageData
from aindex.activation.goals import GoalMaker
from aindex.activation.loop import Activation, activate_images
from aindex.activation.module import ActivationModule
from aindex.activation.presets import Effort, preset
from aindex.activation.run import Run
from aindex.activation.settings import DeltaSize
from aindex.callbacks.write_images import WriteImages
from aindex.data.images import list_images, read_image
from aindex.data.source_image import SourceImage, png_names
from aindex.descriptors.extractor import Extractor
from aindex.descriptors.inference import best_precision, fast_extractor
from aindex.descriptors.small import GeM, SmallExtractor
from aindex.index.reference_index import ReferenceIndex

ROWS = ("a", "a loop", "a files", "b", "c", "once", "decode + encode")
MEGAPIXEL = 1_000_000


class ResNet50GeM(nn.Module):
    """The shape of SSCD: ResNet-50, GeM, 512-d, unit norm; random weights."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import resnet50

        trunk = resnet50()
        self.trunk = nn.Sequential(*list(trunk.children())[:-2])
        self.pool = GeM()
        self.head = nn.Linear(2048, 512)

    def forward(self, pixels: Tensor) -> Tensor:
        return nn.functional.normalize(self.head(self.pool(self.trunk(pixels))).float(), dim=1)


def delta_size(text: str | None) -> DeltaSize | None:
    return int(text) if text and text.isdigit() else text  # type: ignore[return-value]


def make_extractor(name: str) -> Extractor:
    torch.manual_seed(0)
    module, size = (SmallExtractor(), 160) if name == "small" else (ResNet50GeM(), 288)
    return Extractor(module.eval(), name=name, input_size=size)


def make_pictures(folder: Path, count: int) -> list[Path]:
    """Pictures of the sizes that photographs of disc21 have, where none are given."""
    rng = np.random.default_rng(0)
    for i in range(count):
        width, height = (300, int(rng.integers(160, 300))) if i % 4 else (int(rng.integers(160, 300)), 300)
        coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = np.clip(smooth + rng.integers(-8, 9, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{i:06d}.jpg", quality=92)
    return list_images(folder)


def make_mosaics(paths: Sequence[Path], folder: Path, count: int, megapixels: float) -> list[Path]:
    """Large pictures with the detail of small ones, side by side."""
    width = round((megapixels * MEGAPIXEL * 4 / 3) ** 0.5)
    height = round(megapixels * MEGAPIXEL / width)
    tiles = [read_image(path).resize((300, 225)) for path in paths[:64]]
    for i in range(count):
        mosaic = Image.new("RGB", (width, height))
        for k, (x, y) in enumerate((x, y) for y in range(0, height, 225) for x in range(0, width, 300)):
            mosaic.paste(tiles[(7 * k + i) % len(tiles)], (x, y))
        mosaic.save(folder / f"{i:06d}.jpg", quality=92)
    return list_images(folder)


def encode(pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(io.BytesIO(), "PNG", compress_level=1, compress_type=zlib.Z_RLE)


class Clock(Callback):
    """Starts when a training does."""

    started = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.perf_counter()


class Subject:
    """One extractor, batch size and set of pictures, and the rows measured on them."""

    def __init__(self, options: argparse.Namespace, name: str, batch_size: int, paths: list[Path]) -> None:
        self.options, self.batch_size = options, batch_size
        self.device = torch.device(options.device)
        self.extractor = make_extractor(name).to(self.device)
        self.fast = fast_extractor(self.extractor, device=self.device, precision=options.precision)
        self.preset = preset(
            options.effort, iterations=options.iterations, delta_size=delta_size(options.delta_size)
        )
        self.settings = self.preset.settings
        self.paths = paths
        count = max(batch_size, min(4, len(paths)))
        self.images = [
            torch.from_numpy(np.array(read_image(path))).permute(2, 0, 1).contiguous().to(self.device)
            for path in paths[:count]
        ]
        generator = torch.Generator().manual_seed(0)
        directions = torch.randn(max(len(paths), 1000), self.extractor.dim, generator=generator)
        self.descriptors = nn.functional.normalize(directions)
        self.index = ReferenceIndex.train(self.descriptors.numpy(), idx_factory="IVF16,Flat")
        self.make_goal = GoalMaker(
            self.index.quantiser, loss_f=self.settings.loss_f, target="ivf_cluster", device=self.device
        )
        size = self.extractor.input_size
        pixels = torch.randn(batch_size, 3, size, size, generator=generator)
        pixels = pixels.to(self.device, self.fast.input_dtype, memory_format=torch.channels_last)
        self.pixels = pixels.requires_grad_()
        self.loop_seconds: list[float] = []
        self.looped = 0.0

    def batches(self) -> list[slice]:
        return [slice(i, i + self.batch_size) for i in range(0, len(self.images), self.batch_size)]

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def activate(self, images: list[Tensor], rows: slice, batch_size: int) -> Activation:
        clock = {"first": 0.0, "last": 0.0}

        def stepping(optimizer: Optimizer) -> Callable[[], None]:
            self.wait()
            clock["first"] = time.perf_counter()

            def step() -> None:
                optimizer.step()
                self.wait()
                clock["last"] = time.perf_counter()

            return step

        activation = activate_images(
            images,
            self.make_goal([row[None] for row in self.descriptors[rows][: len(images)]]),
            self.fast,
            self.settings,
            seeds=range(len(images)),
            batch_size=batch_size,
            optimizer=self.preset.optimizer,
            scheduler=self.preset.scheduler,
            stepping=stepping,
        )
        self.looped += max(0.0, clock["last"] - clock["first"])
        return activation

    def aindex(self) -> int:
        self.looped = 0.0
        for batch in self.batches():
            self.activate(self.images[batch], batch, self.batch_size).released()
            self.wait()
        self.loop_seconds.append(self.looped / len(self.images))
        return len(self.images)

    def plain(self) -> int:
        for batch in self.batches():
            images = [image.float() / 255 for image in self.images[batch]]
            plain_loop(
                images,
                self.descriptors[batch][: len(images)].to(self.device),
                self.extractor,
                input_size=self.extractor.input_size,
                seeds=range(len(images)),
                iterations=self.settings.iterations,
            )
        return len(self.images)

    def limit(self) -> int:
        passes = self.settings.iterations * (1 + self.settings.views)
        for _ in range(passes * len(self.batches())):
            descriptors = self.fast(self.pixels)
            torch.autograd.grad(descriptors.sum(), self.pixels)
        self.wait()
        return len(self.batches()) * self.batch_size

    def once(self) -> int:
        for path in self.paths[: len(self.images)]:
            pixels = torch.from_numpy(np.array(read_image(path))).permute(2, 0, 1).contiguous()
            canvas = Canvas([pixels.to(self.device)], self.fast.input_size, self.settings)
            encode(canvas.released(canvas.start([0]))[0].cpu().numpy())
        return len(self.images)

    def bare_files(self) -> int:
        for path in self.paths[: len(self.images)]:
            encode(np.asarray(read_image(path)))
        return len(self.images)

    def files(self) -> tuple[int, float]:
        """As `fit` does it, without its start and its evaluation."""
        paths, clock = self.paths, Clock()

        with tempfile.TemporaryDirectory() as folder:
            names = [path.name for path in paths]
            images = [
                SourceImage(name=name, path=path, index_id=i, released=released)
                for i, (name, path, released) in enumerate(zip(names, paths, png_names(names), strict=True))
            ]
            module = ActivationModule(
                target="ivf_cluster", optimizer=self.preset.optimizer, scheduler=self.preset.scheduler
            )
            module.settings = self.settings
            module._extractor = self.extractor
            data = ImageData(
                str(paths[0].parent), batch_size=self.batch_size, num_workers=self.options.workers
            )
            module.run = data.run = Run(
                folder=Path(folder),
                images=images,
                descriptors=self.descriptors.numpy(),
                index=self.index,
                batch_size=self.batch_size,
            )
            trainer = Trainer(
                accelerator="gpu" if self.device.type == "cuda" else "cpu",
                devices=1,
                max_epochs=1,
                limit_val_batches=0,
                precision="bf16-mixed" if self.fast.precision == "bf16" else "32-true",
                callbacks=[clock, WriteImages()],
                default_root_dir=folder,
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                enable_checkpointing=False,
                use_distributed_sampler=False,
            )
            trainer.fit(module, datamodule=data)
            seconds = time.perf_counter() - clock.started
            written = len(list(Path(folder, "imgs").glob("*.png")))
        assert written == len(paths), f"{written} of {len(paths)} images were written"
        return len(paths), seconds

    def rows(self) -> dict[str, Work]:
        works = (self.aindex, None, self.files, self.plain, self.limit, self.once, self.bare_files)
        chosen = self.options.rows
        return {name: work for name, work in zip(ROWS, works, strict=True) if work and name in chosen}


def peak_of_row(options: argparse.Namespace, name: str, batch_size: int, row: str) -> float:
    """Memory that one row adds at its peak, run once in a process of its own."""
    arguments = [*sys.argv[1:], "--extractors", name, "--batch_sizes", str(batch_size), "--only", row]
    command = [sys.executable, __file__, *arguments]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(output.splitlines()[-1])


def measure(options: argparse.Namespace, name: str, batch_size: int, paths: list[Path]) -> list[dict]:
    subject = Subject(options, name, batch_size, paths)
    seconds = take_turns(subject.rows(), options.rounds)
    if "a" in seconds and "a loop" in options.rows:
        seconds["a loop"] = subject.loop_seconds[-options.rounds :]
    pixels = statistics.mean(image.shape[1] * image.shape[2] for image in subject.images)
    records = []
    for row in (row for row in ROWS if row in seconds):
        mine = seconds[row]
        in_loop = row.startswith("a")
        records.append(
            {
                "extractor": name,
                "batch_size": batch_size,
                "effort": options.effort,
                "delta_size": subject.settings.delta_size,
                "precision": subject.fast.precision if row != "b" else "fp32",
                "row": row,
                "images_per_second": 1 / statistics.median(mine),
                "seconds_per_image": mine,
                "a/b": median_ratio(seconds["b"], mine) if in_loop and "b" in seconds else None,
                "a/c": median_ratio(seconds["c"], mine) if in_loop and "c" in seconds else None,
                "megapixels": pixels / MEGAPIXEL,
                "peak_mib": peak_of_row(options, name, batch_size, row)
                if options.memory and row in ("a", "a files", "b", "c")
                else None,
            }
        )
    return records


def show(records: list[dict]) -> None:
    def number(value: float | None, digits: int) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    lines = [
        [
            r["extractor"], str(r["batch_size"]), r["effort"], str(r["delta_size"]), r["precision"], r["row"],
            number(r["images_per_second"], 2), number(r["a/b"], 2), number(r["a/c"], 2), number(r["peak_mib"], 0),
        ]
        for r in records
    ]  # fmt: skip
    print_table(
        [
            "extractor",
            "batch",
            "effort",
            "delta_size",
            "precision",
            "row",
            "images/s",
            "a/b",
            "a/c",
            "peak MiB added",
        ],
        lines,
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, help="folder of pictures; default: made-up ones")
    add("--extractors", nargs="+", choices=("small", "resnet50"), default=["small", "resnet50"])
    add("--batch_sizes", nargs="+", type=int, default=[1, 16, 64])
    add(
        "--batches",
        type=int,
        default=4,
        help="batches of the row with files; the others have one (default 4)",
    )
    add("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    add("--rounds", type=int, default=5)
    add("--effort", choices=get_args(Effort), default="paper", help="settings to start from")
    add("--iterations", type=int, help="default: the effort's")
    add("--delta_size", help="image, input or a number; default: the effort's")
    add("--megapixels", type=float, help="join the pictures to mosaics of this size")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--precision", choices=("fp32", "bf16"), help="default: the machine's best")
    add("--threads", type=int, help="default: torch's choice")
    add("--workers", type=int, default=2, help="loader processes of the row with files")
    add("--no_memory", dest="memory", action="store_false", help="leave out peak memory, a process per row")
    add("--json", type=Path, help="write the figures here, too")
    add("--only", choices=ROWS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    as_the_commands_do()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    if options.threads:
        torch.set_num_threads(options.threads)
    options.precision = options.precision or best_precision(options.device)
    device = torch.device(options.device)
    records = []
    with tempfile.TemporaryDirectory() as folder:
        largest = max(options.batch_sizes) * options.batches
        small, large = Path(folder, "small"), Path(folder, "large")
        small.mkdir()
        large.mkdir()
        paths = list_images(options.data)[:largest] if options.data else make_pictures(small, largest)
        if options.megapixels:
            paths = make_mosaics(paths, large, largest, options.megapixels)
        for name in options.extractors:
            for batch_size in options.batch_sizes:
                chosen = paths[: batch_size * options.batches]
                if options.only:
                    work = Subject(options, name, batch_size, chosen).rows()[options.only]
                    before = reset_peak(device)
                    work()
                    print(peak_mib(device) - before)
                    return
                records += measure(options, name, batch_size, chosen)
    print(json.dumps(machine(device)))
    show(records)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(device), "rows": records}, indent=1))


if __name__ == "__main__":
    main()
