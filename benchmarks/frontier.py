"""Which settings of the activation are worth their time: R@1, PSNR, passes and seconds, as a table and a picture.

    python benchmarks/frontier.py --train disc21/train --references disc21/references --images 200
    python benchmarks/frontier.py ... --settings "effort=robust" "loss_f=assignment iterations=3 lr=2 delta_size=input"

A setting names what differs from the published one: fields of ActivationSettings (iterations, scaling, views, …),
`edits.<field>`, `effort` (a preset to start from), `lr`, `optimizer` (of torch.optim or timm.optim),
`optimizer.<argument>`, `scheduler` (of torch.optim.lr_scheduler) and `scheduler.<argument>`. Some of the references
are activated against an index of all references; the released pictures stay in memory, undergo the default attacks (all
but the screenshot) and those that no setting is trained against, under the same seeds for every setting, and are
searched. A pass is one picture once through the extractor, forward and backward; seconds are of setting up, iterating
and rendering. `iterations=0` is the passive control.
"""

import argparse
import ast
import csv
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm.optim
import torch
from common import as_the_commands_do, machine, print_table
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from aindex.activation.goals import GoalMaker
from aindex.activation.loop import activate_images
from aindex.activation.perceptual import psnr_db, ssim
from aindex.activation.presets import preset
from aindex.activation.settings import ActivationSettings
from aindex.data.images import image_names, list_images, read_image
from aindex.descriptors.extraction import ExtractionSettings
from aindex.descriptors.inference import best_precision, fast_extractor
from aindex.descriptors.preprocess import prepare
from aindex.descriptors.registry import load_extractor
from aindex.descriptors.stored import descriptors_for
from aindex.edits.named import Attack, apply_attack, default_attacks, unseen_attacks
from aindex.index.cache import train_cached
from aindex.index.reference_index import ReferenceIndex
from aindex.seeding import derive_seed

DEFAULT = "iterations=10"
SEARCHED = (DEFAULT, "iterations=0", "effort=fast", "effort=robust")


@dataclass
class Setting:
    """What a line of text asks for."""

    text: str
    settings: ActivationSettings
    make_optimizer: Callable[[list[Tensor]], torch.optim.Optimizer]
    make_scheduler: Callable[[torch.optim.Optimizer], Any] | None

    @classmethod
    def parse(cls, text: str) -> "Setting":
        given = dict(part.partition("=")[::2] for part in text.split())
        start = preset(given.pop("effort", "paper"))
        own, options = {one.name for one in fields(ActivationSettings)}, defaultdict(dict)
        names, changes = {"optimizer": "Adam", "scheduler": ""}, {}
        for key, raw in given.items():
            group, _, option = key.partition(".")
            if key in own:
                changes[key] = _value(raw)
            elif option:
                options[group][option] = _value(raw)
            elif key == "lr":
                options["optimizer"]["lr"] = _value(raw)
            elif key in names:
                names[key] = raw
            else:
                raise SystemExit(
                    f"{key!r} in {text!r}: expected one of {sorted(own)}, lr, optimizer, scheduler"
                )
        if options["edits"]:
            changes["edits"] = replace(start.settings.edits, **options["edits"])
        optimizer, scheduler = start.optimizer, start.scheduler
        if options["optimizer"] or names["optimizer"] != "Adam":
            kind = getattr(torch.optim, names["optimizer"], None) or getattr(timm.optim, names["optimizer"])
            optimizer = partial(kind, **{"lr": 1.0, **options["optimizer"]})
        if names["scheduler"]:
            scheduler = partial(getattr(torch.optim.lr_scheduler, names["scheduler"]), **options["scheduler"])
        found = cls(text, replace(start.settings, **changes), optimizer, scheduler)
        # now, not after an hour
        made = optimizer([torch.zeros(1, requires_grad=True)])
        if scheduler:
            scheduler(made)
        return found

    @property
    def passes(self) -> int:
        return self.settings.iterations * (1 + self.settings.views)


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
        self.default = [attack for attack in default_attacks() if attack.name != "overlay_onto_screenshot"]
        self.unseen = [] if options.only_default else unseen_attacks()
        self.attacks = [*self.default, *self.unseen]
        self._make_index(options)
        self._load_images(options)

    def _make_index(self, options: argparse.Namespace) -> None:
        cache = options.output / "indexes"
        describe = ExtractionSettings(num_workers=options.workers)  # in fp32, as an index keeps them
        training, _ = descriptors_for(options.train, self.extractor, cache, describe)
        self.references, names = descriptors_for(options.references, self.extractor, cache, describe)
        self.index = self._trained(training, names, options.factory, 0)
        self.index.nprobe = options.nprobe
        self.also = {}
        for text in options.also:
            described, _, nprobe = text.partition("#")
            factory, _, seed = described.partition("@")
            self.also[text] = self._trained(training, names, factory, int(seed or 0))
            self.also[text].nprobe = int(nprobe or 1)

    def _trained(self, training: Any, names: list[str], factory: str, seed: int) -> ReferenceIndex:
        cache = self.options.output / "indexes"
        index, _ = train_cached(cache, training, idx_factory=factory, extractor=self.extractor, seed=seed)
        index.add(self.references, names)
        return index

    def _load_images(self, options: argparse.Namespace) -> None:
        paths = list_images(options.references)
        names = image_names(paths, options.references)
        id_of = {name: row for row, name in enumerate(self.index.names)}
        wanted = set(names)
        if options.activate is not None:
            wanted = set(image_names(list_images(options.activate), options.activate))
        known = [i for i, name in enumerate(names) if name in id_of and name in wanted]
        drawn = np.sort(np.random.default_rng(options.seed).permutation(known)[: options.images])
        self.names = [names[i] for i in drawn]
        self.ids = np.array([id_of[name] for name in self.names])
        self.originals = [np.array(read_image(paths[i])) for i in drawn]
        self.own_rows = [torch.from_numpy(np.array(self.references[[row]])) for row in self.ids]

    def activate(self, setting: Setting, some: Iterable[int]) -> list[np.ndarray]:
        rows = list(some)
        pixels = [torch.from_numpy(self.originals[i]).permute(2, 0, 1).contiguous() for i in rows]
        make_goal = GoalMaker(
            self.index.quantiser,
            loss_f=setting.settings.loss_f,
            target=self.options.target,
            temperature=setting.settings.temperature,
            anchor=setting.settings.anchor,
            nprobe=self.options.loss_nprobe or self.options.nprobe,
            device=self.options.device,
        )
        activation = activate_images(
            [image.to(self.options.device) for image in pixels],
            make_goal([self.own_rows[i] for i in rows]),
            self.fast,
            setting.settings,
            seeds=[derive_seed(self.options.seed, self.names[i], "delta") for i in rows],
            batch_size=self.options.batch_size,
            optimizer=setting.make_optimizer,
            scheduler=setting.make_scheduler,
        )
        return [image.cpu().numpy() for image in activation.images.released()]

    def activate_all(self, setting: Setting) -> tuple[list[np.ndarray], dict[str, float]]:
        size, count = self.options.batch_size, len(self.originals)
        started, cpu = time.perf_counter(), time.process_time()
        released = [
            picture
            for start in range(0, count, size)
            for picture in self.activate(setting, range(start, min(count, start + size)))
        ]
        seconds = (time.perf_counter() - started) / count
        return released, {"seconds": seconds, "cpu_seconds": (time.process_time() - cpu) / count}

    @torch.no_grad()
    def described(self, released: list[np.ndarray]) -> Tensor:
        """Descriptors of each copy of each image, one after the other."""
        copies = Copies(released, self.names, self.attacks, self.extractor.input_size)
        loader = DataLoader(copies, batch_size=4, num_workers=self.options.workers)
        return torch.cat([self.fast(batch.flatten(0, 1).to(self.options.device)).cpu() for batch in loader])

    def recalls(self, index: ReferenceIndex, described: Tensor) -> np.ndarray:
        """R@1 under each attack."""
        nearest = index.search(described, 1)[1].reshape(len(self.names), -1)
        return (nearest == self.ids[:, None]).mean(axis=0)

    def averages(self, recalls: np.ndarray, where: str = "") -> dict[str, float]:
        seen = len(self.default)
        unseen = float(recalls[seen:].mean()) if self.unseen else np.nan
        return {f"r@1{where}": float(recalls[:seen].mean()), f"r@1 unseen{where}": unseen}

    def quality(self, released: list[np.ndarray]) -> float:
        """Mean PSNR of those that changed, dB."""
        pairs = zip(self.originals, released, strict=True)
        decibels = np.array([psnr_db(*map(torch.from_numpy, pair)).item() for pair in pairs])
        return float(decibels[np.isfinite(decibels)].mean()) if np.isfinite(decibels).any() else np.inf

    def measure(self, setting: Setting) -> dict[str, Any]:
        released, seconds = self.activate_all(setting)
        described = self.described(released)
        recalls = self.recalls(self.index, described)
        also = {text: self.recalls(index, described) for text, index in self.also.items()}
        pairs = [tuple(map(torch.from_numpy, pair)) for pair in zip(self.originals, released, strict=True)]
        planes = [tuple(image.permute(2, 0, 1) for image in pair) for pair in pairs]
        return {
            "setting": setting.text,
            **self.averages(recalls),
            **{k: v for text, found in also.items() for k, v in self.averages(found, f" in {text}").items()},
            "passes": setting.passes,
            "psnr_db": self.quality(released),
            "ssim": float(np.mean([ssim(a, b) for a, b in planes])),
            "linf": float(np.mean([(a.int() - b.int()).abs().max().item() for a, b in pairs])),
            **seconds,
            **{f"r@1 {attack}": float(r) for attack, r in zip(self.attacks, recalls, strict=True)},
        }


def draw(records: list[dict[str, Any]], file: Path) -> None:
    """R@1 against PSNR and against passes; points carry the numbers of the table."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, key, label in (
        (panels[0], "psnr_db", "PSNR (dB)"),
        (panels[1], "passes", "passes of the extractor per image"),
    ):
        shown = [(i, one) for i, one in enumerate(records, 1) if np.isfinite(one["psnr_db"])]
        for number, record in shown:
            axes.plot(record[key], record["r@1"], "o", color="tab:blue")
            axes.plot(record[key], record["r@1 unseen"], "o", color="tab:orange", markerfacecolor="none")
            place = (record[key], record["r@1"])
            axes.annotate(str(number), place, textcoords="offset points", xytext=(5, 4), fontsize=8)
        axes.set(xlabel=label, ylabel="R@1")
        for record in records:
            if record["passes"] == 0:
                axes.axhline(record["r@1"], color="tab:blue", linewidth=0.8, linestyle="--")
                axes.axhline(record["r@1 unseen"], color="tab:orange", linewidth=0.8, linestyle="--")
    panels[1].set_xscale("log")
    panels[0].set_title(
        "blue: fourteen default attacks; orange, hollow: unseen ones; dashed: passive", fontsize=9
    )
    panels[1].set_title("numbers: rows of the table", fontsize=9)
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
            str(i), one["setting"], f"{one['r@1']:.4f}", f"{one['r@1 unseen']:.4f}", f"{one['psnr_db']:.2f}",
            f"{one['ssim']:.4f}", f"{one['linf']:.1f}", str(one["passes"]), f"{one['seconds']:.4f}",
            f"{one['cpu_seconds']:.4f}",
            *(f"{one[key]:.4f}" for key in one if " in " in key),
        ]
        for i, one in enumerate(records, 1)
    ]  # fmt: skip
    header = ["", "setting", "R@1", "unseen", "PSNR", "SSIM", "L∞", "passes", "s/image", "CPU s/image"]
    header += [key for key in records[0] if " in " in key]
    print_table(header, lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument(
        "--settings", nargs="+", default=list(SEARCHED), help="default: passive, published, presets"
    )
    return parser.parse_args()


def add_options(parser: argparse.ArgumentParser) -> None:
    """What rows.py asks for, too."""
    add = parser.add_argument
    add("--train", type=Path, required=True, help="pictures that train the index")
    add("--references", type=Path, required=True, help="pictures in the index, some of them to activate")
    add(
        "--activate",
        type=Path,
        help="folder or list of those that are activated (default: drawn from the references)",
    )
    add("--images", type=int, default=200, help="activate so many at most")
    add("--factory", default="IVF128,PQ8x8")
    add("--target", default="pq_recons", help="of settings with loss_f cossim or mse")
    add("--nprobe", type=int, default=1)
    add(
        "--also",
        nargs="*",
        default=[],
        help="search the copies in these indexes, too: factory@seed#nprobe",
    )
    add("--loss_nprobe", type=int, help="cells that loss_f assignment reckons with (default: nprobe)")
    add("--only_default", action="store_true", help="leave the unseen attacks out")
    add("--extractor", default="aindex_small")
    add("--batch_size", type=int, default=16)
    add("--precision", choices=("fp32", "bf16"), help="default: the machine's best")
    add("--device", default="cpu")
    add("--workers", type=int, default=len(os.sched_getaffinity(0)))
    add("--seed", type=int, default=0, help="of the choice of images")
    add("--output", type=Path, default=Path("runs/frontier"), help="table, picture, indexes, descriptors")


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
        last = records[-1]
        figures = f"R@1 {last['r@1']:.4f}, unseen {last['r@1 unseen']:.4f}, PSNR {last['psnr_db']:.2f} dB"
        print(f"{time.perf_counter() - started:.0f} s: {setting.text}: {figures}", flush=True)
        write(records, options.output)
    print(json.dumps({**machine(torch.device(options.device)), "precision": options.precision}))
    show(records)


if __name__ == "__main__":
    main()
