"""What people would use instead of activation, on the same bench: which of these n pictures is this a copy of, or none?

    pip install -e ".[cpu,rivals]"
    python benchmarks/rivals.py --data disc21/train --references disc21/references --images 100

Perceptual hashes, watermarks with an identifier, exhaustive and approximate search of unchanged pictures, activated
pictures, and a mark and activation together. All see the same pictures under the same edits (default ones but the
screenshot, and unseen ones), and the same pictures that match nothing, each edited in one of these ways. Every rival
runs on one thread; times are of the processor, so that other work on the machine counts little. A rival that cannot
take part is left out and says why; one that fails on a picture has not found it, and failures are counted. Slow rivals
are given the first --slow_images pictures.

Writes results.json, rivals.png and rivals.html (every edit, and copies that one rival finds and another loses).
"""

import argparse
import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from common import as_the_commands_do, machine, print_table
from judging.costs import CELLS, Rates, measure_rates
from judging.figures import figure_of
from judging.page import write_page
from judging.scores import as_json, averages, mean_of_finite, recall_at_rate
from judging.tables import average_table, edit_table
from judging.trial import Tried, by_either, in_processes, try_all, try_strangers
from rivals import enter, entrants
from rivals.base import Bench, Hash, Rival
from rivals.combined import Combined, Either

from aindex.data.images import image_names, list_images
from aindex.descriptors.extraction import ExtractionSettings
from aindex.descriptors.inference import best_precision, fast_extractor
from aindex.descriptors.registry import load_extractor
from aindex.descriptors.stored import descriptors_for
from aindex.edits.named import Attack, default_attacks, unseen_attacks
from aindex.errors import AindexError
from aindex.evaluation.figures import figure_bytes
from aindex.index.cache import train_cached
from aindex.index.reference_index import ReferenceIndex

RATE = 1e-3
BILLION = 1_000_000_000
CHAMPION = "aindex robust"
"""With which the gallery compares the others."""


def open_bench(options: argparse.Namespace) -> Bench:
    """Describe the pictures, train the indexes and fill them."""
    extractor = load_extractor(options.extractor)
    cache = options.output / "indexes"
    describe = ExtractionSettings(num_workers=options.workers)  # in fp32, as an index keeps them
    training, _ = descriptors_for(options.data, extractor, cache, describe)
    references, names = descriptors_for(options.references, extractor, cache, describe)
    references = np.ascontiguousarray(references, np.float32)
    paths = dict(
        zip(image_names(listed := list_images(options.references), options.references), listed, strict=True)
    )

    def filled(factory: str) -> ReferenceIndex:
        index, _ = train_cached(cache, training, idx_factory=factory, extractor=extractor)
        index.add(references, names)
        return index

    return Bench(
        paths=[paths[name] for name in names],
        names=list(names),
        references=references,
        extractor=extractor,
        fast=fast_extractor(extractor, precision=best_precision("cpu")),
        quantised=filled(options.factory),
        exhaustive=filled("Flat"),
        released=np.random.default_rng(options.seed).permutation(len(names))[: options.images].tolist(),
        seed=options.seed,
    )


def learn(rivals: list[Rival], bench: Bench, workers: int) -> None:
    """Hash all reference pictures."""
    hashes = [rival for rival in rivals if isinstance(rival, Hash)]
    if not hashes:
        return

    def codes(row: int) -> list[Any]:
        picture = bench.picture(row)
        return [rival.hash(picture) for rival in hashes]

    for row, found in enumerate(in_processes(codes, range(len(bench.paths)), workers)):
        for rival, code in zip(hashes, found, strict=True):
            rival.codes[row] = code


def judged(
    rival: Rival,
    tried: Tried,
    bench: Bench,
    attacks: tuple[list[Attack], list[Attack]],
    rates: Rates,
    slow: int,
) -> dict[str, Any]:
    """A row of the table, and what stands behind it."""
    seen, unseen = ([str(attack) for attack in some] for some in attacks)
    sure = recall_at_rate(tried.found, tried.scores, tried.strange_scores, RATE)
    shown = {"recall": tried.found, "recall_at_rate": sure, "recall_first": tried.found[:slow]}
    per_edit = {
        key: {edit: float(share) for edit, share in zip([*seen, *unseen], found.mean(axis=0), strict=True)}
        for key, found in shown.items()
    }
    look_up = float(np.mean(tried.look_up_ms)) if tried.look_up_ms else float("nan")
    rows, cells = len(bench.paths), bench.quantised.quantiser.cell_count or 1
    more = sum(rates.scan_ms(scan, BILLION, CELLS) - rates.scan_ms(scan, rows, cells) for scan in rival.scans)
    return {
        "name": rival.name,
        "family": rival.family,
        "pictures": len(tried.rows),
        **{key: averages(values, seen, unseen) for key, values in per_edit.items()},
        "psnr_db": mean_of_finite(tried.psnr_db),
        "ssim": float(np.nanmean(tried.ssim)),
        "prepare_ms": float(np.mean(tried.prepare_ms)),
        "look_up_ms": look_up,
        "billion_ms": look_up + more,
        "stored_bytes": rival.stored_bytes,
        "finds_published": rival.finds_published,
        "failures": tried.failures,
        "per_edit": per_edit["recall"],
        "per_edit_at_rate": per_edit["recall_at_rate"],
    }  # fmt: skip


def drawn_strangers(options: argparse.Namespace) -> list[tuple[str, Path]]:
    """Names and paths of pictures that match nothing in the index."""
    paths = list_images(options.data)
    names = image_names(paths, options.data)
    chosen = np.random.default_rng(options.seed).permutation(len(paths))[: options.strangers]
    return [(names[i], paths[i]) for i in chosen]


def both(tried: list[tuple[Rival, Tried]]) -> list[tuple[Rival, Tried]]:
    """The answers of mark and index together, where a combination took part."""
    parts = {rival.by: (rival, one) for rival, one in tried if isinstance(rival, Combined)}
    if not parts:
        return []
    (mark, by_mark), (index, by_index) = parts["mark"], parts["index"]
    return [(Either(mark, index), by_either(by_mark, by_index, Either.sure))]


def run(options: argparse.Namespace) -> None:
    started = time.perf_counter()
    bench = open_bench(options)
    rivals, left_out = enter(bench, options.rivals)
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}", flush=True)
    learn(rivals, bench, options.workers)
    default = [attack for attack in default_attacks() if attack.name != "overlay_onto_screenshot"]
    unseen = [] if options.only_default else unseen_attacks()
    attacks = [*default, *unseen]
    tried: list[tuple[Rival, Tried]] = []
    how = {"slow": options.slow_images, "workers": options.workers}
    for rival, one in try_all(rivals, bench, bench.released, attacks, **how):
        tried.append((rival, one))
        passed = time.perf_counter() - started
        print(f"{passed:.0f} s: {rival.name}: R@1 {one.found.mean():.3f} of all edits", flush=True)
    tried.sort(key=lambda pair: rivals.index(pair[0]))
    strangers = drawn_strangers(options)
    if len(strangers) * RATE < 1:
        print(
            f"{len(strangers)} strangers: R at {RATE:g} means surer than of all of them; 1,000 make a rate of it"
        )
    try_strangers(tried, strangers, attacks, workers=options.workers)
    tried += both(tried)
    rates = measure_rates(bench.references.shape[1])
    records = [
        judged(rival, one, bench, (default, unseen), rates, options.slow_images) for rival, one in tried
    ]
    about = {
        **machine(torch.device("cpu")),
        "seconds": round(time.perf_counter() - started),
        "processor_seconds": round(sum(os.times()[:4])),
        "references": len(bench.paths),
        "strangers": len(strangers),
        "rates": asdict(rates),
        "left_out": left_out,
    }
    text = json.dumps(as_json({"about": about, "rivals": records}), indent=1)
    (options.output / "results.json").write_text(text + "\n")
    (options.output / "rivals.png").write_bytes(figure_bytes(figure_of(records), "png"))
    write_page(records, tried, bench, attacks, champion=CHAMPION, each=options.gallery, folder=options.output)
    print(json.dumps(about, ensure_ascii=False))
    print_table(*average_table(records))
    print()
    print_table(*edit_table(records))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--data", type=Path, required=True, help="pictures that train the index, and that match nothing in it"
    )
    add("--references", type=Path, required=True, help="pictures in the index, some of them released")
    add("--images", type=int, default=100, help="release so many")
    add(
        "--slow_images",
        type=int,
        default=10,
        help="so many of them where reading a copy takes tenths of a second",
    )
    add(
        "--strangers",
        type=int,
        default=1000,
        help="pictures of --data that match nothing; 1,000 or more for the rate",
    )
    add("--rivals", nargs="+", choices=list(entrants()), default=list(entrants()), help="default: all")
    add("--only_default", action="store_true", help="leave the unseen edits out")
    add("--gallery", type=int, default=2, help="copies to show of each pair of rivals and direction")
    add("--factory", default="IVF128,PQ8x8")
    add("--extractor", default="aindex_small")
    add("--workers", type=int, default=len(os.sched_getaffinity(0)))
    add("--seed", type=int, default=0, help="of the choice of pictures, of identifiers, of activation")
    add("--output", type=Path, default=Path("runs/rivals"), help="results, pictures, indexes, descriptors")
    options = parser.parse_args()
    for name in ("images", "slow_images", "strangers", "workers"):
        if (given := getattr(options, name)) < 1:
            parser.error(f"--{name} {given}: expected 1 or more")
    return options


def main() -> None:
    options = parse()
    as_the_commands_do()
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # one thread a rival, and processes beside each other
    faiss.omp_set_num_threads(1)
    try:
        run(options)
    except AindexError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
