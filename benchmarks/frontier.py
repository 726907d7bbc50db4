"""Which settings of the activation are worth their time: R@1 and PSNR against seconds, as a table and a picture.

    python benchmarks/frontier.py --train disc21/train --references disc21/references --images 200
    python benchmarks/frontier.py ... --settings "iterations=3 lr=2 delta_size=input" "optimizer=NAdam iterations=4"

A setting names what differs from the default: fields of ActivationSettings (iterations, scaling, delta_size, …),
`closing` (iterations at the full size after those at the input's), `lr`, `optimizer` (of torch.optim or timm.optim),
`optimizer.<argument>`, `scheduler` (of torch.optim.lr_scheduler) and `scheduler.<argument>`. Some of the references
are activated against an index of all references; the released pictures stay in memory, undergo fourteen attacks (all
but the screenshot) under the same seeds for every setting, and are searched. A setting meets the goal if R@1 is
within .01 of the default's, PSNR no lower, and the time a quarter or less; seconds are of setting up, iterating and
rendering. `iterations=0` is the passive control.
"""

import argparse
import ast
import csv
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm.optim
import torch
from common import as_the_commands_do, machine, print_table
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from aindex.activation.distortion import ActivationSettings, channel_scale
from aindex.activation.perceptual import psnr_db
from aindex.activation.problem import ActivationProblem
from aindex.activation.similarity import ssim
from aindex.data.images import image_names, list_images, read_image
from aindex.descriptors.inference import best_precision, fast_extractor
from aindex.descriptors.preprocess import prepare
from aindex.descriptors.registry import load_extractor
from aindex.descriptors.stored import descriptors_for
from aindex.edits import Attack, apply_attack, default_attacks
from aindex.index.cache import train_cached
from aindex.index.reference_index import ReferenceIndex
from aindex.seeding import derive_seed

DEFAULT = "iterations=10"
SMALL = "delta_size=input"
SEARCHED = (
    DEFAULT,
    "iterations=0",
    *(f"iterations={count}" for count in (2, 3, 5)),
    "iterations=3 lr=2",
    "iterations=3 optimizer=NAdam",
    "iterations=3 optimizer=Lion lr=0.7",
    *(f"iterations={count} {SMALL}" for count in (2, 3, 10)),
    f"iterations=1 {SMALL} scaling=4",
    *(f"iterations=2 {SMALL} scaling={scaling}" for scaling in (4, 4.25, 4.5)),
    f"iterations=2 {SMALL} scaling=4 lr=1.5",
    f"iterations=2 {SMALL} scaling=4.5 optimizer.betas=[0.5,0.9]",
    f"iterations=2 {SMALL} scaling=4.25 lr=1.5 scheduler=ExponentialLR scheduler.gamma=0.6",
    f"iterations=2 {SMALL} scaling=4.5 optimizer=NvNovoGrad lr=500",
    f"iterations=2 {SMALL} scaling=4 lr=4 optimizer.eps=1e-5",
    f"iterations=2 {SMALL} scaling=4.5 lr=3 optimizer.eps=1e-5",
    f"iterations=2 {SMALL} scaling=5 lr=2 optimizer.eps=1e-5",
    f"iterations=10 {SMALL} scaling=4.5 lr=3 optimizer.eps=1e-5",
    *(f"iterations={count} {SMALL} closing={closing}" for count, closing in ((2, 1), (9, 1), (8, 2))),
)
R1_MARGIN, SPEED_WANTED = 0.01, 4


@dataclass
class Setting:
    """What a line of text asks for."""

    text: str
    settings: ActivationSettings
    optimizer: str = "Adam"
    optimizer_options: dict[str, Any] = field(default_factory=lambda: {"lr": 1.0})
    scheduler: str | None = None
    scheduler_options: dict[str, Any] = field(default_factory=dict)
    closing: int = 0

    @classmethod
    def parse(cls, text: str) -> "Setting":
        own = {one.name for one in fields(ActivationSettings)}
        found = cls(text, ActivationSettings())
        constants = {}
        for part in text.split():
            key, _, raw = part.partition("=")
            value = _value(raw)
            group, _, option = key.partition(".")
            if key in own:
                constants[key] = value
            elif key in ("optimizer", "scheduler", "closing"):
                setattr(found, key, value)
            elif key == "lr" or group == "optimizer":
                found.optimizer_options[option or key] = value
            elif group == "scheduler":
                found.scheduler_options[option] = value
            else:
                raise SystemExit(
                    f"{part!r} in {text!r}: expected one of {sorted(own)}, closing, lr, optimizer, scheduler"
                )
        found.settings = ActivationSettings(**constants)
        # now, not after an hour
        found.make_scheduler(found.make_optimizer([torch.zeros(1, requires_grad=True)]))
        return found

    def make_optimizer(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        kind = getattr(torch.optim, self.optimizer, None) or getattr(timm.optim, self.optimizer)
        return kind(parameters, **self.optimizer_options)

    def make_scheduler(self, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        if self.scheduler is None:
            return lambda: None
        return getattr(torch.optim.lr_scheduler, self.scheduler)(optimizer, **self.scheduler_options).step


def _value(text: str) -> Any:
    """A number, a list, a truth value; anything else is a name."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


class Copies(Dataset[Tensor]):
    """Pictures in memory under every attack, prepared: n×3×R×R an item."""

    def __init__(
        self, pictures: list[np.ndarray], names: list[str], attacks: list[Attack], size: int
    ) -> None:
        self.pictures, self.names, self.attacks, self.size = pictures, names, attacks, size

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> Tensor:
        image = Image.fromarray(self.pictures[i])
        seeds = [derive_seed(0, self.names[i], str(attack)) for attack in self.attacks]
        copies = [apply_attack(image, a, seed=seed) for a, seed in zip(self.attacks, seeds, strict=True)]
        return torch.stack([prepare(copy, self.size) for copy in copies])


class Search:
    """Images, index and extractor, and what a setting makes of them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.extractor = load_extractor(options.extractor, device=options.device)
        self.fast = fast_extractor(self.extractor, device=options.device, precision=options.precision)
        self.attacks = [attack for attack in default_attacks() if attack.name != "overlay_onto_screenshot"]
        self._make_index(options)
        self._load_images(options)

    def _make_index(self, options: argparse.Namespace) -> None:
        cache = options.output / "indexes"
        describe = {"num_workers": options.workers, "precision": self.fast.precision}
        training, _ = descriptors_for(options.train, self.extractor, cache, **describe)
        self.references, names = descriptors_for(options.references, self.extractor, cache, **describe)
        index, _ = train_cached(cache, training, idx_factory=options.factory, extractor=self.extractor)
        index.add(self.references, names)
        self.index: ReferenceIndex = index

    def _load_images(self, options: argparse.Namespace) -> None:
        paths = list_images(options.references)
        names = image_names(paths, options.references)
        id_of = {name: row for row, name in enumerate(self.index.names)}
        known = [i for i, name in enumerate(names) if name in id_of]
        drawn = np.sort(np.random.default_rng(options.seed).permutation(known)[: options.images])
        self.names = [names[i] for i in drawn]
        self.ids = np.array([id_of[name] for name in self.names])
        self.originals = [np.array(read_image(paths[i])) for i in drawn]
        descriptors = np.ascontiguousarray(self.references[self.ids])
        self.targets = torch.from_numpy(self.index.quantiser.targets(descriptors)).to(options.device)

    def activate(self, setting: Setting, some: Iterable[int]) -> list[np.ndarray]:
        rows = list(some)
        pixels = [torch.from_numpy(self.originals[i]).permute(2, 0, 1).contiguous() for i in rows]
        images = [image.to(self.options.device) for image in pixels]
        problem = ActivationProblem(
            images,
            self.targets[rows],
            self.fast,
            setting.settings,
            seeds=[derive_seed(0, self.names[i], "delta") for i in rows],
            batch_size=self.options.batch_size,
        )
        self._iterate(problem, setting, setting.settings.iterations)
        if setting.closing:
            problem = self._at_full_size(problem, images, rows, setting)
            self._iterate(problem, setting, setting.closing)
        return [image.cpu().numpy() for image in problem.render()]

    def _iterate(self, problem: ActivationProblem, setting: Setting, iterations: int) -> None:
        optimizer = problem.optimizer(setting.make_optimizer)
        advance = setting.make_scheduler(optimizer)
        for _ in range(iterations):
            problem.loss_and_grad(with_image_loss=False)
            optimizer.step()
            advance()

    def _at_full_size(
        self, problem: ActivationProblem, images: list[Tensor], rows: list[int], setting: Setting
    ) -> ActivationProblem:
        """The same changes of the same images, δ at their own size."""
        settings = replace(setting.settings, delta_size="image")
        full = ActivationProblem(
            images, self.targets[rows], self.fast, settings, seeds=rows, batch_size=self.options.batch_size
        )
        scale = channel_scale(settings, images[0].device).view(3, 1, 1)
        with torch.no_grad():
            for delta, heat, change in zip(full.parameters, full.heatmaps, problem.changes(), strict=True):
                bounded = (change / (heat * scale)).clamp(-0.99, 0.99)
                delta.copy_(bounded.atanh().permute(1, 0, 2))
        return full

    def activate_all(self, setting: Setting) -> tuple[list[np.ndarray], dict[str, float]]:
        size, count = self.options.batch_size, len(self.originals)
        self.activate(setting, range(min(size, count)))  # warms up
        started, cpu = time.perf_counter(), time.process_time()
        released = [
            picture
            for start in range(0, count, size)
            for picture in self.activate(setting, range(start, min(count, start + size)))
        ]
        seconds = (time.perf_counter() - started) / count
        return released, {"seconds": seconds, "cpu_seconds": (time.process_time() - cpu) / count}

    @torch.no_grad()
    def found(self, released: list[np.ndarray]) -> np.ndarray:
        """Whether each copy of each image finds it first: images×attacks."""
        copies = Copies(released, self.names, self.attacks, self.extractor.input_size)
        loader = DataLoader(copies, batch_size=4, num_workers=self.options.workers)
        described = [self.fast(batch.flatten(0, 1).to(self.options.device)).cpu() for batch in loader]
        nearest = self.index.search(torch.cat(described), 1)[1]
        return nearest.reshape(len(released), -1) == self.ids[:, None]

    def measure(self, setting: Setting) -> dict[str, Any]:
        released, seconds = self.activate_all(setting)
        recalls = self.found(released).mean(axis=0)
        pairs = [tuple(map(torch.from_numpy, pair)) for pair in zip(self.originals, released, strict=True)]
        decibels = np.array([psnr_db(a, b).item() for a, b in pairs])
        planes = [tuple(image.permute(2, 0, 1) for image in pair) for pair in pairs]
        return {
            "setting": setting.text,
            "r@1": float(recalls.mean()),
            "psnr_db": float(decibels[np.isfinite(decibels)].mean())
            if np.isfinite(decibels).any()
            else np.inf,
            "ssim": float(np.mean([ssim(a, b) for a, b in planes])),
            "linf": float(np.mean([(a.int() - b.int()).abs().max().item() for a, b in pairs])),
            **seconds,
            **{f"r@1 {attack}": float(r) for attack, r in zip(self.attacks, recalls, strict=True)},
        }


def judge(records: list[dict[str, Any]]) -> None:
    """Add to each record its speed over the default's, and whether it meets the goal."""
    default = next((record for record in records if record["setting"] == DEFAULT), records[0])
    for record in records:
        record["speed"] = default["cpu_seconds"] / record["cpu_seconds"]
        record["meets_goal"] = bool(
            record["r@1"] >= default["r@1"] - R1_MARGIN
            and np.isfinite(record["psnr_db"])
            and record["psnr_db"] >= default["psnr_db"]
            and record["speed"] >= SPEED_WANTED
        )


def draw(records: list[dict[str, Any]], file: Path) -> None:
    """R@1 and PSNR against seconds; points carry the numbers of the table."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    default = next((record for record in records if record["setting"] == DEFAULT), records[0])
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharex=True)
    shown = [(i, one) for i, one in enumerate(records, 1) if "iterations=0" not in one["setting"].split()]
    for axes, key, label, least in (
        (panels[0], "r@1", "R@1, average of fourteen attacks", default["r@1"] - R1_MARGIN),
        (panels[1], "psnr_db", "PSNR (dB)", default["psnr_db"]),
    ):
        for number, record in shown:
            colour = "tab:green" if record["meets_goal"] else "black" if record is default else "tab:blue"
            marker = "^" if "delta_size=input" in record["setting"] else "o"
            axes.plot(record["cpu_seconds"], record[key], marker, color=colour)
            place = (record["cpu_seconds"], record[key])
            axes.annotate(str(number), place, textcoords="offset points", xytext=(5, 4), fontsize=8)
        axes.axhline(least, color="grey", linewidth=0.8, linestyle="--")
        axes.axvline(default["cpu_seconds"] / SPEED_WANTED, color="grey", linewidth=0.8, linestyle="--")
        axes.set(xlabel="activation, CPU seconds per image", ylabel=label, xscale="log")
    better = [one for _, one in sorted(shown, key=lambda pair: pair[1]["cpu_seconds"])]
    steps = [
        one for i, one in enumerate(better) if all(one["r@1"] > earlier["r@1"] for earlier in better[:i])
    ]
    panels[0].plot(
        [s["cpu_seconds"] for s in steps], [s["r@1"] for s in steps], color="tab:blue", linewidth=0.8
    )
    panels[0].set_title("best R@1 for its time: the line; dashed: the goal", fontsize=9)
    panels[1].set_title("triangles: δ at the extractor's input size; green: meets the goal", fontsize=9)
    figure.savefig(file, dpi=130)


def write(records: list[dict[str, Any]], folder: Path) -> None:
    """frontier.csv and frontier.png."""
    with open(folder / "frontier.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    draw(records, folder / "frontier.png")


def show(records: list[dict[str, Any]]) -> None:
    lines = [
        [
            str(i), one["setting"], f"{one['r@1']:.4f}", f"{one['psnr_db']:.2f}", f"{one['ssim']:.4f}",
            f"{one['linf']:.1f}", f"{one['seconds']:.4f}", f"{one['cpu_seconds']:.4f}", f"{one['speed']:.2f}",
            "yes" if one["meets_goal"] else "",
        ]
        for i, one in enumerate(records, 1)
    ]  # fmt: skip
    header = ["", "setting", "R@1", "PSNR", "SSIM", "L∞", "s/image", "CPU s/image", "speed", "meets the goal"]
    print_table(header, lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--train", type=Path, required=True, help="pictures that train the index")
    add("--references", type=Path, required=True, help="pictures in the index, some of them to activate")
    add("--settings", nargs="+", default=list(SEARCHED), help="default: the search as it was made")
    add("--images", type=int, default=200)
    add("--factory", default="IVF128,PQ8x8")
    add("--extractor", default="aindex_small")
    add("--batch_size", type=int, default=16)
    add("--precision", choices=("fp32", "bf16"), help="default: the machine's best")
    add("--device", default="cpu")
    add("--workers", type=int, default=len(os.sched_getaffinity(0)))
    add("--seed", type=int, default=0, help="of the choice of images")
    add("--output", type=Path, default=Path("runs/frontier"), help="table, picture, indexes, descriptors")
    return parser.parse_args()


def main() -> None:
    options = parse()
    as_the_commands_do()
    options.precision = options.precision or best_precision(options.device)
    settings = [Setting.parse(text) for text in options.settings]
    options.output.mkdir(parents=True, exist_ok=True)
    search = Search(options)
    records: list[dict[str, Any]] = []
    started = time.perf_counter()
    for setting in settings:
        records.append(search.measure(setting))
        judge(records)
        last = records[-1]
        figures = f"R@1 {last['r@1']:.4f}, PSNR {last['psnr_db']:.2f} dB, speed {last['speed']:.2f}"
        print(f"{time.perf_counter() - started:.0f} s: {setting.text}: {figures}", flush=True)
        write(records, options.output)
    print(json.dumps({**machine(torch.device(options.device)), "precision": options.precision}))
    show(records)


if __name__ == "__main__":
    main()
