"""The way of what outgrows a machine, at a size that one machine holds: parts → Lance → segments by workers → searches.

    python benchmarks/engine.py --folder /scratch/engine
    python benchmarks/engine.py --folder /tmp/engine --rows 20000 --cells 64 --workers 1 2

Unit vectors around random centres in .npy parts, as `aindex extract` leaves them. aindex trains a quantiser on one part
and FAISS is filled with all of them, for comparison. The parts are written into a Lance dataset, a fragment each;
processes index the fragments with the quantiser's centroids and codebook, each its share; the segments are committed as
one index. Then cells and codes of all rows are compared with FAISS's, and 1,000 searches; an export of the FAISS index
to Lance is timed too. Memory is the most that was resident in one process of a step, some 640 MiB of it libraries; the
time of workers is that of the slowest, without its start.
"""

import argparse
import json
import multiprocessing
import resource
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import torch
from common import in_own_process, machine, print_table

from aindex.index.filling import NumberedNames
from aindex.index.lance_dataset import empty_faiss_index, open_index
from aindex.index.lance_export import COLUMN, INDEX_NAME, export_to_lance, index_arguments, trained_part
from aindex.index.lance_rows import fill_from_lance, row_addresses
from aindex.index.lance_search import LanceReferenceIndex
from aindex.index.lists import cells_and_codes
from aindex.index.reference_index import ReferenceIndex
from aindex.index.structure import take_apart

CENTRES, SPREAD, NEIGHBOURS = 20_000, 0.6, 10


def part_rows(options: argparse.Namespace, part: int) -> np.ndarray:
    """Rows of one part: n×d around centres that all parts share."""
    centres = np.random.default_rng(0).standard_normal((CENTRES, options.dim), dtype=np.float32)
    rng = np.random.default_rng(part + 1)
    rows = centres[rng.integers(CENTRES, size=options.rows // options.parts)]
    rows += SPREAD * rng.standard_normal(rows.shape, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def parts(options: argparse.Namespace) -> list[np.ndarray]:
    """All parts, mapped; made on the first call."""
    paths = [options.folder / f"part{part}.npy" for part in range(options.parts)]
    for part, path in enumerate(paths):
        if not path.exists():
            np.save(path.with_suffix(".partial.npy"), part_rows(options, part))
            path.with_suffix(".partial.npy").rename(path)
    return [np.load(path, mmap_mode="r") for path in paths]


def make_parts(options: argparse.Namespace) -> dict:
    return {"items": sum(map(len, parts(options)))}


def train(options: argparse.Namespace) -> dict:
    """On vectors around the same centres that are not among the rows."""
    sample = part_rows(options, 10_000)[: options.training_rows]
    started = time.perf_counter()
    index = ReferenceIndex.train(sample, idx_factory=f"IVF{options.cells},{options.codes}")
    seconds = time.perf_counter() - started
    index.save(options.folder / "trained", overwrite=True)
    return {"items": len(sample), "seconds": seconds}


def fill(options: argparse.Namespace) -> dict:
    index = ReferenceIndex.open(options.folder / "trained")
    started, first = time.perf_counter(), 0
    for rows in parts(options):
        index.add(rows, NumberedNames(first + len(rows))[first:])
        first += len(rows)
    seconds = time.perf_counter() - started
    index.save(options.folder / "faiss", overwrite=True)
    return {"items": first, "seconds": seconds}


def write(options: argparse.Namespace) -> dict:
    """The parts into one dataset, a fragment each."""
    target = options.folder / "rows.lance"
    shutil.rmtree(target, ignore_errors=True)
    started, first = time.perf_counter(), 0
    for rows in parts(options):
        table = pa.table(
            {
                "id": pa.array(np.arange(first, first + len(rows))),
                "name": pa.array(NumberedNames(first + len(rows))[first:]),
                COLUMN: pa.FixedSizeListArray.from_arrays(pa.array(np.array(rows).ravel()), options.dim),
            }
        )
        lance.write_dataset(table, str(target), mode="append" if first else "create")
        first += len(rows)
    return {"items": first, "seconds": time.perf_counter() - started}


def index_fragments(dataset: str, fragments: list[int], trained: str) -> tuple[Any, float, float]:
    """One worker's segment, the seconds it took, and the most memory that the worker held, MiB."""
    quantiser = trained_part(ReferenceIndex.open(trained).faiss_index)
    started = time.perf_counter()
    segment = lance.dataset(dataset).create_index_uncommitted(
        COLUMN, name=INDEX_NAME, fragment_ids=fragments, **index_arguments(quantiser)
    )
    seconds = time.perf_counter() - started
    return segment, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def index_by(options: argparse.Namespace, workers: int) -> dict:
    target, trained = str(options.folder / "rows.lance"), str(options.folder / "trained")
    dataset = lance.dataset(target)
    if dataset.describe_indices():
        dataset.drop_index(INDEX_NAME)
    fragments = [fragment.fragment_id for fragment in dataset.get_fragments()]
    shares = [fragments[worker::workers] for worker in range(workers)]
    # Lance has threads, which a forked process would lack
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        made = list(pool.map(index_fragments, [target] * workers, shares, [trained] * workers))
    started = time.perf_counter()
    lance.dataset(target).commit_existing_index_segments(INDEX_NAME, COLUMN, [one[0] for one in made])
    seconds = max(one[1] for one in made) + time.perf_counter() - started
    return {"items": dataset.count_rows(), "seconds": seconds, "mib": max(one[2] for one in made)}


def adopt(options: argparse.Namespace) -> dict:
    """Read the index back, and compare cells and codes of all rows."""
    known = ReferenceIndex.open(options.folder / "faiss")
    started = time.perf_counter()
    found = open_index(str(options.folder / "rows.lance"))
    index = empty_faiss_index(found.trained)
    fill_from_lance(index, found, row_addresses(found)[0])
    seconds = time.perf_counter() - started
    mine = cells_and_codes(take_apart(index).ivf, known.ntotal)
    theirs = cells_and_codes(take_apart(known.faiss_index).ivf, known.ntotal)
    cells, codes = mine[0] == theirs[0], (mine[1] == theirs[1]).all(axis=1)
    other = {"cells that differ": int((~cells).sum()), "codes that differ": int((~codes).sum())}
    return {"items": known.ntotal, "seconds": seconds, **other}


def export(options: argparse.Namespace) -> dict:
    index = ReferenceIndex.open(options.folder / "faiss")
    started = time.perf_counter()
    export_to_lance(index, options.folder / "exported.lance", overwrite=True)
    return {"items": index.ntotal, "seconds": time.perf_counter() - started}


def queries(options: argparse.Namespace) -> np.ndarray:
    rng = np.random.default_rng(7)
    rows = np.array(parts(options)[0][: options.queries])
    rows += rng.normal(0, 0.3 / options.dim**0.5, rows.shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def search(options: argparse.Namespace, nprobe: int) -> dict:
    """The same neighbours from Lance and from FAISS."""
    asked = queries(options)
    known = ReferenceIndex.open(options.folder / "faiss", read_only=True)
    engine = LanceReferenceIndex.open(options.folder / "faiss", read_only=True)
    engine.search_in(options.folder / "rows.lance")
    times = {}
    for name, index in (("faiss", known), ("lance", engine)):
        index.search(asked, NEIGHBOURS, nprobe)
        started = time.perf_counter()
        index.search(asked, NEIGHBOURS, nprobe)
        times[name] = time.perf_counter() - started
    distances, ids = known.search(asked, NEIGHBOURS + 1, nprobe)
    _, found = engine.search(asked, NEIGHBOURS, nprobe)
    steps = np.diff(distances, axis=1) > 2e-6
    clear = steps & np.concatenate([np.ones((len(asked), 1), bool), steps[:, :-1]], axis=1)
    others = int((found != ids[:, :NEIGHBOURS])[clear].sum())
    return {
        "items": len(asked),
        "seconds": times["lance"],
        "faiss seconds": times["faiss"],
        "neighbours that differ": others,
        "ties left out": int((~clear).sum()),
    }


def steps(options: argparse.Namespace) -> dict[str, Any]:
    """Step → its work, in an order in which they can run."""
    return {
        "parts": make_parts,
        "train": train,
        "fill FAISS": fill,
        "write the dataset": write,
        **{
            f"index, {workers} workers": lambda options, workers=workers: index_by(options, workers)
            for workers in options.workers
        },
        "read back and compare": adopt,
        **{
            f"search, nprobe {nprobe}": lambda options, nprobe=nprobe: search(options, nprobe)
            for nprobe in options.nprobes
        },
        "export from FAISS": export,
    }


def show(records: dict[str, dict]) -> None:
    lines = []
    for step, record in records.items():
        seconds = record.get("seconds")
        others = {name: value for name, value in record.items() if name not in ("items", "seconds", "mib")}
        lines.append(
            [
                step,
                f"{record['items']:,}",
                "" if seconds is None else f"{seconds:.1f}",
                "" if seconds is None else f"{record['items'] / seconds:,.0f}",
                f"{record['mib']:,.0f}",
                ", ".join(f"{name}: {value:.3g}" for name, value in others.items()),
            ]
        )
    print_table(["step", "items", "s", "items/s", "peak MiB per process", ""], lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="for parts, indexes, datasets and results")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--training_rows", type=int, default=65_536)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--cells", type=int, default=1024)
    parser.add_argument("--codes", default="PQ8x8")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--nprobes", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--step", help="run this one step in this process, and print its figures")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.step:
        record = steps(options)[options.step](options)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({**record, "mib": record.get("mib", peak)}))
        return
    records: dict[str, dict] = {}
    for step in steps(options):
        print(f"{step} …", file=sys.stderr, flush=True)
        records[step] = in_own_process(step)
        (options.folder / "engine.json").write_text(json.dumps({"records": records}, indent=1))
    show(records)
    print(json.dumps({**machine(torch.device("cpu")), "lance": lance.__version__}))


if __name__ == "__main__":
    main()
