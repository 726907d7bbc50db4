"""What activation gains: `aindex fit` with several indexes and precisions, each passive and active, in one table.

    python benchmarks/quality.py --data disc21 --output runs/quality
    python benchmarks/quality.py --data disc21 --output runs/quality --settings IVF128,PQ8x8 --nonmatch 2000

The folder has DISC21's layout: `train/`, and either `references/` with a ground truth csv, or `references_10k/` and
`references_990k/` that `aindex prepare` made of them. The first are activated and put into an index that holds the
second; `train` trains it. Pictures that match nothing come from `queries_40k/`. Everything in the table is computed
from the csv files of the run folders; runs that are finished are not repeated. The average is over fourteen attacks,
all but the screenshot.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import machine, print_table

from aindex.cli import main as aindex
from aindex.data.images import list_images
from aindex.evaluation.analyses import image_summary, query_table
from aindex.evaluation.copy_detection import copy_detection_table
from aindex.evaluation.measures import MEASURES
from aindex.evaluation.retrieval import AVERAGE, AVERAGE_WITHOUT_SCREENSHOT, retrieval_table
from aindex.evaluation.run_files import Results, Run, read_run

TARGETS = {
    "IVF128,PQ8x8": "pq_recons",
    "IVF128,Flat": "ivf_cluster",
    "PCA64,LSH": "pq_recons",
    "OPQ8_64,PQ8": "pq_recons",
}
PRECISIONS = ("bf16-mixed", "32-true")


def layout(data: Path, output: Path) -> dict[str, Path]:
    """The folders to work with; made of `references/` and the ground truth where they are missing."""
    if not (data / "references_10k").is_dir():
        made = output / "data"
        truths = sorted(data.glob("*.csv"))
        truth = next((path for path in truths if "groundtruth" in path.name), None)
        if truth is None:
            raise SystemExit(f"{data}: no references_10k/ and no ground truth csv to make it with")
        paths = {"--data_dir": data, "--output_dir": made, "--groundtruth": truth}
        aindex(["prepare", *(str(part) for pair in paths.items() for part in pair), "--progress", "false"])
    else:
        made = data
    queries = made / "queries_40k"
    return {
        "images": made / "references_10k",
        "references": made / "references_990k",
        "train": data / "train",
        "nonmatch": queries if queries.is_dir() else data / "train",
    }


def some(source: Path, count: int | None, file: Path) -> Path:
    """The folder itself, or a list of `count` of its pictures, drawn with a fixed seed."""
    paths = list_images(source)
    if count is None or count >= len(paths):
        return source
    drawn = np.sort(np.random.default_rng(0).permutation(len(paths))[:count])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{paths[i].absolute()}\n" for i in drawn), encoding="utf-8")
    return file


def fit(options: argparse.Namespace, folders: dict[str, Path], factory: str, precision: str) -> Path:
    """Run one setting unless it is finished; returns its folder."""
    run = options.output / f"{factory.replace(',', '_')}_{precision}"
    if (run / "summary.json").is_file() and not options.again:
        return run
    arguments: dict[str, object] = {
        "--output_dir": run,
        "--overwrite": options.again,
        "--data.data_dir": folders["images"],
        "--index.idx_factory": factory,
        "--index.idx_dir": options.output / "indexes",
        "--index.fts_training_path": folders["train"],
        "--index.fts_reference_path": folders["references"],
        "--model.target": TARGETS.get(factory, "pq_recons"),
        "--model.extractor": options.extractor,
        "--retrieval.passive": True,
        "--report.examples": 0,
        "--report.html": False,
        "--trainer.precision": precision,
        "--trainer.enable_progress_bar": False,
        "--trainer.logger": False,
    }
    if options.nonmatch != 0:
        arguments["--data.query_nonmatch_dir"] = folders["nonmatch"]
    if options.workers is not None:
        arguments["--data.num_workers"] = options.workers
    text = [str(part) if not isinstance(part, bool) else str(part).lower() for part in flat(arguments)]
    continued = (run / "config.yaml").is_file() and not options.again
    started = time.perf_counter()
    aindex(["fit", *text, *options.more])
    # the time of the rest of an interrupted run says nothing
    seconds = "nan" if continued else f"{time.perf_counter() - started:.1f}"
    (run.parent / f"{run.name}.seconds").write_text(seconds)
    return run


def flat(arguments: dict[str, object]) -> list[object]:
    return [part for pair in arguments.items() for part in pair]


def of_attacks(table: pd.DataFrame, column: str) -> dict[str, float]:
    return dict(zip(table["attack"], table[column].astype(float), strict=True))


def figures(results: Results) -> dict[str, float | None]:
    """Name → number of one series of a run; None where it is not known."""
    recalls = of_attacks(retrieval_table(results.retrieval), "r@1")
    row: dict[str, float | None] = {"R@1 average": recalls.pop(AVERAGE_WITHOUT_SCREENSHOT, None)}
    row |= {f"R@1 {attack}": value for attack, value in recalls.items() if attack != "average"}
    if results.queries is not None:
        queries = query_table(results.queries)
        ceiling = of_attacks(queries, "exhaustive_r@1")
        row["R@1 exhaustive"] = ceiling.get(AVERAGE_WITHOUT_SCREENSHOT)
        row["cell share"] = of_attacks(queries, "same_cell")[AVERAGE]
    if results.copy_detection is not None:
        plain = copy_detection_table(results.copy_detection).iloc[0]
        row |= {"µAP": float(plain["uap"]), "R@P90": float(plain["recall_at_p90"])}
    if results.images is not None:
        for quality in image_summary(results.images).to_dict("records"):
            name = MEASURES[quality["measure"]].name
            row[name], row[f"{name} std"] = float(quality["mean"]), float(quality["std"])
        row["activation (s per image)"] = float(results.images["activation_seconds"].mean())
        for which in ("original", "released"):
            row[f"code distance {which}"] = float(results.images[f"code_distance_{which}"].mean())
    return row


def column_of(run: Run, seconds: float | None) -> dict[str, dict[str, float | None]]:
    """`passive` and `active` figures of a run."""
    assert run.passive is not None
    active = figures(run.results) | {"fit (s)": seconds}
    return {"passive": figures(run.passive), "active": active}


ONE_CEILING = "R@1 exhaustive"
DECIMALS = {"PSNR (dB)": 2, "SSIM": 4, "L∞ (grey levels)": 1, "fit (s)": 0}
ROWS_FIRST = (
    "R@1 average", ONE_CEILING, "µAP", "R@P90", "cell share", "PSNR (dB)", "SSIM", "L∞ (grey levels)",
    "code distance original", "code distance released", "activation (s per image)", "fit (s)",
)  # fmt: skip


def show(columns: dict[str, dict[str, dict[str, float | None]]]) -> None:
    """A row per figure, a column per run, each cell passive → active."""
    names = [name for name in next(iter(columns.values()))["active"] if name.startswith("R@1 ")]
    attacks = [name for name in names if name not in ROWS_FIRST]

    def text(value: float | None, name: str) -> str:
        return "–" if value is None or np.isnan(value) else f"{value:.{DECIMALS.get(name, 3)}f}"

    def cell(series: dict[str, dict[str, float | None]], name: str) -> str:
        active = text(series["active"].get(name), name)
        if name not in series["passive"] or name in DECIMALS:
            std = series["active"].get(f"{name} std")
            return active if std is None else f"{active} ± {text(std, name)}"
        return f"{text(series['passive'][name], name)} → {active}"

    lines = [
        [name, *(cell(series, name) for series in columns.values())]
        for name in (*ROWS_FIRST, *attacks)
        if any(name in series["active"] for series in columns.values())
    ]
    print_table(["passive → active", *columns], lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder in DISC21's layout")
    add("--output", type=Path, default=Path("runs/quality"), help="runs, indexes and descriptors")
    add("--settings", nargs="+", default=list(TARGETS), help="factory strings of indexes")
    add("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    add("--images", type=int, help="activate so many only")
    add("--nonmatch", type=int, help="so many pictures that match nothing (default: all; 0: none)")
    add("--extractor", default="aindex_small")
    add("--workers", type=int)
    add("--again", action="store_true", help="repeat finished runs")
    add("--more", nargs=argparse.REMAINDER, default=[], help="further options of `aindex fit`, at the end")
    add("--json", type=Path, help="default: quality.json in the output folder")
    return parser.parse_args()


def main() -> None:
    options = parse()
    options.output.mkdir(parents=True, exist_ok=True)
    folders = layout(options.data, options.output)
    lists = options.output / "lists"
    folders["images"] = some(folders["images"], options.images, lists / "images.txt")
    if options.nonmatch != 0:
        folders["nonmatch"] = some(folders["nonmatch"], options.nonmatch, lists / "nonmatch.txt")
    columns = {}
    for factory in options.settings:
        for precision in options.precisions:
            run = fit(options, folders, factory, precision)
            noted = run.parent / f"{run.name}.seconds"
            seconds = float(noted.read_text()) if noted.is_file() else None
            columns[f"{factory} {precision}"] = column_of(read_run(run), seconds)
    about = machine(torch.device("cpu"))
    print(json.dumps(about))
    show(columns)
    result = {"machine": about, "extractor": options.extractor, "runs": columns}
    (options.json or options.output / "quality.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
