"""When a rank ends the others end too, within a minute, and say why; the same command then continues."""

import signal
from functools import partial
from pathlib import Path

import launching
import misfortunes
import pytest

from aindex.cli import main


def ending(workshop, tmp_path: Path, before, ranks: int = 2) -> launching.Ranks:
    running = launching.start(workshop.args("fit", tmp_path / "run"), tmp_path / "logs", ranks, before=before)
    codes = running.wait()
    assert all(codes), (codes, running.output())
    assert max(running.ended.values()) - min(running.ended.values()) < 60
    return running


@pytest.mark.parametrize(
    "before",
    [
        partial(misfortunes.killed_while_others_compute, rank=1),
        partial(misfortunes.killed_while_others_compute, rank=1, number=signal.SIGTERM),
        partial(misfortunes.told_to_end_between_signals_and_batches, rank=1),
        partial(misfortunes.killed_while_others_wait, rank=1),
        pytest.param(partial(misfortunes.killed_in_setup, rank=1), marks=pytest.mark.slow),
    ],
)
def test_a_rank_is_killed(workshop, whole_fit, tmp_path: Path, before):
    running = ending(workshop, tmp_path, before)
    (line,) = running.errors()
    assert "rank 1 of 2 on" in line
    assert "ended before it was done: the other ranks end too; the same command continues" in line
    assert "Traceback" not in running.output()
    launching.run(workshop.args("fit", tmp_path / "run"), tmp_path / "logs", 2)
    launching.assert_same(tmp_path / "run", whole_fit)


@pytest.mark.parametrize(
    "before",
    [
        partial(misfortunes.killed_while_others_compute, rank=0),
        pytest.param(partial(misfortunes.killed_in_setup, rank=0), marks=pytest.mark.slow),
    ],
)
def test_the_first_rank_is_killed(workshop, whole_fit, tmp_path: Path, before):
    running = ending(workshop, tmp_path, before, 3)
    (line,) = running.errors()
    assert "rank 0 of 3 on" in line
    # with another number of ranks, and at once: the new run waits until the old one is gone
    launching.run(workshop.args("fit", tmp_path / "run"), tmp_path / "logs", 1)
    launching.assert_same(tmp_path / "run", whole_fit)


@pytest.mark.parametrize(("rank", "ranks"), [(0, 2), (1, 2), pytest.param(2, 3, marks=pytest.mark.slow)])
def test_a_rank_is_killed_before_the_ranks_meet(workshop, whole_fit, tmp_path: Path, rank: int, ranks: int):
    before = partial(misfortunes.killed_before_the_ranks_meet, rank=rank, others_wait_s=4.0)
    running = ending(workshop, tmp_path, before, ranks)
    lines = running.errors()
    # those that wait cannot know who else is there
    assert len(lines) == ranks - 1, running.output()
    assert all("did not meet the others at 127.0.0.1:" in line for line in lines)
    assert "Traceback" not in running.output()
    launching.run(workshop.args("fit", tmp_path / "run"), tmp_path / "logs", ranks)
    launching.assert_same(tmp_path / "run", whole_fit)


def test_a_rank_fails(workshop, tmp_path: Path):
    running = ending(workshop, tmp_path, partial(misfortunes.fails_alone, rank=1))
    (line,) = running.errors()
    assert "image 'x.png' cannot be read" in line


def test_a_rank_has_a_bug(workshop, tmp_path: Path):
    running = ending(workshop, tmp_path, partial(misfortunes.has_a_bug, rank=1))
    assert running.output().count("Traceback") == 1
    assert "ZeroDivisionError" in running.output()


def test_an_error_of_all_ranks_is_said_once(workshop, tmp_path: Path):
    args = [*workshop.args("fit", tmp_path / "run"), "--index.kneighbors=50"]
    running = launching.start(args, tmp_path / "logs", 3)
    assert running.wait() == [1, 1, 1]
    (line,) = running.errors()
    assert "kneighbors" in line


def test_another_run_in_the_same_folder_waits_and_gives_up(workshop, tmp_path: Path, capsys, monkeypatch):
    from aindex.callbacks.run_lock import RunLock

    args = workshop.args("fit", tmp_path / "run")
    stuck = partial(misfortunes.killed_while_others_compute, rank=1)
    running = launching.start(args, tmp_path / "logs", 1, before=stuck)
    launching.until((tmp_path / "run" / "config.yaml").exists, running)
    patient = RunLock.take_alone
    monkeypatch.setattr(RunLock, "take_alone", lambda self, token: patient(self, token, patience_s=0.5))
    try:
        with pytest.raises(SystemExit):
            main(args)
    finally:
        running.kill()
    assert "is in use by another run" in capsys.readouterr().err
