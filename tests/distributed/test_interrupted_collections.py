"""Commands for pictures of one's own, killed at any operation on files: the same command then ends as if it was not."""

import random
import re
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import launching
import misfortunes
import pytest

from aindex.collection.building import build_index
from aindex.collection.equipment import describing
from aindex.index.reference_index import ReferenceIndex
from tests.conftest import write_pictures

COMMANDS = ("index build", "index add", "activate", "activate --overwrite", "augment")
SEEDS = [pytest.param(seed, marks=[] if seed < 2 else pytest.mark.slow) for seed in range(40)]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_script: Path) -> Path:
    """An index of three pictures, others for it, an earlier release of other settings."""
    folder = tmp_path_factory.mktemp("home")
    for number, (name, count) in enumerate({"train": 40, "references": 3, "more": 4}.items()):
        write_pictures(folder / name, count, seed=number + 1, prefix=name)
    build_index(
        folder / "index", train=folder / "train", references=folder / "references", idx_factory="IVF4,PQ4x4",
        extractor=tiny_script, resize_size=32,
        settings=describing(device="cpu", precision="fp32", num_workers=0, progress=False),
    )  # fmt: skip
    return folder


def arguments(command: str, folder: Path, script: Path) -> list[str]:
    if command == "augment":
        return [
            "augment",
            f"--data_dir={folder / 'more'}",
            f"--output_dir={folder / 'out'}",
            "--copies=2",
            "--num_workers=0",
        ]
    options = {
        "index build": {
            "--output": folder / "new", "--train": folder / "train", "--references": folder / "more",
            "--idx_factory": "IVF4,PQ4x4", "--resize_size": 32,
        },
        "index add": {"--index": folder / "index", "--references": folder / "more"},
        "activate": {"--index": folder / "index", "--images": folder / "more", "--out": folder / "out"},
    }  # fmt: skip
    name = command.removesuffix(" --overwrite")
    given = {**options[name], "--extractor": script, "--device": "cpu", "--precision": "fp32"}
    given |= {"--num_workers": 0, "--batch_size": 2, "--progress": "false"}
    if name == "activate":
        given |= {"--effort": "paper", "--iterations": 1, "--overwrite": str(command != name).lower()}
    return [*name.split(), *(f"{key}={value}" for key, value in given.items())]


def result(folder: Path) -> dict[str, bytes]:
    """All that people see; of indexes the rows."""
    found = launching.files(folder)
    shown = {
        name: data for name, data in found.items() if name.startswith("out/") and "/.aindex/" not in name
    }
    for name in ("index", "new"):
        if (folder / name / "index.yaml").exists():
            shown[name] = "\n".join(ReferenceIndex.open(folder / name).names).encode()
    return shown


@pytest.fixture(scope="session")
def whole(home: Path, tmp_path_factory: pytest.TempPathFactory, tiny_script: Path) -> Callable[..., tuple]:
    """Of a command that nobody interrupts: the number of its operations on files, and what it leaves."""
    known: dict[str, tuple[int, dict[str, bytes]]] = {}

    def of(command: str) -> tuple[int, dict[str, bytes]]:
        if command not in known:
            folder = prepared(home, tmp_path_factory.mktemp("whole") / "home", command, tiny_script)
            notes = folder.parent / "events"
            before = partial(misfortunes.counting_file_events, folder=str(folder), into=str(notes))
            running = launching.start(
                arguments(command, folder, tiny_script), folder.parent / "logs", before=before
            )
            assert running.wait() == [0], running.output()
            known[command] = int(Path(f"{notes}0").read_text()), result(folder)
        return known[command]

    return of


def prepared(home: Path, folder: Path, command: str, script: Path) -> Path:
    shutil.copytree(home, folder)
    if command == "activate --overwrite":
        earlier = [*arguments("activate", folder, script), "--scaling=1"]
        launching.run([*earlier, f"--images={folder / 'references'}"], folder.parent / "logs")
        (folder / "out" / "mine.txt").write_text("mine")
    return folder


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("command", COMMANDS)
def test_killed_anywhere_it_goes_on(
    home: Path, whole: Callable[..., tuple], tmp_path: Path, tiny_script: Path, command: str, seed: int
) -> None:
    events, expected = whole(command)
    rng = random.Random(f"{command} {seed}")
    folder = prepared(home, tmp_path / "home", command, tiny_script)
    args = arguments(command, folder, tiny_script)
    for _ in range(rng.randint(1, 2)):
        before = partial(
            misfortunes.killed_at_file_event, folder=str(folder), rank=0, event=rng.randint(1, events),
            delay_s=0.0, number=signal.SIGKILL,
        )  # fmt: skip
        launching.start(args, tmp_path / "logs", before=before).wait()
    last = launching.start(args, tmp_path / "logs")
    if last.wait() != [0]:
        # killed when all was done: it says what a finished command says that is given again
        (line,) = last.errors()
        assert re.search("holds an index already|are in the index already|is not empty", line)
    assert result(folder) == expected
    hidden = [path for path in folder.rglob(".*") if path.name not in (".aindex", ".lock")]
    assert all(re.fullmatch(r"\.\.(work|progress)\.[0-9a-f]{8}\.removed", path.name) for path in hidden)
    assert not hidden or last.errors()
