import multiprocessing
import os
import signal
import threading
from pathlib import Path

import pytest

from aindex.data.atomic import (
    exclusive,
    remove_leftovers,
    remove_leftovers_of,
    remove_tree,
    replace_when_done,
    write_where_told,
)
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


def killed_in(body) -> None:
    """Run something in a process that ends with it as if it was killed."""
    process = multiprocessing.get_context("fork").Process(target=body)
    process.start()
    process.join()


def half_written(path: Path) -> None:
    with replace_when_done(path) as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


FOREIGN = (
    ".video.partial.mkv",
    ".backup.partial",
    ".a.partial",
    "a.0123abcd.partial.txt",
    ".a.0123ABCD.partial.txt",
)


def test_leftovers_are_told_from_other_peoples_files(tmp_path):
    for name in FOREIGN:
        (tmp_path / name).touch()
    for name in ("a.txt", "b", "c" * 60 + ".png"):
        killed_in(lambda name=name: half_written(tmp_path / name))
    assert len(list(tmp_path.iterdir())) == len(FOREIGN) + 3
    remove_leftovers_of([tmp_path / "a.txt", tmp_path / "absent" / "x.txt"])
    left = {path.name for path in tmp_path.iterdir()} - set(FOREIGN)
    assert sorted(name[:3] for name in left) == [".b.", ".cc"]
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(FOREIGN)


def test_what_is_no_file_is_never_replaced(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for name, kind in (("link", "link"), ("dangling", "link"), ("pipe", "pipe")):
        with pytest.raises(OutputError, match=f"it is a {kind}, which is never replaced"):
            write(tmp_path / name, "new")
    with pytest.raises(OutputError, match="it is a device"):
        write(Path("/dev/null"), "new")
    assert (tmp_path / "target").read_text() == "old"


def test_a_place_that_the_user_named_is_written_to_as_it_is(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    write_where_told(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"
    write_where_told(tmp_path / "plain", b"new")
    assert (tmp_path / "plain").read_bytes() == b"new"
    write_where_told("/dev/null", b"new")
    assert Path("/dev/null").is_char_device()

    os.mkfifo(tmp_path / "pipe")
    found = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_where_told(tmp_path / "pipe", b"new")
    reader.join()
    assert found == [b"new"]
    assert (tmp_path / "pipe").is_fifo()


def test_a_source_is_not_written_over_by_whatever_name(tmp_path):
    (tmp_path / "source").write_text("picture")
    (tmp_path / "link").symlink_to("source")
    os.link(tmp_path / "source", tmp_path / "other_name")
    for name in ("source", "link", "other_name"):
        with pytest.raises(OutputError, match="is one of the files that were read"):
            write_where_told(tmp_path / name, b"new", sources=[tmp_path / "gone", tmp_path / "source"])
    assert (tmp_path / "source").read_text() == "picture"


def test_a_removal_that_was_killed_is_finished_by_the_next(tmp_path):
    def killed_removal() -> None:
        os.unlink = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
        remove_tree(tmp_path / "work")

    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "file").touch()
    (tmp_path / ".work.removed").mkdir()
    killed_in(killed_removal)
    assert not (tmp_path / "work").exists()
    assert len(list(tmp_path.glob(".work.*.removed"))) == 1
    remove_tree(tmp_path / "work")
    assert [path.name for path in tmp_path.iterdir()] == [".work.removed"]
