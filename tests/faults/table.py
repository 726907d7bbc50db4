"""The form of a row, and the room in which it happens."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from aindex.cli import main
from aindex.collection.equipment import describing
from aindex.data.images import SkippedImages
from aindex.descriptors.extraction import ExtractionSettings
from aindex.descriptors.extractor import Extractor
from aindex.descriptors.stored import extract_to_folder
from aindex.errors import AindexError
from tests.conftest import draw_picture, write_pictures

Answer = Literal["error", "recorded", "treated"]

QUIET: ExtractionSettings = describing(
    device="cpu", precision="fp32", batch_size=2, num_workers=0, progress=False
)


@dataclass
class Room:
    """A folder to make faults in, a tiny extractor, and an index of six pictures that it made."""

    tmp: Path
    patch: pytest.MonkeyPatch
    output: pytest.CaptureFixture[str]
    extractor: Extractor
    script: Path
    index: Path
    skipped: SkippedImages = field(default_factory=SkippedImages)

    def good_pictures(self, count: int = 3) -> Path:
        """A folder `pictures` of good ones."""
        write_pictures(self.tmp / "pictures", count)
        return self.tmp / "pictures"

    def extract(self, source: Path, name: str = "features") -> np.ndarray:
        """Descriptors of the good pictures by name; what was skipped is kept for the test."""
        extraction = extract_to_folder(source, self.extractor, self.tmp / name, QUIET)
        self.skipped = extraction.skipped
        return np.array(extraction.descriptors)

    def beside_good_ones(self, spoil: Callable[[Path], None]) -> None:
        """Extract three good pictures and a spoiled one; the good ones must not notice."""
        folder = self.good_pictures()
        alone = self.extract(folder, "alone")
        # Between the others in the order of names.
        spoil(folder / "P000001x.jpg")
        found = self.extract(folder, "with")
        assert len(found) == 3, "the spoiled picture was described"
        np.testing.assert_array_equal(found, alone)
        assert (self.tmp / "with" / "skipped.csv").read_text().count("P000001x.jpg") >= 1

    def treated(self, name: str, save: Callable[[Path], None]) -> np.ndarray:
        """The pixels of an odd picture that can be read, which is described like any other."""
        from aindex.data.images import read_image

        folder = self.good_pictures(1)
        save(folder / name)
        assert len(self.extract(folder)) == 2
        assert self.skipped.count == 0
        return np.asarray(read_image(folder / name))

    def command(self, *args: str) -> str:
        """Run a command; an error on the command line becomes an AindexError of the printed line."""
        self.output.readouterr()
        try:
            main(list(args))
        except SystemExit as stopped:
            told = self.output.readouterr().err
            code = stopped.code
            lines = [line for line in told.splitlines() if not line.startswith("aindex: warning")]
        else:
            return self.output.readouterr().out
        assert code in (1, 2)
        assert len(lines) == 1, told
        assert lines[0].startswith("aindex: error: ")
        raise AindexError(lines[0].removeprefix("aindex: error: "))

    def picture(self, seed: int = 0) -> Image.Image:
        """A good picture, not saved."""
        return draw_picture(seed)


Check = Callable[[Room], Any]


@dataclass(frozen=True)
class Fault:
    """A row.

    Attributes:
        group: the table that it stands in.
        id: of the test.
        what: the situation.
        answer: `error`: one line, nothing is done; `recorded`: that picture is left out, noted and counted; `treated`:
            it is no fault after all.
        says: a part of the message, or what is done.
    """

    group: str
    id: str
    what: str
    answer: Answer
    says: str
    check: Check


FAULTS: list[Fault] = []


def fault(
    group: str, what: str, *, error: str = "", recorded: str = "", treated: str = ""
) -> Callable[[Check], Check]:
    """Enter a function as a row; exactly one of `error`, `recorded`, `treated` says what happens."""

    def enter(check: Check) -> Check:
        answers: dict[Answer, str] = {"error": error, "recorded": recorded, "treated": treated}
        ((answer, says),) = [(key, text) for key, text in answers.items() if text]
        name = f"{group}-{check.__name__}".lower().replace(" ", "-").replace("_", "-")
        FAULTS.append(Fault(group, name, what, answer, says, check))
        return check

    return enter


def copy_index(room: Room, name: str = "spoiled") -> Path:
    """A copy of the index folder to spoil."""
    shutil.copytree(room.index, room.tmp / name)
    return room.tmp / name


def file_of(index: Path, role: str) -> Path:
    """The file of an index folder that begins with its role."""
    return next(
        path for path in index.iterdir() if path.name.startswith(role + ".") and path.name != "index.yaml"
    )


def truncate(path: Path, share: float = 0.5) -> None:
    """Cut a file."""
    os.truncate(path, int(path.stat().st_size * share))
