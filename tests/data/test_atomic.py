import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from aindex.data.atomic import exclusive, replace_when_done
from aindex.errors import OutputError


def write(path: Path, text: str, error: Exception | None = None) -> None:
    with replace_when_done(path) as temporary:
        temporary.write_text(text)
        if error is not None:
            raise error


def test_success_replaces_and_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write(path, "one")
    with pytest.raises(ZeroDivisionError):
        write(path, "half", ZeroDivisionError())
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]
    assert path.read_text() == "one"
    write(path, "two")
    assert path.read_text() == "two"


def test_failures_of_the_disk_are_output_errors(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="give a writable folder"):
        write(tmp_path / "file" / "a", "text")
    with pytest.raises(OutputError, match="cannot write"):
        write(tmp_path / "folder", "text")
    with pytest.raises(OutputError, match="No space left"):
        write(tmp_path / "b", "text", OSError(28, os.strerror(28)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def hold(folder: Path, ready, release) -> None:
    with exclusive(folder):
        ready.set()
        release.wait(20)


def test_exclusive_waits_and_a_killed_holder_lets_go(tmp_path):
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    holder = context.Process(target=hold, args=(tmp_path, ready, release))
    holder.start()
    assert ready.wait(10)
    os.kill(holder.pid, signal.SIGKILL)
    with exclusive(tmp_path):
        holder.join()
    with pytest.raises(OutputError, match="cannot write into"), exclusive(tmp_path / ".lock"):
        pass
