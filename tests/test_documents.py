"""README and docs: every option and every file that they name is there."""

import re
from pathlib import Path

import pytest

from aindex.cli import main

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_GROUPS = "data|index|model|retrieval|images|report"


def test_options_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--help_all"])
    known = set(re.findall(r"--[\w.]+", capsys.readouterr().out))
    named = {
        option
        for document in DOCUMENTS
        for option in re.findall(rf"--(?:{_GROUPS})\.\w+", document.read_text(encoding="utf-8"))
    }
    assert len(named) > 20
    assert named <= known


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target, part in re.findall(r"\]\(([^)#:]*)(#[^)]*)?\)", document.read_text(encoding="utf-8")):
        page = document.parent / target if target else document
        assert page.exists(), target
        if part:
            headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert part[1:] in anchors, part


def test_every_document_is_reached_from_the_readme() -> None:
    readme = DOCUMENTS[0].read_text(encoding="utf-8")
    assert [page.name for page in DOCUMENTS[1:] if f"(docs/{page.name})" not in readme] == []
