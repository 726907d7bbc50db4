"""Several rows per picture: what they find, what they cost, and what they do to the other pictures.

    python benchmarks/rows.py --train disc21/train --references disc21/references --activate references_10k --images 500

Some of the references (`--activate`, or drawn) get 1 to 4 rows each, in the cells that simulated edits of them fall
into; the others have one, and in the last line as many. The same edited copies as in frontier.py are searched, of the
pictures as they are and as they are released. Beside R@1: rows scanned per query, bytes per picture (codes, ids,
owners), µAP, and the share of pictures that match nothing but are taken for matches, at the threshold that lets 1 % of
them through where every picture has one row; and R@1 of other pictures' copies.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from common import as_the_commands_do, machine, print_table
from frontier import Copies, Search, Setting, add_options
from torch.utils.data import DataLoader

from aindex.data.images import image_names, list_images, read_image
from aindex.descriptors.inference import best_precision
from aindex.descriptors.simulated import simulated_copies
from aindex.edits.named import Attack
from aindex.evaluation.copy_detection import micro_average_precision, pooled_pairs
from aindex.index.reference_index import ReferenceIndex
from aindex.index.row_choice import choose_rows

K = 10


@dataclass
class Queries:
    """Descriptors of edited copies, and the pictures that they are copies of (−1: none)."""

    descriptors: torch.Tensor
    pictures: np.ndarray
    attacks: int


class Bench(Search):
    """frontier.py's pictures, with indexes of several rows."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        everything = range(len(self.references))
        self.others = np.array([row for row in everything if row not in set(self.ids.tolist())])
        names = self.index.names
        paths = dict(
            zip(
                image_names(list_images(options.references), options.references),
                list_images(options.references),
                strict=True,
            )
        )
        self.path_of = {row: paths[names[row]] for row in everything}
        rng = np.random.default_rng(1)
        self.strangers = sorted(
            rng.choice(list_images(options.train), options.negatives, replace=False).tolist()
        )
        self.shown = np.sort(rng.choice(self.others, min(options.others, len(self.others)), replace=False))

    def copies(self, rows: np.ndarray, label: str) -> np.ndarray:
        """Descriptors of simulated copies of references, n×c×d; kept for the next run."""
        file = self.options.output / f"simulated-{label}-{len(rows)}.npy"
        if not file.is_file():
            paths = [self.path_of[int(row)] for row in rows]
            names = [self.index.names[int(row)] for row in rows]
            np.save(file, np.stack(list(simulated_copies(paths, names, self.extractor, progress=True))))
        return np.load(file)

    def rows_for(
        self, pictures: np.ndarray, label: str, count: int, *, chosen: bool = False
    ) -> list[np.ndarray]:
        """Rows of each picture; a single one is its descriptor, unless it is to be chosen as several are."""
        own = self.references[pictures]
        if count == 1 and not chosen:
            return [row[None] for row in own]
        copies = self.copies(pictures, label)
        return [
            choose_rows(np.array(one), some, self.index.quantiser, count)
            for one, some in zip(own, copies, strict=True)
        ]

    def index_with(self, own: list[np.ndarray], others: list[np.ndarray]) -> ReferenceIndex:
        """The others first, then the pictures that are looked for: picture len(others) + i is the i-th of them."""
        index = self.index.empty_copy()
        rows = [*others, *own]
        index.add(np.concatenate(rows), [str(i) for i in range(len(rows))], [len(some) for some in rows])
        return index

    def edited(self, pictures: list[np.ndarray], names: list[str], attacks: list[Attack]) -> torch.Tensor:
        loader = DataLoader(
            Copies(pictures, names, attacks, self.extractor.input_size),
            batch_size=4,
            num_workers=self.options.workers,
        )
        with torch.no_grad():
            return torch.cat([self.fast(batch.flatten(0, 1)).cpu() for batch in loader])

    def strangers_and_others(self) -> tuple[torch.Tensor, torch.Tensor]:
        auto = [Attack("auto")]
        strangers = [np.array(read_image(path)) for path in self.strangers]
        others = [np.array(read_image(self.path_of[int(row)])) for row in self.shown]
        return (
            self.edited(strangers, [Path(path).name for path in self.strangers], auto),
            self.edited(others, [self.index.names[int(row)] for row in self.shown], self.default),
        )


def scanned(index: ReferenceIndex, descriptors: torch.Tensor, nprobe: int) -> float:
    """Rows in the visited cells, mean over queries."""
    ivf = faiss.extract_index_ivf(index.faiss_index)
    sizes = np.array([ivf.invlists.list_size(cell) for cell in range(ivf.nlist)])
    cells = ivf.quantizer.search(descriptors.numpy(), nprobe)[1]
    return float(sizes[cells].sum(axis=1).mean())


def bytes_per_picture(index: ReferenceIndex) -> float:
    ivf = faiss.extract_index_ivf(index.faiss_index)
    owners = index.owners.to_bytes()
    return ((ivf.code_size + 8) * index.ntotal + len(owners or b"")) / index.pictures


def measure(
    bench: Bench,
    index: ReferenceIndex,
    described: torch.Tensor,
    strangers: torch.Tensor,
    others: torch.Tensor,
    nprobe: int,
    threshold: float | None,
) -> dict[str, float]:
    count, seen = len(bench.names), len(bench.default)
    first = index.pictures - count
    copies = described.view(count, -1, described.shape[1])
    _, found = index.search(described, 1, nprobe)
    right = found.reshape(count, -1) == first + np.arange(count)[:, None]
    auto = bench.default.index(Attack("auto"))
    distances, pictures = index.search(torch.cat([copies[:, auto], strangers]), K, nprobe)
    truth = np.concatenate([first + np.arange(count), np.full(len(strangers), -1)])
    pairs = pooled_pairs(distances, pictures, truth)
    nearest = np.where(pictures[count:, 0] >= 0, distances[count:, 0], np.inf)
    limit = float(np.quantile(nearest, 0.01)) if threshold is None else threshold
    place = {int(row): position for position, row in enumerate(bench.others)}
    shown = np.array([place[int(row)] for row in bench.shown])
    _, theirs = index.search(others, 1, nprobe)
    return {
        "r@1": float(right[:, :seen].mean()),
        "r@1 unseen": float(right[:, seen:].mean()) if bench.unseen else np.nan,
        "rows/picture": (index.ntotal - sum_of_others(index, first)) / count,
        "scanned": scanned(index, described, nprobe),
        "bytes": bytes_per_picture(index),
        "µAP": micro_average_precision(*pairs),
        "false positives": float((nearest <= limit).mean()),
        "threshold": limit,
        "others r@1": float((theirs.reshape(len(shown), -1) == shown[:, None]).mean()),
    }


def sum_of_others(index: ReferenceIndex, first: int) -> int:
    return len(np.concatenate(index.owners.rows_of(np.arange(first))))


def show(records: list[dict[str, Any]]) -> None:
    header = [
        "", "pictures", "nprobe", "rows/picture", "R@1", "unseen", "PSNR", "scanned", "bytes", "µAP",
        "false positives", "others' R@1",
    ]  # fmt: skip
    lines = [
        [
            str(i), r["setting"], str(r["nprobe"]), f"{r['rows/picture']:.2f}", f"{r['r@1']:.4f}",
            f"{r['r@1 unseen']:.4f}", f"{r['psnr_db']:.2f}", f"{r['scanned']:.0f}", f"{r['bytes']:.1f}",
            f"{r['µAP']:.3f}", f"{r['false positives']:.4f}", f"{r['others r@1']:.4f}",
        ]
        for i, r in enumerate(records, 1)
    ]  # fmt: skip
    print_table(header, lines)


def draw(records: list[dict[str, Any]], file: Path) -> None:
    """R@1 against rows scanned per query: visits, rows and activation in one figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    kinds = list(dict.fromkeys((r["setting"], r["nprobe"]) for r in records))
    for setting, nprobe in kinds:
        some = [r for r in records if (r["setting"], r["nprobe"]) == (setting, nprobe)]
        axes.plot(
            [r["scanned"] for r in some], [r["r@1"] for r in some], "o-", label=f"{setting}, nprobe {nprobe}"
        )
        for r in some:
            label = f"{r['rows/picture']:.1f}"
            axes.annotate(
                label, (r["scanned"], r["r@1"]), textcoords="offset points", xytext=(4, 4), fontsize=7
            )
    axes.set(xlabel="rows scanned per query", ylabel="R@1, average of fourteen attacks", xscale="log")
    axes.set_title("numbers: rows per picture that is looked for", fontsize=9)
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=130)


def run(bench: Bench, options: argparse.Namespace) -> list[dict[str, Any]]:
    strangers, others = bench.strangers_and_others()
    passive = bench.described(bench.originals)
    own = {count: bench.rows_for(bench.ids, "own", count) for count in options.rows}
    single = bench.rows_for(bench.others, "others", 1)
    records: list[dict[str, Any]] = []
    threshold = None

    def note(setting: str, psnr: float, index: ReferenceIndex, described: torch.Tensor, nprobe: int) -> None:
        nonlocal threshold
        found = measure(bench, index, described, strangers, others, nprobe, threshold)
        threshold = threshold or found["threshold"]
        records.append({"setting": setting, "nprobe": nprobe, "psnr_db": psnr, **found})
        line = {
            key: round(value, 4) if isinstance(value, float) else value for key, value in records[-1].items()
        }
        print(json.dumps(line, ensure_ascii=False), flush=True)

    for count in options.rows:
        index = bench.index_with(own[count], single)
        for nprobe in options.nprobes if count == 1 else options.nprobes[:1]:
            note("passive", np.inf, index, passive, nprobe)
    if options.single:
        one = bench.rows_for(bench.ids, "own", 1, chosen=True)
        note("passive, its one row chosen", np.inf, bench.index_with(one, single), passive, 1)
    for effort in options.efforts:
        for count in options.active_rows:
            rows = own.get(count) or bench.rows_for(bench.ids, "own", count)
            bench.own_rows = [torch.from_numpy(some) for some in rows]
            released, _ = bench.activate_all(Setting.parse(f"effort={effort}"))
            described, index = bench.described(released), bench.index_with(rows, single)
            for nprobe in options.nprobes if count == 1 else options.nprobes[:1]:
                note(effort, bench.quality(released), index, described, nprobe)
    if options.all_rows:
        many = bench.rows_for(bench.others, "others", options.all_rows)
        mine = bench.rows_for(bench.ids, "own", options.all_rows)
        note(f"passive, all with {options.all_rows}", np.inf, bench.index_with(mine, many), passive, 1)
    return records


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    add = parser.add_argument
    add("--rows", nargs="+", type=int, default=[1, 2, 3, 4], help="rows per picture, passive")
    add("--efforts", nargs="*", default=["robust"])
    add("--active_rows", nargs="+", type=int, default=[1, 2, 3], help="rows per picture, released")
    add("--nprobes", nargs="+", type=int, default=[1, 4, 16])
    add("--all_rows", type=int, default=3, help="rows of all pictures in the last line; 0: no such line")
    add("--single", action="store_true", help="also the single row chosen by simulated edits")
    add("--negatives", type=int, default=500, help="pictures that match nothing")
    add("--others", type=int, default=200, help="other pictures whose copies are searched")
    parser.set_defaults(output=Path("runs/rows"), also=[])
    return parser.parse_args()


def main() -> None:
    options = parse()
    as_the_commands_do()
    options.precision = options.precision or best_precision(options.device)
    options.output.mkdir(parents=True, exist_ok=True)
    records = run(Bench(options), options)
    print(json.dumps({**machine(torch.device(options.device)), "precision": options.precision}))
    show(records)
    draw(records, options.output / "rows.png")
    (options.output / "rows.json").write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
