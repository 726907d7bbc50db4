"""What the benchmarks share: fair turns, medians, and what was measured on."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from aindex.memory import keep_freed_memory
from aindex.waiting import wait_asleep_soon

Work = Callable[[], int | tuple[int, float]]
"""Treats some items; returns how many, and the seconds if it takes the time by itself."""


def as_the_commands_do() -> None:
    """Start this program anew with the settings that aindex's commands make before torch is loaded."""
    before = dict(os.environ)
    wait_asleep_soon()
    if dict(os.environ) != before:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    keep_freed_memory()


def take_turns(rows: dict[str, Work], rounds: int) -> dict[str, list[float]]:
    """Seconds per item of each row in each round; each row is run once before, unmeasured.

    Rows of a round run after each other, in turning order, so that a disturbance hits all of them.

    Args:
        rows: name → work.
        rounds: measured rounds.
    """
    names = list(rows)
    for work in rows.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            started = time.perf_counter()
            done = rows[name]()
            items, taken = done if isinstance(done, tuple) else (done, time.perf_counter() - started)
            seconds[name].append(taken / items)
    return seconds


def reset_peak(device: torch.device) -> float:
    """Forget the peak memory so far; returns what is in use, MiB (resident; on a GPU allocated there)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    Path("/proc/self/clear_refs").write_text("5")
    return _status_mib("VmRSS")


def peak_mib(device: torch.device) -> float:
    """Most memory in use since reset_peak, MiB."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else _status_mib("VmHWM")


def _status_mib(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def median_ratio(numerator: list[float], denominator: list[float]) -> float:
    """Median over the rounds of the ratio within a round."""
    return statistics.median(n / d for n, d in zip(numerator, denominator, strict=True))


def machine(device: torch.device) -> dict[str, str | int | float]:
    """What decides the figures beside the code."""
    processor = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.split(":")[1].strip() for line in lines if "model name" in line), processor)
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    if device.type == "cuda":
        versions["device"] = torch.cuda.get_device_name(device)
        versions["cuda"] = str(torch.version.cuda)
    return {
        "processor": processor,
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        **versions,
    }


def print_table(header: list[str], lines: list[list[str]]) -> None:
    """A Markdown table with aligned columns."""
    widths = [max(len(row[i]) for row in [header, *lines]) for i in range(len(header))]
    for row in [header, ["-" * width for width in widths], *lines]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")


def in_own_process(step: str) -> dict:
    """What the running program prints last, as JSON, when it does one step in a process of its own."""
    command = [sys.executable, *sys.argv, "--step", step]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])
