"""Ranks of a run as processes forked from one that has imported everything, so that starting them costs little."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import pandas as pd

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "aindex.commands.pipeline",
        "aindex.commands.extract",
        "torch.utils.tensorboard",
        "matplotlib.pyplot",
        "faiss",
    ]
)

PATIENCE_S = 300.0
"""For what takes seconds on a machine that does nothing else."""

Before = Callable[[], None]

STARTED: list["Ranks"] = []
"""What the tests started, so that it can be ended with them."""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _environment(rank: int, ranks: int, port: int, *, machines: int) -> dict[str, str]:
    """What Lightning gives to the processes that it starts."""
    per_machine = ranks // machines
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "NODE_RANK": str(rank // per_machine),
        "LOCAL_RANK": str(rank % per_machine),
        "WORLD_SIZE": str(ranks),
    }


def _run(args: list[str], environment: dict[str, str], log: Path, before: Before | None) -> None:
    """The body of a process: a command line, its output in a file."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    os.environ.update({"OMP_NUM_THREADS": "1", **environment})
    if before is not None:
        before()
    from aindex.cli import main

    main(args)


@dataclass
class Ranks:
    """Processes of one command."""

    processes: list[BaseProcess]
    logs: list[Path]
    ended: dict[int, float] = field(default_factory=dict)
    """When each rank ended, seconds of the monotonic clock."""

    def wait(self, seconds: float = PATIENCE_S) -> list[int | None]:
        """Exit codes, None for those that had to be ended after so many seconds."""
        limit = time.monotonic() + seconds
        while self.is_running() and time.monotonic() < limit:
            time.sleep(0.02)
        codes = [process.exitcode for process in self.processes]
        self.kill()
        return codes

    def kill(self, ranks: Sequence[int] | None = None, number: int = signal.SIGKILL) -> None:
        """Send a signal to some ranks, or to all."""
        for rank in range(len(self.processes)) if ranks is None else ranks:
            process = self.processes[rank]
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, number)

    def is_running(self) -> bool:
        for rank, process in enumerate(self.processes):
            if not process.is_alive():
                self.ended.setdefault(rank, time.monotonic())
        return len(self.ended) < len(self.processes)

    def output(self) -> str:
        """What all ranks have said."""
        return "\n".join(log.read_text(errors="replace") for log in self.logs if log.exists())

    def errors(self) -> list[str]:
        return [line for line in self.output().splitlines() if line.startswith("aindex: error:")]


def start(
    args: Sequence[str], logs: Path, ranks: int = 1, *, machines: int = 1, before: Before | None = None
) -> Ranks:
    """Start a command on a number of ranks; one rank is a plain process without a process group."""
    logs.mkdir(parents=True, exist_ok=True)
    options = [
        f"--trainer.devices={ranks // machines}",
        f"--trainer.num_nodes={machines}",
        "--trainer.strategy=ddp_independent",
    ]
    port = free_port()
    found = Ranks([], [logs / f"rank{rank}.log" for rank in range(ranks)])
    STARTED.append(found)
    for rank, log in enumerate(found.logs):
        environment = _environment(rank, ranks, port, machines=machines) if ranks > 1 else {}
        process = _CONTEXT.Process(
            target=_run, args=([*args, *(options if ranks > 1 else [])], environment, log, before)
        )
        process.start()
        found.processes.append(process)
    return found


def run(args: Sequence[str], logs: Path, ranks: int = 1, *, machines: int = 1) -> Ranks:
    """Run a command to its end, which must be a good one."""
    running = start(args, logs, ranks, machines=machines)
    codes = running.wait()
    assert codes == [0] * ranks, (codes, running.output())
    return running


def files(folder: Path) -> dict[str, bytes]:
    """All files but locks, by their names."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def results(folder: Path) -> dict[str, bytes]:
    """All files of a finished run whose content is not about time, by their names."""
    not_compared = ("search_df.csv", "summary.json", "report.html", "config.yaml")
    found = {
        name: content
        for name, content in files(folder).items()
        if name.split("/")[-1] not in not_compared and name.split("/")[0] not in ("tensorboard", "progress")
    }
    table = pd.read_csv(folder / "images_df.csv")
    found["images_df.csv"] = table.drop(columns="activation_seconds").to_csv().encode()
    return found


def assert_same(folder: Path, expected: dict[str, bytes]) -> None:
    """The run has the same files with the same bytes."""
    found = results(folder)
    assert sorted(found) == sorted(expected)
    assert [name for name in found if found[name] != expected[name]] == []


def until(condition: Callable[[], bool], running: Ranks, seconds: float = PATIENCE_S) -> None:
    """Wait for something to happen in a running command."""
    limit = time.monotonic() + seconds
    while not condition():
        assert running.is_running(), running.output()
        assert time.monotonic() < limit, running.output()
        time.sleep(0.02)
