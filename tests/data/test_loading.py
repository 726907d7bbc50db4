"""Loader processes: what they send, how they end, and scripts that start them."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from aindex.data.loading import ProcessLoader
from tests.conftest import write_pictures


class Numbers(Dataset[Any]):
    """Large tensors inside other things, and the number of the process."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, item: int) -> dict[str, Any]:
        return {"values": torch.full((1024, 1024), float(item)), "item": item, "process": os.getpid()}


def load(num_workers: int) -> list[list[dict[str, Any]]]:
    return list(ProcessLoader(Numbers(), batch_size=4, num_workers=num_workers, collate_fn=list))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_those_of_a_data_loader(num_workers: int) -> None:
    found = load(num_workers)
    assert [[one["item"] for one in batch] for batch in found] == [[0, 1, 2, 3], [4, 5]]
    for batch in found:
        for one in batch:
            assert torch.equal(one["values"], torch.full((1024, 1024), float(one["item"])))
            one["values"] += 1  # not read-only
            assert (one["process"] == os.getpid()) == (num_workers == 0)


def test_nothing_is_laid_into_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's own way to send a tensor asks for it in the process that receives it."""

    def refuse(*_: Any) -> None:
        raise AssertionError("shared memory")

    monkeypatch.setattr("torch.multiprocessing.reductions.rebuild_storage_fd", refuse)
    monkeypatch.setattr("torch.multiprocessing.reductions.rebuild_storage_filename", refuse)
    assert len(load(1)) == 2


SCRIPT = """
import sys, time
sys.path.insert(0, {root!r})
from aindex.data.loading import ProcessLoader
from tests.data.test_loading import Numbers

def work():
    batches = iter(ProcessLoader(Numbers(), batch_size=1, num_workers=2, collate_fn=list))
    for _ in range(2):
        print(next(batches)[0]["process"], flush=True)
    time.sleep({seconds})

"""


def start(folder: Path, last_lines: str, seconds: int = 0) -> "subprocess.Popen[str]":
    text = SCRIPT.format(root=str(Path(__file__).parents[2]), seconds=seconds) + last_lines
    (folder / "script.py").write_text(text)
    return subprocess.Popen(
        [sys.executable, str(folder / "script.py")],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    said, _ = start(tmp_path, "work()\n").communicate(timeout=120)
    last = said.splitlines()[-1]
    assert last.startswith("aindex.errors.ConfigError: num_workers 2")
    assert 'put what it does under `if __name__ == "__main__":`' in last


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    running = start(tmp_path, 'if __name__ == "__main__":\n    work()\n', seconds=600)
    assert running.stdout is not None
    workers = {int(running.stdout.readline()) for _ in range(2)}
    assert len(workers) == 2
    running.kill()
    running.wait()
    limit = time.monotonic() + 30
    while any(map(is_alive, workers)):
        assert time.monotonic() < limit
        time.sleep(0.1)


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


CALLS = {
    "build_index": 'build_index("mine", like="shipped", references="holiday")',
    "search": 'search("shipped", "holiday")',
    "activate": 'activate("holiday", "released", index="shipped", effort="fast", iterations=1)',
}


@pytest.mark.parametrize("call", CALLS)
def test_the_python_api_works_in_a_script_without_a_guard(tmp_path: Path, call: str) -> None:
    write_pictures(tmp_path / "holiday", 2)
    (tmp_path / "script.py").write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        f"from aindex import activate, build_index, search\n{CALLS[call]}\nprint('finished')\n"
    )
    found = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert found.stdout.endswith("finished\n"), found.stderr
