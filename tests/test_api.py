"""`from aindex import …`, and the examples of docs/python.md, which are run as they stand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import aindex
from aindex.collection.equipment import index_folder
from tests.conftest import draw_picture

DOCUMENT = Path(aindex.__file__).parent.parent / "docs" / "python.md"


def test_every_name_is_there_and_none_is_loaded_before_its_use() -> None:
    for name in aindex.__all__:
        assert getattr(aindex, name) is not None
        assert name in dir(aindex)
    with pytest.raises(AttributeError, match=r"no attribute 'activat'"):
        aindex.activat  # noqa: B018
    code = "import sys, aindex; sys.exit('torch' in sys.modules or 'faiss' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(
    not (index_folder("shipped") / "index.yaml").is_file(), reason="no shipped index in this checkout"
)
@pytest.mark.skipif(not DOCUMENT.is_file(), reason="documentation is beside a checkout only")
def test_examples_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, count in (("holiday", 3), ("strangers", 10)):
        (tmp_path / folder).mkdir()
        for number in range(count):
            draw_picture(100 * len(folder) + number, 160, 120).save(
                tmp_path / folder / f"picture{number}.png"
            )
    (tmp_path / "copies").mkdir()
    draw_picture(701, 160, 120).save(tmp_path / "copies" / "beach.jpg")
    examples = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) >= 6
    names: dict[str, object] = {}
    for example in examples:
        exec(compile(example, str(DOCUMENT), "exec"), names)
    for result in ("released", "found"):
        assert "<table" in names[result]._repr_html_()  # type: ignore[attr-defined]
    assert (tmp_path / "found.html").stat().st_size > 5_000
