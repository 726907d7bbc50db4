"""What a release may write over and remove: its own files, and nothing else."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from aindex.collection.building import add_to_index, build_index
from aindex.data.atomic import exclusive, remove_tree
from aindex.descriptors.extraction import ExtractionSettings
from aindex.errors import OutputError
from aindex.index.reference_index import ReferenceIndex
from aindex.release import under_way
from aindex.release.activating import activate
from tests.conftest import draw_picture, write_pictures

Options = dict[str, Any]


@pytest.fixture
def options(tiny_index: Path, quiet: ExtractionSettings) -> Options:
    return {"index": tiny_index, "settings": quiet, "effort": "paper", "iterations": 1}


def contents(folder: Path) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in sorted(found.items()) if not name.startswith(".aindex")}


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_no_release_made_is_never_written_over(
    tmp_path: Path, options: Options, overwrite: bool
) -> None:
    holiday, out = write_pictures(tmp_path / "holiday", 3)[0].parent, tmp_path / "out"
    out.mkdir()
    (out / "P000001.png").write_text("mine")
    with pytest.raises(OutputError, match=r"holds other things \('P000001.png'\)"):
        activate(holiday, out, overwrite=overwrite, **options)
    assert contents(out) == {"P000001.png": b"mine"}
    assert not (out / ".aindex").exists()

    (out / "P000001.png").unlink()
    activate([holiday / "P000000.png"], out, **options)
    (out / "P000001.png").write_text("mine")
    with pytest.raises(OutputError, match="is there, and no release made it"):
        activate([holiday / f"P00000{i}.png" for i in range(3)], out, overwrite=overwrite, **options)
    assert (out / "P000001.png").read_text() == "mine"
    assert not (out / "P000002.png").exists()


def test_overwriting_removes_the_earlier_release_by_its_list_and_nothing_else(
    tmp_path: Path, options: Options
) -> None:
    holiday, out = tmp_path / "holiday", tmp_path / "out"
    write_pictures(holiday / "a" / "b", 2, prefix="old")
    activate(holiday, out, **options)
    (out / "a" / "mine.txt").write_text("mine")
    (out / ".video.partial.mkv").write_text("mine")
    (out / ".old000000.0123abcd.partial.png").write_text("of somebody else: no such file is planned here")
    elsewhere = tmp_path / "elsewhere.png"
    elsewhere.write_text("mine")
    with open(out / ".aindex" / "files.jsonl", "a") as file:  # a stranger's release may list anything
        file.writelines(json.dumps(name) + "\n" for name in ("../elsewhere.png", str(elsewhere)))

    other = write_pictures(tmp_path / "other", 1, prefix="new")[0].parent
    activate(other, out, overwrite=True, scaling=1.0, **options)
    assert sorted(contents(out)) == [
        ".old000000.0123abcd.partial.png", ".video.partial.mkv", "a/mine.txt", "manifest.csv", "new000000.png",
    ]  # fmt: skip
    assert not (out / "a" / "b").exists()
    assert elsewhere.read_text() == "mine"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_picture_is_never_replaced_by_its_own_release(
    tmp_path: Path, options: Options, overwrite: bool
) -> None:
    out = tmp_path / "out"
    activate(write_pictures(tmp_path / "holiday", 2)[0].parent, out, **options)
    before = contents(out)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "list.txt").write_text("../P000000.png\n")
    (tmp_path / "P000000.png").symlink_to(out / "P000000.png")
    with pytest.raises(OutputError, match="is one of the pictures themselves"):
        activate(tmp_path / "lists" / "list.txt", out, overwrite=overwrite, **options)
    found = contents(out)
    assert found["P000000.png"] == before["P000000.png"]


def test_a_link_in_the_tree_leads_nothing_out_of_it(tmp_path: Path, options: Options) -> None:
    holiday, out = tmp_path / "holiday", tmp_path / "out"
    write_pictures(holiday / "a", 1)
    write_pictures(tmp_path / "private", 1)
    activate([write_pictures(tmp_path / "first", 1, prefix="F")[0]], out, **options)
    (out / "a").symlink_to(tmp_path / "private")
    before = contents(tmp_path / "private")
    with pytest.raises(OutputError, match="leads out of the folder of the release"):
        activate(holiday, out, **options)
    assert contents(tmp_path / "private") == before


def test_what_a_killed_release_left_goes(tmp_path: Path, options: Options) -> None:
    holiday, out = write_pictures(tmp_path / "holiday", 2)[0].parent, tmp_path / "out"
    (out / ".aindex").mkdir(parents=True)  # killed before its first file
    activate(holiday, out, **options)
    whole = contents(out)
    for name in (".P000001.0123abcd.partial.png", ".manifest.89abcdef.partial.csv"):
        (out / name).write_text("half")
    activate(holiday, out, **options)
    assert contents(out) == whole


def test_two_releases_do_not_work_in_one_folder(
    tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    holiday, out = write_pictures(tmp_path / "holiday", 2)[0].parent, tmp_path / "out"
    inside, go_on = threading.Event(), threading.Event()
    real = under_way.open_picture

    def wait(path: Path) -> Any:
        inside.set()
        go_on.wait(60)
        return real(path)

    monkeypatch.setattr(under_way, "open_picture", wait)
    first = threading.Thread(target=activate, args=(holiday, out), kwargs=options)
    first.start()
    try:
        assert inside.wait(60)
        for overwrite in (False, True):
            with pytest.raises(OutputError, match="is in use by another command"):
                activate(holiday, out, scaling=1.0, overwrite=overwrite, **options)
    finally:
        go_on.set()
        first.join()
    assert sorted(contents(out)) == ["P000000.png", "P000001.png", "manifest.csv"]


def test_two_additions_at_once_add_their_own_rows(
    tmp_path: Path, tiny_index: Path, quiet: ExtractionSettings
) -> None:
    for number in range(4):
        write_pictures(tmp_path / str(number), 3, seed=20 + number, prefix=f"N{number}_")
    adding = [
        threading.Thread(
            target=add_to_index, args=(tiny_index, tmp_path / str(n)), kwargs={"settings": quiet}
        )
        for n in range(4)
    ]
    for one in adding:
        one.start()
    for one in adding:
        one.join()
    names = list(ReferenceIndex.open(tiny_index).names)
    assert sorted(names[12:]) == sorted(f"N{n}_00000{i}.png" for n in range(4) for i in range(3))
    assert not (tiny_index / ".work").exists()


def test_an_index_in_a_folder_whose_parent_is_closed_is_added_to(
    tmp_path: Path, tiny_index: Path, quiet: ExtractionSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(tmp_path.iterdir())
    write_pictures(tmp_path / "references" / "more", 2, prefix="M")
    add_to_index(tiny_index, tmp_path / "references" / "more", settings=quiet)
    assert set(tmp_path.iterdir()) == before


def test_a_foreign_folder_gets_no_index_and_no_trace(
    tmp_path: Path, tiny_index: Path, quiet: ExtractionSettings
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"holds other things \('diary.txt'\)"):
            build_index(tmp_path / "mine", like=tiny_index, settings=quiet, overwrite=overwrite)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["diary.txt"]


def test_the_holder_of_a_folder_may_remove_it(tmp_path: Path) -> None:
    """Those who waited for it then hold the new one, one after the other."""
    inside: list[int] = []

    def hold(number: int) -> None:
        with exclusive(tmp_path / "work"):
            inside.append(number)
            assert len(inside) == 1
            draw_picture(number).save(tmp_path / "work" / "some.png")
            with Image.open(tmp_path / "work" / "some.png") as image:
                image.load()
            inside.remove(number)
            remove_tree(tmp_path / "work")  # from now on another may hold the next one

    failures: list[Any] = []
    monitored = [threading.Thread(target=lambda n=n: _noting(failures, hold, n)) for n in range(16)]
    for one in monitored:
        one.start()
    for one in monitored:
        one.join()
    assert failures == []


def _noting(failures: list[Any], function: Any, number: int) -> None:
    try:
        function(number)
    except BaseException as error:
        failures.append(error)
