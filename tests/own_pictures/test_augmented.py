"""augment: copies and their description."""

import json

import numpy as np
import pytest
from PIL import Image

from aindex.cli import main
from aindex.edits.named import default_attacks
from aindex.edits.random_edit import DrawnEdit, apply_drawn_edits
from aindex.errors import ConfigError, DataError, EditError, OutputError
from aindex.evaluation import augmenting
from aindex.evaluation.augmenting import augment


def _lines(folder):
    return [json.loads(line) for line in (folder / "edits.jsonl").read_text().splitlines()]


def _files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_lines_tell_how_to_make_each_copy_again(make_pictures, tmp_path):
    source = make_pictures("in", 4)[0].parent
    result = augment(source, tmp_path / "out", copies=2, seed=3)
    lines = _lines(tmp_path / "out")
    assert (result.images, result.copies, len(lines)) == (4, 8, 8)
    assert [line["name"] for line in lines] == [f"P{i:06d}.png" for i in range(4) for _ in range(2)]
    assert len({line["file"] for line in lines}) == 8
    for line in lines:
        edits = [
            DrawnEdit(edit["edit"], {k: v for k, v in edit.items() if k != "edit"}) for edit in line["edits"]
        ]
        again = apply_drawn_edits(Image.open(source / line["name"]).convert("RGB"), edits)
        assert np.array_equal(np.asarray(again), np.asarray(Image.open(tmp_path / "out" / line["file"])))


def test_workers_change_nothing_and_the_seed_does(make_pictures, tmp_path):
    source = make_pictures("in", 5)[0].parent
    augment(source, tmp_path / "one", seed=3)
    augment(source, tmp_path / "two", seed=3, num_workers=2)
    augment(source, tmp_path / "three", seed=4)
    assert _files(tmp_path / "one") == _files(tmp_path / "two")
    assert _files(tmp_path / "one") != _files(tmp_path / "three")


def test_lists_of_attacks(make_pictures, tmp_path):
    source = make_pictures("in", 1)[0].parent
    augment(source, tmp_path / "out", edits="default", template="mobile", format="jpg")
    lines = _lines(tmp_path / "out")
    assert len(lines) == len(default_attacks())
    described = {line["file"]: line["edits"] for line in lines}
    assert described["images/P000000.none.jpg"] == []
    assert described["images/P000000.center_crop_0.5.jpg"] == [{"edit": "center_crop", "param": 0.5}]
    assert described["images/P000000.overlay_onto_screenshot.jpg"] == [
        {"edit": "overlay_onto_screenshot", "template": "mobile"}
    ]
    assert described["images/P000000.auto.jpg"]
    assert Image.open(tmp_path / "out" / "images" / "P000000.jpeg_50.jpg").format == "JPEG"


def test_command_counts_and_lists_what_cannot_be_read(make_pictures, tmp_path, capsys):
    source = make_pictures("in", 3)[0].parent
    (source / "deep").mkdir()
    (source / "P000001.png").rename(source / "deep" / "ü x.png")
    (source / "P000002.png").write_bytes(b"x")
    arguments = ["augment", f"--data_dir={source}", f"--output_dir={tmp_path / 'out'}", "--num_workers=0"]
    main([*arguments, "--progress=false"])
    said = capsys.readouterr()
    assert "2 copies of 2 images" in said.out
    assert "1 unreadable" in said.err
    assert "P000002.png" in (tmp_path / "out" / "skipped.csv").read_text()
    assert (tmp_path / "out" / "images" / "deep" / "ü x.png").is_file()
    with pytest.raises(SystemExit):
        main(arguments)
    assert "--overwrite" in capsys.readouterr().err


def test_a_copy_whose_edit_fails_costs_that_copy_alone(make_pictures, tmp_path, capsys):
    source = make_pictures("in", 2)[0].parent
    Image.new("RGB", (1, 50)).save(source / "narrow.png")
    arguments = ["augment", f"--data_dir={source}", "--edits=default", "--num_workers=0", "--progress=false"]
    main([*arguments, f"--output_dir={tmp_path / 'out'}"])
    told = capsys.readouterr().err
    failed = [
        row for row in (tmp_path / "out" / "skipped.csv").read_text().splitlines() if "narrow.png" in row
    ]
    assert len(failed) >= 1
    assert f"{len(failed)} edited copies left out" in told
    assert len(_lines(tmp_path / "out")) == 3 * len(default_attacks()) - len(failed)
    for line in _lines(tmp_path / "out"):
        assert (tmp_path / "out" / line["file"]).is_file()


def test_nothing_that_can_be_edited_is_an_error(make_pictures, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise EditError("impossible")

    monkeypatch.setattr("aindex.evaluation.edited.apply_random_edits", fail)
    with pytest.raises(EditError, match="none of the 2 edits was possible"):
        augment(make_pictures("in", 2)[0].parent, tmp_path / "out")


def test_overwriting_leaves_nothing_of_the_earlier_call(make_pictures, tmp_path):
    source = make_pictures("in", 2)[0].parent
    out = tmp_path / "out"
    augment(source, out, copies=3)
    with pytest.raises(OutputError, match="not empty"):
        augment(source, out)
    augment(source, out, overwrite=True)
    assert sorted(path.name for path in (out / "images").iterdir()) == ["P000000.png", "P000001.png"]
    (out / "mine.txt").write_text("x")
    with pytest.raises(OutputError, match=r"mine\.txt"):
        augment(source, out, overwrite=True)


def test_sources_are_never_written_over(make_pictures, tmp_path):
    paths = make_pictures("in", 2)
    source = paths[0].parent
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(map(str, paths)))
    before = _files(source)
    for what, where in ((source, source), (source, tmp_path), (listed, source), (source, source / "copies")):
        with pytest.raises(OutputError, match="give"):
            augment(what, where, overwrite=True)
    assert _files(source) == before


def test_options_that_are_not_possible(make_pictures, tmp_path):
    source = make_pictures("in", 1)[0].parent
    for options in ({"copies": 0}, {"copies": 2, "edits": "full"}, {"num_workers": -1}):
        with pytest.raises(ConfigError):
            augment(source, tmp_path / "out", **options)
    with pytest.raises(DataError):
        augment(tmp_path / "absent", tmp_path / "out")


def test_an_interrupted_call_goes_on_and_another_one_is_refused(make_pictures, tmp_path, monkeypatch):
    source = make_pictures("in", 4)[0].parent
    augment(source, tmp_path / "whole", copies=2)
    made: list[str] = []
    replace = augmenting.replace_when_done

    def interrupted(path):
        if path.suffix == ".png":
            if len(made) == 5:
                raise KeyboardInterrupt
            made.append(path.name)
        return replace(path)

    monkeypatch.setattr(augmenting, "replace_when_done", interrupted)
    with pytest.raises(KeyboardInterrupt):
        augment(source, tmp_path / "out", copies=2)
    with pytest.raises(OutputError, match="beginning of another call"):
        augment(source, tmp_path / "out", copies=2, seed=1)
    made.clear()
    augment(source, tmp_path / "out", copies=2)
    # the third image was not finished
    assert made == [f"P00000{image}.{copy}.png" for image in (2, 3) for copy in (0, 1)]
    assert _files(tmp_path / "out") == _files(tmp_path / "whole")


def test_what_failed_is_tried_again_by_the_same_call(make_pictures, tmp_path, monkeypatch):
    source = make_pictures("in", 3)[0].parent
    whole = (source / "P000001.png").read_bytes()
    (source / "P000001.png").write_bytes(b"no picture")
    with monkeypatch.context() as patch:
        patch.setattr(augmenting, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            augment(source, tmp_path / "out")
    (source / "P000001.png").write_bytes(whole)
    assert augment(source, tmp_path / "out").copies == 3
    assert sorted(_files(tmp_path / "out")) == ["edits.jsonl", *(f"images/P00000{i}.png" for i in range(3))]


def test_two_calls_do_not_work_in_one_folder(make_pictures, tmp_path, monkeypatch):
    source = make_pictures("in", 2)[0].parent
    write = augmenting._write

    def while_another_comes(*args):
        with pytest.raises(OutputError, match="in use by another command"):
            augment(source, tmp_path / "out")
        return write(*args)

    monkeypatch.setattr(augmenting, "_write", while_another_comes)
    assert augment(source, tmp_path / "out").copies == 2


def test_a_refused_folder_stays_as_it_is(make_pictures, tmp_path):
    source = make_pictures("in", 2)[0].parent
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        augment(source, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
