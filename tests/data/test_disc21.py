import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aindex.data.disc21 import Match, prepare, read_groundtruth
from aindex.errors import DataError, OutputError

FOLDERS = ("references_10k", "references_990k", "queries_40k")


@pytest.fixture
def disc21(make_pictures, tmp_path):
    make_pictures("data/references", 7, prefix="R")
    make_pictures("data/train", 9, prefix="T")
    (tmp_path / "matches.csv").write_text("Q00001,R000002\nQ00002,R000005\nQ00003,R000002\n")
    return tmp_path / "data"


def run(disc21, **options):
    arguments = {"groundtruth": disc21.parent / "matches.csv", "queries": 4, "progress": False} | options
    return prepare(disc21, disc21.parent / "out", **arguments)


def listing(disc21):
    return {name: sorted(os.listdir(disc21.parent / "out" / name)) for name in FOLDERS}


def test_folders_hold_the_right_links(disc21):
    counts = run(disc21)
    assert {folder.name: count for folder, count in counts.items()} == dict(
        zip(FOLDERS, (2, 5, 4), strict=True)
    )
    found = listing(disc21)
    assert found["references_10k"] == ["R000002.png", "R000005.png"]
    assert found["references_990k"] == [f"R00000{i}.png" for i in (0, 1, 3, 4, 6)]
    link = disc21.parent / "out" / "references_10k" / "R000002.png"
    assert link.is_symlink()
    assert link.samefile(disc21 / "references" / "R000002.png")


def test_the_seed_decides_the_queries_and_a_second_run_changes_nothing(disc21):
    run(disc21)
    first = listing(disc21)
    links = list((disc21.parent / "out").rglob("*.png"))
    before = [os.lstat(link).st_ino for link in links]
    links[0].unlink()
    run(disc21)
    assert listing(disc21) == first
    assert [os.lstat(link).st_ino for link in links[1:]] == before[1:]
    with pytest.raises(OutputError, match="does not belong to this selection"):
        run(disc21, seed=1)


def test_more_queries_than_training_pictures_take_all(disc21):
    run(disc21, queries=40_000)
    assert len(listing(disc21)["queries_40k"]) == 9


def test_progress_is_shown(disc21, capsys):
    run(disc21, progress=True)
    assert "11/11" in capsys.readouterr().err


def test_relative_folders(disc21, monkeypatch):
    monkeypatch.chdir(disc21.parent)
    prepare("data", "out", "matches.csv", queries=4, progress=False)
    run(disc21)
    assert (disc21.parent / "out" / "references_10k" / "R000002.png").exists()


def test_a_right_link_in_other_words_is_kept(disc21):
    folder = disc21.parent / "out" / "references_10k"
    folder.mkdir(parents=True)
    (folder / "R000002.png").symlink_to("../../data/references/R000002.png")
    run(disc21)
    assert os.readlink(folder / "R000002.png").startswith("..")


@pytest.mark.parametrize("kind", ["other target", "dangling", "file", "stranger", "no folder"])
def test_a_wrong_entry_is_an_error_before_any_link_is_made(kind, disc21):
    folder = disc21.parent / "out" / "queries_40k"
    folder.parent.mkdir()
    if kind == "no folder":
        folder.touch()
    else:
        run(disc21)
        name = listing(disc21)["queries_40k"][0]
        (folder / name).unlink()
        (folder.parent / "references_10k" / "R000002.png").unlink()
        if kind == "other target":
            (folder / name).symlink_to(disc21 / "references" / "R000000.png")
        elif kind == "dangling":
            (folder / name).symlink_to("nowhere")
        elif kind == "file":
            (folder / name).touch()
        else:
            (folder / "stranger.png").touch()
    with pytest.raises(OutputError, match="queries_40k"):
        run(disc21)
    assert not (folder.parent / "references_10k" / "R000002.png").exists()


def test_both_forms_of_the_ground_truth(disc21, tmp_path):
    bare, headed = tmp_path / "bare.csv", tmp_path / "headed.csv"
    bare.write_text("Q1,R000001\nQ2,R000002\n")
    headed.write_bytes(b"\xef\xbb\xbfquery_id,reference_id\r\nQ1,R000001\r\nQ2,\r\n\r\nQ3,R000002.png\r\n")
    assert read_groundtruth(bare) == [Match("Q1", "R000001"), Match("Q2", "R000002")]
    assert read_groundtruth(headed) == [Match("Q1", "R000001"), Match("Q2", None), Match("Q3", "R000002.png")]
    run(disc21, groundtruth=headed)
    assert listing(disc21)["references_10k"] == ["R000001.png", "R000002.png"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no line"),
        (b"query_id,reference_id\n", "holds no line"),
        (b"Q1,R000001\nQ2,\n", "line 2"),
        (b"Q1\n", "line 1"),
        (b"Q1,R000001,x\n", "line 1"),
        (b",R000001\n", "line 1"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b'Q1,"R0', "cannot be read"),
        (b"Q1,R999999\nQ2,R000001\n", "absent reference.*R999999"),
        (b"Q1,../train/T000001\n", "absent reference"),
        (b"query_id,reference_id\nQ1,\n", "names no reference"),
    ],
)
def test_damaged_ground_truth(content, message, disc21):
    (disc21.parent / "bad.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        run(disc21, groundtruth=disc21.parent / "bad.csv")
    assert not (disc21.parent / "out").exists()


def test_bad_folders(disc21):
    with pytest.raises(DataError, match=r"none\.csv"):
        run(disc21, groundtruth=disc21 / "none.csv")
    with pytest.raises(DataError, match="queries: expected"):
        run(disc21, queries=0)
    (disc21 / "references" / "R000002.jpg").touch()
    with pytest.raises(DataError, match="same name"):
        run(disc21)
    (disc21 / "references" / "R000002.jpg").unlink()
    (disc21 / "train" / "sub").mkdir()
    (disc21 / "train" / "sub" / "T000000.png").touch()
    with pytest.raises(DataError, match="same name"):
        run(disc21, queries=99)
    (disc21.parent / "out").touch()
    with pytest.raises(OutputError, match="cannot write links"):
        run(disc21)
    with pytest.raises(DataError, match="does not exist"):
        prepare(disc21 / "absent", disc21.parent / "out", disc21.parent / "matches.csv")


def test_photographs(photographs, tmp_path):
    source = photographs / "disc21"
    counts = prepare(source, tmp_path, source / "groundtruth_matches.csv", queries=1000, progress=False)
    assert list(counts.values()) == [500, 3500, 1000]


text = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ["Q1", "R1", "", '"', "query_id", "\0"]
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60) | st.lists(st.lists(text, max_size=3).map(",".join)).map("\n".join))
def test_fuzzed_ground_truth_gives_matches_or_an_error(content, tmp_path):
    path = tmp_path / "fuzz.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        outcome = read_groundtruth(path)
    except DataError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    assert outcome
    assert all(match.query and match.reference != "" for match in outcome)
