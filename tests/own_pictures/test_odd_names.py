"""Files whose names are as long as names can be, or no valid Unicode, through the commands that take pictures."""

import os
from pathlib import Path

import pytest

from aindex.cli import main
from tests.conftest import draw_picture

NAMES = (b"a" * 251 + b".png", b"bad\xff.png", "ü".encode() * 125 + b".png", b"new\nline.png", b"-dash.png")


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    (tmp_path / "odd").mkdir()
    draw_picture(3).save(tmp_path / "plain.png")
    for name in NAMES:
        with open(os.path.join(os.fsencode(tmp_path / "odd"), name), "wb") as file:
            file.write((tmp_path / "plain.png").read_bytes())
    return tmp_path / "odd"


def test_every_command_takes_them(
    tmp_path: Path, odd: Path, tiny_index: Path, tiny_script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = ["--num_workers", "0", "--progress", "false"]
    trusted = ["--extractor", str(tiny_script), *quiet]
    index = ["--index", str(tiny_index)]
    released, edited = tmp_path / "released", tmp_path / "edited"
    main(["index", "add", *index, "--references", str(odd), *trusted])
    main(["activate", "--images", str(odd), "--out", str(released), *index, "--iterations", "1", *trusted])
    main(["augment", "--data_dir", str(odd), "--output_dir", str(edited), "--copies", "1", *quiet])
    main(["search", str(odd), *index, "--html", str(tmp_path / "found.html"), *trusted])
    out = capsys.readouterr().out
    assert "5 pictures released" in out
    assert set(NAMES) <= set(os.listdir(os.fsencode(released)))
    assert len(os.listdir(edited / "images")) == len(NAMES)
