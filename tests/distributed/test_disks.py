"""A disk that is full, forbidden or gone ends a run with one line; when it is well again the run goes on."""

from functools import partial
from pathlib import Path

import disks
import launching
import pytest

# moments of a run: descriptors, index, released images, rows, report
EVENTS = [
    pytest.param(event, marks=[] if event == 42 else pytest.mark.slow) for event in (5, 20, 30, 42, 60, 80)
]


def survive(workshop, tmp_path: Path, before) -> tuple[dict[str, bytes], str]:
    args = workshop.args("fit", tmp_path / "place" / "run")
    before = partial(before, args=args, folder=tmp_path)
    running = launching.start(args, tmp_path / "logs", before=before)
    codes = running.wait()
    if codes == [disks.CANNOT]:
        pytest.skip("this system lets processes mount no disk of their own")
    assert codes == [0], running.output()
    assert "Traceback" not in running.output()
    assert "the command did not fail" not in running.output()
    (line,) = running.errors()
    return launching.results(tmp_path / "copy"), line


@pytest.mark.parametrize(
    "size_kb", [8, 40, pytest.param(100, marks=pytest.mark.slow), pytest.param(300, marks=pytest.mark.slow)]
)
def test_full(workshop, whole_fit, tmp_path: Path, size_kb: int):
    found, line = survive(workshop, tmp_path, partial(disks.full, size_kb=size_kb))
    assert "No space left on device" in line or "do not fit on the disk" in line or "disk may be full" in line
    assert found == whole_fit


@pytest.mark.parametrize("event", EVENTS)
def test_forbidden(workshop, whole_fit, tmp_path: Path, event: int):
    found, line = survive(workshop, tmp_path, partial(disks.forbidden, event=event))
    assert "Permission denied" in line
    assert found == whole_fit


@pytest.mark.parametrize("event", EVENTS)
def test_gone(workshop, whole_fit, tmp_path: Path, event: int):
    found, line = survive(workshop, tmp_path, partial(disks.gone, event=event))
    assert any(words in line for words in ("No such file", "is gone", "does not exist", "lacks the file"))
    assert found == whole_fit
