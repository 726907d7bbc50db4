"""Runs that are killed at any moment and started again leave the files of a run that was left alone."""

import json
import random
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import launching
import misfortunes
import pytest

QUICK = [pytest.param(seed, marks=[] if seed < 2 else pytest.mark.slow) for seed in range(12)]
FIRST = [pytest.param(seed, marks=[] if seed < 1 else pytest.mark.slow) for seed in range(10)]
SLOW = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(10)]

Counts = Callable[[str, int], int]


@pytest.fixture(scope="session")
def file_events(workshop, whole_fit) -> Counts:
    """How many operations on files a rank of a whole run makes, counted once per command and number of ranks."""
    known: dict[tuple[str, int], list[int]] = {}

    def count(command: str, ranks: int, rank: int) -> int:
        if (command, ranks) not in known:
            folder = workshop.folder / f"counted_{command}_{ranks}"
            notes = workshop.folder / f"count_{command}_{ranks}_rank"
            before = partial(misfortunes.counting_file_events, folder=str(folder), into=str(notes))
            args = arguments(workshop, command, folder / "run")
            running = launching.start(args, workshop.folder / "logs", ranks, before=before)
            assert running.wait() == [0] * ranks, running.output()
            found = [Path(f"{notes}{number}") for number in range(ranks)]
            known[command, ranks] = [int(path.read_text()) if path.exists() else 1 for path in found]
        return known[command, ranks][rank]

    return count


def arguments(workshop, command: str, output: Path) -> list[str]:
    """A command that makes everything anew, its trained index and extracted descriptors too."""
    if command == "extract":
        return workshop.extract_args(output)
    cache = f"--index.idx_dir={output.parent / 'indexes'}"
    if command == "fit":
        return workshop.args("fit", output, cache)
    released = workshop.folder / "whole_fit" / "imgs"
    return workshop.args("evaluate", output, cache, f"--retrieval.released_dir={released}")


def noted(folder: Path) -> dict[str, int]:
    """Released images that are noted as finished, with the times of their files."""
    found = {}
    for part in (folder / "progress").glob("images.rank*.jsonl"):
        for line in part.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                names = [image["file"] for image in json.loads(line)["images"]]
                found |= {name: (folder / "imgs" / name).stat().st_mtime_ns for name in names}
    return found


def interrupt(workshop, command: str, output: Path, rng: random.Random, file_events: Counts) -> bool:
    """Start a command and kill one of its ranks at some moment; whether it was finished before."""
    ranks = 1 if command == "extract" else rng.choice((1, 2))
    victim = rng.randrange(ranks)
    event = rng.randint(1, file_events(command, ranks, victim))
    before = partial(
        misfortunes.killed_at_file_event,
        folder=str(output.parent),
        rank=victim,
        event=event,
        delay_s=rng.choice((0.0, rng.uniform(0.001, 0.2))),
        number=rng.choice((signal.SIGKILL, signal.SIGTERM)),
    )
    before = partial(misfortunes.both, misfortunes.writing_shards_at_once, before)
    args = arguments(workshop, command, output)
    running = launching.start(args, output.parents[1] / "logs", ranks, before=before)
    codes = running.wait()
    assert None not in codes, running.output()
    assert "Traceback" not in running.output()
    return codes == [0] * ranks


def survive(workshop, command: str, tmp_path: Path, seed: int, file_events: Counts) -> Path:
    """Interrupt a command up to three times, then let it end; nothing that was finished is made again."""
    rng, output = random.Random(f"{command} {seed}"), tmp_path / "all" / "run"
    finished: dict[str, int] = {}
    for _ in range(rng.randint(1, 3)):
        if interrupt(workshop, command, output, rng, file_events) or (output / "summary.json").exists():
            break
        now = noted(output)
        assert finished.items() <= now.items()
        finished = now
    if not (output / "summary.json").exists():
        ranks = 1 if command == "extract" else rng.choice((1, 2))
        launching.run(arguments(workshop, command, output), tmp_path / "logs", ranks)
    assert finished.items() <= noted(output).items()
    assert [str(path) for path in (tmp_path / "all").rglob(".*") if path.name != ".lock"] == []
    return output


@pytest.fixture(scope="session")
def whole_extract(workshop) -> dict[str, bytes]:
    output = workshop.folder / "whole_extract"
    launching.run(workshop.extract_args(output), workshop.folder / "logs")
    return launching.files(output)


@pytest.mark.parametrize("seed", QUICK)
def test_fit(workshop, whole_fit, tmp_path: Path, file_events: Counts, seed: int):
    launching.assert_same(survive(workshop, "fit", tmp_path, seed, file_events), whole_fit)


@pytest.mark.parametrize("seed", SLOW)
def test_evaluate(workshop, whole_evaluate, tmp_path: Path, file_events: Counts, seed: int):
    launching.assert_same(survive(workshop, "evaluate", tmp_path, seed, file_events), whole_evaluate)


@pytest.mark.parametrize("seed", FIRST)
def test_extract(workshop, whole_extract, tmp_path: Path, file_events: Counts, seed: int):
    output = survive(workshop, "extract", tmp_path, seed, file_events)
    assert launching.files(output) == whole_extract
