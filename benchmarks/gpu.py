"""What one GPU shows in eight minutes: tests, speed against the limit, a profile, peak memory, copies per second.

    python benchmarks/gpu.py --output gpu_results
    python benchmarks/gpu.py --output gpu_try --device cpu --seconds 60     # every step, on small sizes

The same command given again goes on with what is missing, failed, or had no time left. `gpu.json` in the output folder
has all figures, `gpu.md` the section for RESULTS.md. Nothing is downloaded; README.md beside this file says what must
be installed. On a CPU the sizes are tiny and the list is shorter: it shows that each step runs, not how fast.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from activation import make_pictures
from common import as_the_commands_do, machine
from gpu_report import report
from gpu_speed import CPU, GPU, Scale, Subject, profiled, speeds

from aindex.data.atomic import replace_when_done

HERE = Path(__file__).resolve().parent
EXTRACTORS = ("small", "resnet50", "vit_small_patch16")
EFFORTS = ("paper", "robust")
Record = dict[str, Any]


class Results:
    """The figures so far, written after each step.

    Args:
        path: of the JSON file.
        about: what decides figures; another machine's or another version's are not continued.
        deadline: of `time.monotonic`; no step begins after it.

    Raises:
        SystemExit: the file is of another machine, version or source.
    """

    def __init__(self, path: Path, about: Record, deadline: float) -> None:
        self.path, self.deadline = path, deadline
        self.content: Record = {"about": about, "steps": {}, "left": []}
        if path.exists():
            before = json.loads(path.read_text())
            for key in ("device", "torch", "source", "scale"):
                if before["about"][key] != about[key]:
                    raise SystemExit(
                        f"{path} has figures of {key} {before['about'][key]!r}, this is {about[key]!r}: give another "
                        "--output"
                    )
            self.content["steps"] = before["steps"]

    def step(self, name: str, seconds: float, work: Callable[[], Any]) -> None:
        """Do a step unless it is done, or takes longer than what is left.

        Args:
            name: of the step.
            seconds: that it is expected to take on a GPU.
            work: gives what is written.
        """
        done = self.content["steps"].get(name)
        if done is not None and "error" not in done:
            return
        if time.monotonic() + (seconds if self.content["about"]["scale"] == "gpu" else 0) > self.deadline:
            self.content["left"] += [name] * (name not in self.content["left"])
            return
        started = time.monotonic()
        try:
            record = {"result": work()}
        except Exception as error:  # any: the other steps are wanted all the same, and this one again
            record = {"error": f"{type(error).__name__}: {error}"[:2000]}
            traceback.print_exc()
        record["seconds"] = round(time.monotonic() - started, 1)
        self.content["steps"][name] = record
        print(f"{name}: {record['seconds']} s{' FAILED' if 'error' in record else ''}", flush=True)
        self.write()

    def write(self) -> None:
        """The file and the Markdown section beside it."""
        for path, text in (
            (self.path, json.dumps(self.content, indent=1)),
            (self.path.with_suffix(".md"), report(self.content)),
        ):
            with replace_when_done(path) as temporary:
                Path(temporary).write_text(text)


def run_tests(options: argparse.Namespace, seconds: float) -> Record:
    """`pytest -m gpu` on the device: counts, and what failed.

    On a CPU a part of them: those of the loop with the published settings, of edits, training and search.
    """
    files = sorted(
        str(path)
        for path in (HERE.parent / "tests").rglob("test_*.py")
        if "mark.gpu" in path.read_text(encoding="utf-8")
    )
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder, "tests.xml")
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", f"--junitxml={found}", *files]
        if options.device == "cpu":
            command += ["-k", "near_the_cpu_s and paper or edits or heatmaps or training or search"]
        subprocess.run(
            command,
            cwd=HERE.parent,
            env={**os.environ, "AINDEX_TEST_DEVICE": options.device},
            timeout=max(60.0, seconds),
            stdout=sys.stderr,
        )
        suite = ElementTree.parse(found).getroot()
    cases = list(suite.iter("testcase"))
    failed = {
        str(case.get("name")): str(child.get("message"))[:500]
        for case in cases
        for child in case
        if child.tag in ("failure", "error")
    }
    skipped = {
        str(case.get("name")): str(child.get("message")) for case in cases for child in case.iter("skipped")
    }
    return {
        "tests": len(cases),
        "passed": len(cases) - len(failed) - len(skipped),
        "failed": failed,
        "skipped": skipped,
    }


def evaluate(options: argparse.Namespace, scale: Scale, folder: Path) -> Record:
    """Copies per second of `aindex evaluate`, of its edits alone and of its extractor alone."""
    written = folder / "evaluation.json"
    workers = len(os.sched_getaffinity(0))
    command = [
        sys.executable, str(HERE / "evaluation.py"), f"--device={options.device}", f"--images={scale.evaluated}",
        f"--rounds={min(2, scale.rounds)}", f"--workers={workers}", f"--json={written}",
        "--rows", "evaluate", "edits", "extractor",
    ]  # fmt: skip
    if options.data:
        command += ["--data", str(options.data)]
    subprocess.run(command, check=True, stdout=sys.stderr, timeout=240)
    found: Record = json.loads(written.read_text())
    return {key: found[key] for key in ("images", "precision", "workers", "copies_per_second", "ratios")}


def plan(results: Results, options: argparse.Namespace, scale: Scale, folder: Path) -> None:
    """All steps, those that matter most first."""
    pictures = options.data or folder / "pictures"
    if options.data is None:
        pictures.mkdir()
        make_pictures(pictures, max(scale.batch_sizes))
    few, middle, many = scale.batch_sizes

    def subject(extractor: str, batch: int, effort: str, form: str = "eager") -> Subject:
        return Subject(pictures, extractor, batch, effort, scale, options.device, form)

    def measure(extractor: str, batch: int, effort: str, form: str = "eager", seconds: float = 6) -> None:
        name = f"speed {extractor} {batch} {effort} {form}"
        results.step(name, seconds, lambda: speeds(subject(extractor, batch, effort, form)))

    def profile(extractor: str, effort: str) -> None:
        name = f"profile {extractor} {middle} {effort}"
        results.step(name, 8, lambda: profiled(subject(extractor, middle, effort)))

    measure("resnet50", middle, "paper")
    profile("resnet50", "paper")
    profile("resnet50", "robust")
    results.step("tests", 60, lambda: run_tests(options, results.deadline - time.monotonic()))
    for extractor in EXTRACTORS:
        for effort in EFFORTS:
            measure(extractor, middle, effort)
        if options.device == "cuda":
            measure(extractor, middle, "paper", "graphs")
    others = EXTRACTORS if scale.is_whole else EXTRACTORS[:1]

    def copies() -> None:
        results.step("evaluation", 45, lambda: evaluate(options, scale, folder))

    def other_sizes() -> None:
        for extractor in others:
            for effort in EFFORTS:
                measure(extractor, few, effort)
                measure(extractor, many, effort, seconds=25)

    def other_forms() -> None:
        for extractor in others[:2]:
            measure(extractor, middle, "paper", "compiled", seconds=60)
        profile("small", "robust")

    # on a CPU what takes longest comes last
    for work in (copies, other_sizes, other_forms) if scale.is_whole else (other_sizes, other_forms, copies):
        work()


def source_hash() -> str:
    """Of the code that is measured: figures of another are not continued."""
    digest = hashlib.sha256()
    for path in sorted([*(HERE.parent / "aindex").rglob("*.py"), *HERE.glob("gpu*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, default=Path("gpu_results"), help="folder of gpu.json and gpu.md")
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--seconds", type=float, default=460, help="no step begins that would end later (default 460)")
    add("--data", type=Path, help="folder of pictures; default: made-up ones")
    return parser.parse_args()


def main() -> None:
    options = parse()
    started = time.monotonic()
    as_the_commands_do()
    warnings.simplefilter("ignore")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            "torch sees no GPU: expected one, or --device cpu, which tries every step on small sizes"
        )
    scale = CPU if options.device == "cpu" else GPU
    about = {
        "device": "cpu",
        **machine(torch.device(options.device)),
        "source": source_hash(),
        "scale": scale.name,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    results = Results(options.output / "gpu.json", about, started + options.seconds)
    with tempfile.TemporaryDirectory() as folder:
        plan(results, options, scale, Path(folder))
    results.write()
    print(results.path.with_suffix(".md").read_text())
    failed = [name for name, record in results.content["steps"].items() if "error" in record]
    if failed or results.content["left"]:
        print(
            f"failed: {failed}; no time left for: {results.content['left']}. The same command goes on with them"
        )
        raise SystemExit(1)


if __name__ == "__main__":
    main()
