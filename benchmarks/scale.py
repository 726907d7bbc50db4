"""A million references on two cores: time and memory of training, filling and searching, and of activating against it.

    python benchmarks/scale.py --folder /scratch/scale
    python benchmarks/scale.py --rows 50000 --images 20 --folder /tmp/scale

Random unit vectors in .npy files, mapped: one file is trained on, the other becomes rows. Queries are rows with
noise. Memory is the most that the process held beyond the mapped files (anonymous pages, sampled every 20 ms), over
what it held before the step; each step runs in a process of its own. "shard of N" is one of N ranks that keep their
shares of the rows; "on disk" builds inverted lists that are never in memory as a whole. "several" is an index in
which every picture has --rows_per_picture rows; its search is set beside bare FAISS on the same rows, which is asked
for as many neighbours as the pictures need. Images are activated by `aindex fit` against the index, with an extractor
of random weights and that dimension: the time of an image does not depend on weights. Finished steps are kept in the
folder's scale.json, so that a second call goes on. At the end the measured rates are carried on to a billion rows.
"""

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import torch
from common import in_own_process, machine, print_table
from index import anonymous_mib, make_vectors
from PIL import Image

from aindex.cli import main as aindex
from aindex.descriptors.small import SmallConfig, SmallExtractor, save_small
from aindex.index.filling import NumberedNames, fill
from aindex.index.reference_index import ReferenceIndex
from aindex.index.rows import BLOCK_ROWS, Batch

NEIGHBOURS = 100
LIMIT_MIB = 4096
BILLION = 1_000_000_000


class Peak:
    """The most anonymous memory in use while open, MiB beyond what there was before, and the seconds it took."""

    def __enter__(self) -> "Peak":
        self._before, self._done = anonymous_mib(), threading.Event()
        self.mib = 0.0
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._started
        self._done.set()
        self._watcher.join()
        self.kept_mib = anonymous_mib() - self._before

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.mib = max(self.mib, anonymous_mib() - self._before)


def vectors(options: argparse.Namespace, name: str) -> np.ndarray:
    """n×d, mapped; made on the first call."""
    seeds = {"training": 1, "references": 2}
    rows = options.training_rows if name == "training" else options.rows
    path = options.folder / f"{name}_{rows}x{options.dim}.npy"
    if not path.exists():
        partial = path.with_suffix(".partial")
        make_vectors(partial, rows, options.dim, seed=seeds[name])
        partial.rename(path)
    return np.load(path, mmap_mode="r")


def several(options: argparse.Namespace) -> np.ndarray:
    """Rows near the references', --rows_per_picture of each picture after each other; n×d, mapped; made once."""
    per = options.rows_per_picture
    path = options.folder / f"several_{options.rows}x{per}x{options.dim}.npy"
    if not path.exists():
        references, rng = vectors(options, "references"), np.random.default_rng(4)
        partial = path.with_suffix(".partial")
        rows = np.lib.format.open_memmap(partial, "w+", np.float32, (per * options.rows, options.dim))
        for start in range(0, options.rows, BLOCK_ROWS):
            some = np.repeat(references[start : start + BLOCK_ROWS], per, axis=0)
            some = some + rng.normal(0, 0.3 / options.dim**0.5, some.shape)
            rows[per * start : per * start + len(some)] = some / np.linalg.norm(some, axis=1, keepdims=True)
        rows.flush()
        partial.rename(path)
    return np.load(path, mmap_mode="r")


def queries(options: argparse.Namespace) -> np.ndarray:
    """Rows with noise, n×d, in memory."""
    rng = np.random.default_rng(3)
    rows = np.sort(rng.choice(options.rows, min(options.queries, options.rows), replace=False))
    noisy = vectors(options, "references")[rows] + rng.normal(
        0, 0.3 / options.dim**0.5, (len(rows), options.dim)
    )
    return np.ascontiguousarray(noisy / np.linalg.norm(noisy, axis=1, keepdims=True), dtype=np.float32)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def trained(options: argparse.Namespace) -> ReferenceIndex:
    return ReferenceIndex.open(options.folder / "trained", verify=False)


def train(options: argparse.Namespace) -> dict:
    training = vectors(options, "training")
    with Peak() as peak:
        index = ReferenceIndex.train(training, idx_factory=options.factory)
    index.save(options.folder / "trained", overwrite=True)
    return {"seconds": peak.seconds, "mib": peak.mib, "items": len(training)}


def fill_whole(options: argparse.Namespace) -> dict:
    references, index = vectors(options, "references"), trained(options)
    names = NumberedNames(len(references))
    with Peak() as peak:
        fill(index, [Batch(references, names)], options.folder / "whole")
    return {
        "seconds": peak.seconds,
        "mib": peak.mib,
        "items": len(references),
        "bytes_of_rows": size_of(options.folder / "whole") - size_of(options.folder / "trained"),
    }


def fill_on_disk(options: argparse.Namespace) -> dict:
    references, index = vectors(options, "references"), trained(options)
    names = NumberedNames(len(references))
    with Peak() as peak:
        fill(index, [Batch(references, names)], options.folder / "on_disk", on_disk=True)
    return {"seconds": peak.seconds, "mib": peak.mib, "items": len(references)}


def fill_shard(options: argparse.Namespace, ranks: int) -> dict:
    """The first rank's share: what it keeps in memory is the share alone."""
    references, index = vectors(options, "references"), trained(options)
    names = NumberedNames(len(references))
    # what FAISS needs once, whatever the number of rows
    trained(options).add(references[:BLOCK_ROWS], names[:BLOCK_ROWS])
    with Peak() as peak:
        fill(index, [Batch(references, names)], options.folder / f"rank0of{ranks}", rank=0, ranks=ranks)
    return {"seconds": peak.seconds, "mib": peak.mib, "kept_mib": peak.kept_mib, "items": index.ntotal}


def search(options: argparse.Namespace, folder: str, nprobe: int) -> dict:
    asked = queries(options)
    with Peak() as peak:
        index = ReferenceIndex.open(options.folder / folder, read_only=True, verify=False)
        index.search(asked[:1], NEIGHBOURS, nprobe)
    opening = peak.mib
    with Peak() as peak:
        index.search(asked, NEIGHBOURS, nprobe)
    return {"seconds": peak.seconds, "mib": opening + peak.mib, "items": len(asked)}


def fill_several(options: argparse.Namespace) -> dict:
    rows, index, per = several(options), trained(options), options.rows_per_picture
    names = NumberedNames(options.rows)
    with Peak() as peak:
        for start in range(0, options.rows, BLOCK_ROWS):
            some = rows[per * start : per * (start + BLOCK_ROWS)]
            index.add(some, names[start : start + BLOCK_ROWS], [per] * (len(some) // per))
        index.save(options.folder / "several", overwrite=True)
    return {
        "seconds": peak.seconds,
        "mib": peak.mib,
        "items": options.rows,
        "bytes_of_picture": {
            "codes, ids, count": index.owners.bytes_per_picture(index.quantiser.row_bytes),
            "whose each row is": 4 * per,
            "name and where it begins": sum(len(name.encode()) for name in names) / options.rows + 8,
            "centroids and codebook": len(faiss.serialize_index(trained(options).faiss_index)) / options.rows,
        },
    }


def search_several(options: argparse.Namespace, nprobe: int) -> dict:
    """Beside bare FAISS in turns: the best of three."""
    asked = queries(options)
    with Peak() as peak:
        index = ReferenceIndex.open(options.folder / "several", read_only=True, verify=False)
        index.search(asked[:1], NEIGHBOURS, nprobe)
    bare = index.faiss_index
    faiss.extract_index_ivf(bare).nprobe = nprobe
    times: dict[str, list[float]] = {"aindex": [], "faiss": []}
    for _ in range(3):
        started = time.perf_counter()
        index.search(asked, NEIGHBOURS, nprobe)
        between = time.perf_counter()
        bare.search(asked, NEIGHBOURS * options.rows_per_picture)
        times["aindex"].append(between - started)
        times["faiss"].append(time.perf_counter() - between)
    return {
        "seconds": min(times["aindex"]),
        "faiss_seconds": min(times["faiss"]),
        "mib": peak.mib,
        "kept_mib": peak.kept_mib,
        "items": len(asked),
    }


def activate(options: argparse.Namespace) -> dict:
    """`aindex fit` without evaluation, and the share of it that the index takes."""
    pictures, run = options.folder / "pictures", options.folder / "run"
    source = options.pictures or draw(pictures, options.images)
    weights = options.folder / "random.safetensors"
    torch.manual_seed(0)
    save_small(SmallExtractor(SmallConfig(dim=options.dim)), weights, name="random")
    arguments = {
        "output_dir": run,
        "overwrite": "true",
        "data.data_dir": source,
        "model.extractor": weights,
        "index.path": options.folder / "whole",
        "trainer.accelerator": "cpu",
        "trainer.limit_val_batches": "0",
        "trainer.enable_progress_bar": "false",
        "trainer.logger": "false",
    }
    with Peak() as peak:
        aindex(["fit", *(f"--{name}={value}" for name, value in arguments.items())])
    released = len(list((run / "imgs").rglob("*.png")))
    return {"seconds": peak.seconds, "mib": peak.mib, "items": released}


def draw(folder: Path, count: int) -> Path:
    """Smooth random pictures of 384×288 pixels."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        path = folder / f"P{number:06d}.png"
        if not path.exists():
            noise = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((384, 288), Image.Resampling.BICUBIC).save(path)
    return folder


def steps(options: argparse.Namespace) -> dict[str, Callable[[argparse.Namespace], dict]]:
    """Step → its work, in an order in which they can run."""
    shards = {f"shard of {n}": lambda options, n=n: fill_shard(options, n) for n in options.ranks}
    searches = {
        f"search {name}, nprobe {nprobe}": lambda options, folder=folder, nprobe=nprobe: search(
            options, folder, nprobe
        )
        for nprobe in options.nprobes
        for name, folder in (("in memory", "whole"), ("on disk", "on_disk"))
    }
    owned: dict[str, Callable[[argparse.Namespace], dict]] = {"fill several": fill_several} | {
        f"search several, nprobe {nprobe}": lambda options, nprobe=nprobe: search_several(options, nprobe)
        for nprobe in options.nprobes
    }
    return {
        "train": train,
        "fill": fill_whole,
        "fill on disk": fill_on_disk,
        **shards,
        **searches,
        "activate": activate,
        **(owned if options.rows_per_picture > 1 else {}),
    }


def show(records: dict[str, dict]) -> None:
    lines = []
    for step, record in records.items():
        kept = f"{record['kept_mib']:.0f}" if "kept_mib" in record else ""
        rate = record["items"] / record["seconds"]
        cells = [
            f"{record['items']:,}",
            f"{record['seconds']:.1f}",
            f"{rate:,.1f}",
            f"{record['mib']:.0f}",
            kept,
        ]
        lines.append([step, *cells])
    print_table(["step", "items", "s", "items/s", "peak MiB", "kept MiB"], lines)
    worst = max(record["mib"] for record in records.values())
    print(f"\nmost memory beyond the mapped files: {worst:.0f} MiB ({LIMIT_MIB} allowed)")


def show_several(records: dict[str, dict], options: argparse.Namespace) -> None:
    """What several rows per picture cost in a search, and in memory."""
    if "fill several" not in records:
        return
    lines = []
    for step, record in records.items():
        if "faiss_seconds" in record:
            rates = [record["items"] / record[key] for key in ("seconds", "faiss_seconds")]
            measured = record["kept_mib"] * 2**20 / options.rows
            overhead = record["seconds"] / record["faiss_seconds"] - 1
            lines.append([step, *(f"{rate:,.0f}" for rate in rates), f"{overhead:+.1%}", f"{measured:.1f}"])
    header = ["step", "aindex, queries/s", "FAISS, queries/s", "overhead", "memory, bytes per picture"]
    print(
        f"\n{options.rows:,} pictures with {options.rows_per_picture} rows each; FAISS returns as many rows:\n"
    )
    print_table(header, lines)
    reckoned = records["fill several"]["bytes_of_picture"]
    parts = ", ".join(f"{name} {count:.1f}" for name, count in reckoned.items())
    print(f"reckoned: {sum(reckoned.values()):.1f} bytes per picture ({parts})")


def show_billion(records: dict[str, dict], options: argparse.Namespace) -> None:
    """What the rates and sizes come to for a billion rows."""
    row = records["fill"]["bytes_of_rows"] / records["fill"]["items"]
    seconds = records["fill"]["seconds"] / records["fill"]["items"]
    lines = []
    for ranks in (1, 8, 64, 512):
        rows = BILLION / ranks
        sizes = [rows * row / 2**30, rows * options.dim * 4 / 2**30]
        lines.append(
            [str(ranks), f"{rows:,.0f}", *(f"{size:,.1f}" for size in sizes), f"{rows * seconds / 3600:,.2f}"]
        )
    print(
        f"\na billion rows at {row:.1f} bytes each (with names) and the measured rate of filling, per rank:\n"
    )
    print_table(["ranks", "rows", "index GiB", "descriptors GiB", "filling h"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, required=True, help="for vectors, indexes, pictures and results"
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--training_rows", type=int, help="default: as many as rows")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--factory", default="IVF4096,PQ8x8")
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--nprobes", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument(
        "--rows_per_picture", type=int, default=1, help="more than 1: an index of several, too"
    )
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--pictures", type=Path, help="folder of the images to activate; default: drawn ones")
    parser.add_argument("--step", help="run this one step in this process, and print its figures")
    options = parser.parse_args()
    options.training_rows = options.training_rows or options.rows
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.step:
        print(json.dumps(steps(options)[options.step](options)))
        return
    settings = {name: str(value) for name, value in vars(options).items() if name not in ("folder", "step")}
    results = options.folder / "scale.json"
    stored = json.loads(results.read_text()) if results.exists() else {}
    records = stored["records"] if stored.get("settings") == settings else {}
    for name in ("training", "references"):
        vectors(options, name)
    for step in steps(options):
        if step not in records:
            print(f"{step} …", file=sys.stderr, flush=True)
            records[step] = in_own_process(step)
            content = {"settings": settings, "machine": machine(torch.device("cpu")), "records": records}
            results.write_text(json.dumps(content, indent=1))
    show(records)
    show_several(records, options)
    show_billion(records, options)


if __name__ == "__main__":
    main()
