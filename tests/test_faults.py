"""The fault matrix, row by row, and its page in the documentation.

``python -m tests.test_faults`` writes docs/faults.md anew.
"""

from pathlib import Path

import pytest

from aindex.collection.building import build_index
from aindex.descriptors.registry import load_extractor
from aindex.errors import AindexError
from tests.conftest import CACHED, write_pictures
from tests.faults import (
    configuration,
    descriptors,
    engines,
    extractors,
    indexes,
    outputs,
    pictures,
    terminals,
)
from tests.faults.table import FAULTS, QUIET, Fault, Room

GROUPS = (pictures, descriptors, indexes, engines, extractors, configuration, outputs, terminals)
DOCUMENT = Path(__file__).parent.parent / "docs" / "faults.md"
INTRODUCTION = """# What can go wrong, and what aindex answers

Each row is a test (`tests/test_faults.py`, which also checks this page). **error**: one line that says what was found,
what was expected and what to do; nothing is done, and finished work stays. **recorded**: that picture is left out and
noted with the reason (`skipped.csv`), all others come out as if it were not there, and the count is said at the end.
**treated**: no fault after all.
"""


@pytest.fixture(scope="session")
def fault_index(tmp_path_factory: pytest.TempPathFactory, torch_home: Path) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    write_pictures(folder / "train", 40, seed=1)
    write_pictures(folder / "references", 6, seed=2, prefix="R")
    sources = {"train": folder / "train", "references": folder / "references"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(torch_home))
        build_index(
            folder / "index",
            **sources,
            idx_factory="IVF4,PQ4x4",
            extractor=CACHED,
            resize_size=32,
            settings=QUIET,
        )
    return folder / "index"


@pytest.fixture
def room(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_script: Path,
    fault_index: Path,
    torch_home: Path,
) -> Room:
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    extractor = load_extractor(tiny_script, resize_size=32)
    return Room(tmp_path, monkeypatch, capsys, extractor, tiny_script, fault_index)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_fault(fault: Fault, room: Room) -> None:
    if fault.answer == "error":
        with pytest.raises(AindexError) as raised:
            fault.check(room)
        assert "\n" not in str(raised.value)
        assert fault.says in str(raised.value)
        return
    fault.check(room)
    if fault.answer == "recorded":
        assert room.skipped.count >= 1
        assert all("\n" not in reason and fault.says in reason for _, reason in room.skipped.rows), (
            room.skipped.rows
        )
        assert str(room.skipped.count) in room.skipped.summary()


def document() -> str:
    """docs/faults.md."""
    parts = [INTRODUCTION]
    homes = [module.__name__ for module in GROUPS]
    ordered = sorted(FAULTS, key=lambda fault: homes.index(fault.check.__module__))
    for group in dict.fromkeys(fault.group for fault in ordered):
        rows = [f"| {f.what} | **{f.answer}** | {_said(f)} |" for f in FAULTS if f.group == group]
        parts.append(
            "\n".join([f"## {group}", "", "| what | answer | it says |", "|---|---|---|", *rows, ""])
        )
    return "\n".join(parts)


def _said(fault: Fault) -> str:
    text = fault.says.replace("|", "\\|")
    return text if fault.answer == "treated" else f"`… {text} …`"


def test_the_table_is_the_documentation() -> None:
    assert len(FAULTS) >= 40
    assert len({fault.id for fault in FAULTS}) == len(FAULTS)
    if not DOCUMENT.is_file():
        pytest.skip("documentation is beside a checkout only")
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run python -m tests.test_faults"


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
