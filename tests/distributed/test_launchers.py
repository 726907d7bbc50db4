"""The launchers that people use: Lightning's own processes, and torchrun on two machines, here both this one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import launching
import pytest

import aindex

pytestmark = pytest.mark.slow

PROGRAM = Path(aindex.__file__).parents[1] / "cli.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def started(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with open(log, "wb") as file:
        return subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=ENVIRONMENT, cwd="/", start_new_session=True
        )


def torchrun(args: list[str], folder: Path, *, workers: int) -> list[subprocess.Popen[bytes]]:
    """A process on each of two machines."""
    port = launching.free_port()
    return [
        started(
            [
                sys.executable,
                *f"-m torch.distributed.run --nnodes=2 --node-rank={node} --nproc-per-node=1".split(),
                *f"--master-addr=127.0.0.1 --master-port={port} {PROGRAM}".split(),
                *args,
                *["--trainer.devices=1", "--trainer.num_nodes=2", "--trainer.strategy=ddp_independent"],
                f"--data.num_workers={workers}",
            ],
            folder / f"node{node}.log",
        )
        for node in (0, 1)
    ]


def children_of(pid: int) -> list[int]:
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    return [int(line) for line in found.stdout.split()]


def test_lightning_starts_the_processes(workshop, whole_fit, tmp_path: Path):
    options = ("--trainer.devices=2", "--trainer.strategy=ddp_independent", "--data.num_workers=1")
    args = workshop.args("fit", tmp_path / "run", *options)
    process = started([sys.executable, str(PROGRAM), *args], tmp_path / "log")
    assert process.wait(launching.PATIENCE_S) == 0, (tmp_path / "log").read_text()
    launching.assert_same(tmp_path / "run", whole_fit)
    assert sorted(path.name for path in (tmp_path / "run" / "progress").glob("images*")) == [
        "images.rank0.jsonl",
        "images.rank1.jsonl",
    ]


def test_two_machines(workshop, whole_fit, tmp_path: Path):
    nodes = torchrun(workshop.args("fit", tmp_path / "run"), tmp_path, workers=0)
    codes = [node.wait(launching.PATIENCE_S) for node in nodes]
    assert codes == [0, 0], [path.read_text() for path in tmp_path.glob("*.log")]
    launching.assert_same(tmp_path / "run", whole_fit)


def test_a_machine_is_lost(workshop, whole_fit, tmp_path: Path):
    """A machine's launcher and process are killed while they work; its loader processes see that and end."""
    args = workshop.args("fit", tmp_path / "run")
    nodes = torchrun(args, tmp_path, workers=1)
    limit = time.monotonic() + launching.PATIENCE_S
    while not (tmp_path / "run" / "originals" / "fts.pth").exists():
        assert time.monotonic() < limit
        time.sleep(0.1)
    workers = children_of(nodes[1].pid)
    for pid in [nodes[1].pid, *workers]:
        os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    nodes[0].wait(launching.PATIENCE_S)
    assert time.monotonic() - killed < 60
    assert "ended before it was done" in (tmp_path / "node0.log").read_text()
    launching.run(args, tmp_path / "logs", 2)
    launching.assert_same(tmp_path / "run", whole_fit)
