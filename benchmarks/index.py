"""What the index costs beside bare FAISS: training, adding and searching random unit vectors, in turns.

    python benchmarks/index.py --rows 100000 1000000
    python benchmarks/index.py --rows 20000 --factory IVF256,PQ8x8

"aindex" is ReferenceIndex with a name for every row; "faiss" is index_factory, train, add and search on the same
arrays, with the same threads, without the training for polysemous search, which aindex leaves out. Overhead is
aindex's time over FAISS's, less one; medians over the rounds. Memory is of the process beyond the descriptors, which
lie in a mapped file: at the end of training and adding, and at its peak on the way. "same rows" is the share of
answers that both give. aindex's searches do without matrix products, whose rounding depends on how many queries there
are; "faiss, pairwise" is bare FAISS with that switch, so that the last two overheads tell its price from aindex's own.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import Work, as_the_commands_do, machine, median_ratio, print_table, take_turns

from aindex.index.backend import import_faiss, repeatable_kernels
from aindex.index.factory import set_nprobe
from aindex.index.reference_index import ReferenceIndex

NEIGHBOURS = 100
POINTS_PER_CENTROID = 40
KINDS = ("aindex", "faiss")
PAIRWISE = "faiss, pairwise"


def make_vectors(path: Path, rows: int, dim: int, seed: int) -> np.ndarray:
    """Random unit vectors in a file; mapped."""
    vectors = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, dim))
    rng = np.random.default_rng(seed)
    for start in range(0, rows, 65_536):
        block = rng.standard_normal((min(65_536, rows - start), dim), dtype=np.float32)
        vectors[start : start + len(block)] = block / np.linalg.norm(block, axis=1, keepdims=True)
    vectors.flush()
    return np.load(path, mmap_mode="c")


def default_factory(rows: int) -> str:
    return "IVF4096,PQ8x8" if rows > 500_000 else "IVF1024,PQ8x8" if rows > 50_000 else "IVF256,PQ8x8"


def cells_of(factory: str) -> int:
    return int(factory.removeprefix("IVF").split(",")[0].split("_")[0])


class Subject:
    """Vectors, and what both do with them."""

    def __init__(self, rows: int, factory: str, vectors: np.ndarray, queries: np.ndarray) -> None:
        self.factory, self.vectors, self.queries = factory, vectors, queries
        self.training = np.ascontiguousarray(vectors[: min(rows, POINTS_PER_CENTROID * cells_of(factory))])
        self.names = [f"R{i:06d}.jpg" for i in range(rows)]
        self.ours: ReferenceIndex
        self.bare = None

    def train_aindex(self) -> int:
        self.ours = ReferenceIndex.train(self.training, idx_factory=self.factory)
        return len(self.training)

    def train_faiss(self) -> int:
        faiss = import_faiss()
        self.bare = faiss.index_factory(self.training.shape[1], self.factory)
        # aindex leaves it out, and it would be most of the time
        self.bare.do_polysemous_training = False
        self.bare.train(self.training)
        return len(self.training)

    def add_aindex(self) -> tuple[int, float]:
        empty = self.ours.empty_copy()
        started = time.perf_counter()
        empty.add(self.vectors, self.names)
        seconds = time.perf_counter() - started
        self.filled = empty
        return len(self.vectors), seconds

    def add_faiss(self) -> tuple[int, float]:
        self.bare.reset()
        started = time.perf_counter()
        self.bare.add(self.vectors)
        return len(self.vectors), time.perf_counter() - started

    def search_aindex(self, nprobe: int) -> int:
        self.filled.search(self.queries, NEIGHBOURS, nprobe)
        return len(self.queries)

    def search_faiss(self, nprobe: int) -> int:
        set_nprobe(self.bare, nprobe)
        self.bare.search(self.queries, NEIGHBOURS)
        return len(self.queries)

    def search_pairwise(self, nprobe: int) -> int:
        with repeatable_kernels():
            return self.search_faiss(nprobe)

    def same_rows(self, nprobe: int) -> float:
        """Share of equal answers; bare FAISS searches what aindex trained and filled."""
        faiss = import_faiss()
        copy = faiss.clone_index(self.filled.faiss_index)
        set_nprobe(copy, nprobe)
        theirs = copy.search(self.queries, NEIGHBOURS)[1]
        ours = self.filled.search(self.queries, NEIGHBOURS, nprobe)[1]
        shared = [np.intersect1d(a[a >= 0], b[b >= 0]).size for a, b in zip(ours, theirs, strict=True)]
        return sum(shared) / max(1, int((theirs >= 0).sum()))

    def prepare(self) -> None:
        """What searches need, where training and adding are not measured: one training for both."""
        self.train_aindex()
        self.add_aindex()
        self.bare = import_faiss().clone_index(self.filled.faiss_index)

    def steps(self, nprobes: list[int]) -> dict[str, dict[str, Work]]:
        """Step → its two works, in an order in which they can run."""

        def searching(nprobe: int) -> dict[str, Callable[[], int]]:
            return {
                "aindex": lambda: self.search_aindex(nprobe),
                "faiss": lambda: self.search_faiss(nprobe),
                PAIRWISE: lambda: self.search_pairwise(nprobe),
            }

        return {
            "train": {"aindex": self.train_aindex, "faiss": self.train_faiss},
            "add": {"aindex": self.add_aindex, "faiss": self.add_faiss},
            **{f"search nprobe {nprobe}": searching(nprobe) for nprobe in nprobes},
        }


def anonymous_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def memory_of(subject: Subject, kind: str) -> dict[str, float]:
    """MiB beyond what was there before, after training and adding and at their peak."""
    before, peak, done = anonymous_mib(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], anonymous_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    getattr(subject, f"train_{kind}")()
    getattr(subject, f"add_{kind}")()
    done.set()
    watcher.join()
    after = anonymous_mib()
    return {"after": after - before, "peak": max(peak[0], after) - before}


def memory_in_own_process(
    options: argparse.Namespace, folder: Path, rows: int, kind: str
) -> dict[str, float]:
    arguments = ["--rows", str(rows), "--memory_of", kind, "--folder", str(folder)]
    arguments += ["--factory", options.factory] if options.factory else []
    command = [sys.executable, __file__, *arguments]
    return json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    )


def measure(options: argparse.Namespace, folder: Path, rows: int) -> list[dict]:
    factory = options.factory or default_factory(rows)
    vectors = make_vectors(folder / "vectors.npy", rows, options.dim, seed=0)
    queries = np.array(make_vectors(folder / "queries.npy", options.queries, options.dim, seed=1))
    subject = Subject(rows, factory, vectors, queries)
    records = []
    steps = subject.steps(options.nprobes)
    if options.only_search:
        subject.prepare()
        steps = {step: works for step, works in steps.items() if step.startswith("search")}
    for step, works in steps.items():
        seconds = take_turns(works, options.rounds)
        record = {
            "rows": rows,
            "factory": factory,
            "step": step,
            "per_second": {kind: 1 / statistics.median(times) for kind, times in seconds.items()},
            "seconds_per_row": seconds,
            "overhead": median_ratio(seconds["aindex"], seconds["faiss"]) - 1,
        }
        if step.startswith("search"):
            record["overhead_pairwise"] = median_ratio(seconds["aindex"], seconds[PAIRWISE]) - 1
            record["same_rows"] = subject.same_rows(int(step.split()[-1]))
        records.append(record)
    if options.memory:
        memory = {kind: memory_in_own_process(options, folder, rows, kind) for kind in KINDS}
        records.append({"rows": rows, "factory": factory, "step": "memory", "mib": memory})
    return records


def show(records: list[dict]) -> None:
    lines = []
    for record in records:
        name = [f"{record['rows']:,}", record["factory"], record["step"]]
        if record["step"] == "memory":
            cells = [
                f"{record['mib'][kind]['after']:.0f} MiB (peak {record['mib'][kind]['peak']:.0f})"
                for kind in KINDS
            ]
            lines.append([*name, *cells, "", "", "", ""])
            continue
        rates = [f"{record['per_second'][kind]:,.0f} /s" for kind in KINDS]
        pairwise, same = record["per_second"].get(PAIRWISE), record.get("same_rows")
        more = ["", "", ""]
        if pairwise is not None:
            more = [f"{pairwise:,.0f} /s", f"{record['overhead_pairwise']:+.1%}", f"{same:.4f}"]
        lines.append([*name, *rates, f"{record['overhead']:+.1%}", *more])
    print_table(
        ["rows", "factory", "step", *KINDS, "overhead", PAIRWISE, "overhead over that", "same rows"], lines
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rows", nargs="+", type=int, default=[100_000, 1_000_000])
    add("--dim", type=int, default=512)
    add("--factory", help="default: 256, 1024 or 4096 cells by the number of rows, PQ8x8")
    add("--queries", type=int, default=1000)
    add("--nprobes", nargs="+", type=int, default=[1, 16])
    add("--rounds", type=int, default=3)
    add("--only_search", action="store_true", help="leave out training and adding, a training takes minutes")
    add(
        "--no_memory",
        dest="memory",
        action="store_false",
        help="leave out memory, a process for each of the two",
    )
    add("--json", type=Path, help="write the figures here, too")
    add("--folder", type=Path, help=argparse.SUPPRESS)
    add("--memory_of", choices=KINDS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    as_the_commands_do()
    if options.memory_of:
        rows = options.rows[0]
        vectors = np.load(options.folder / "vectors.npy", mmap_mode="c")
        queries = np.load(options.folder / "queries.npy")
        subject = Subject(rows, options.factory or default_factory(rows), vectors, queries)
        print(json.dumps(memory_of(subject, options.memory_of)))
        return
    records = []
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            records += measure(options, Path(folder), rows)
    about = {
        **machine(torch.device("cpu")),
        "faiss": import_faiss().__version__,
        "faiss threads": import_faiss().omp_get_max_threads(),
    }
    print(json.dumps(about))
    show(records)
    if options.json:
        options.json.write_text(json.dumps({"machine": about, "rows": records}, indent=1))


if __name__ == "__main__":
    main()
