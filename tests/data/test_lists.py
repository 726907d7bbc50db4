"""Lists of pictures, whoever wrote them: every name is kept as it is, left out and said, or refused in one line."""

import os
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aindex.data.images import image_names, is_path, list_images, read_image, read_names, write_names
from aindex.data.source_image import png_names
from aindex.errors import DataError, ImageReadError
from aindex.paths import user_path
from aindex.release.planning import list_source, output_files
from tests.conftest import draw_picture

LINES = st.one_of(
    st.text(),
    st.sampled_from(
        [".", "..", "/", "//", "~", "~a.jpg", "a/..", "a/.", ".png", "n" * 300 + ".png", "a\x0cb.png"]
    ),
    st.sampled_from(
        ["\u2028.png", "a\x85.png", "\ufeff.png", '"', '"\\ud800.png"', '"a\\nb.png"', "a\r", "C:\\a.jpg"]
    ),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(LINES, max_size=8), mark=st.booleans(), end=st.sampled_from(["\n", "\r\n"]))
def test_any_list_is_read_or_refused_in_one_line(lines, mark, end, tmp_path):
    path = tmp_path / "list.txt"
    text = ("\ufeff" if mark else "") + end.join(lines)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            listing = list_source(path)
    except DataError as error:
        told, listing = str(error), None
    if listing is None:
        assert "\n" not in told
        return
    assert len(set(listing.names)) == len(listing.names)
    files = output_files(listing.names, "png")
    assert len({file.casefold() for file in files}) == len(files)
    for file in files:
        assert not os.path.isabs(file)
        assert ".." not in Path(file).parts
    for name in listing.paths:
        with pytest.raises(ImageReadError):
            read_image(name)


@given(
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(is_path), unique=True)
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_list_that_is_written_is_read_as_it_was(names, tmp_path):
    write_names(tmp_path / "list.txt", names)
    assert read_names(tmp_path / "list.txt") == names
    content = (tmp_path / "list.txt").read_text(encoding="utf-8")
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "other.txt").write_text(content.replace("\n", "\r\n"), encoding=encoding, newline="")
        assert read_names(tmp_path / "other.txt") == names


def test_names_that_some_take_for_several_lines(tmp_path):
    names = ["a\x0cb.png", "a\x0bb.png", "a\x85b.png", "a\u2028b.png", "a\x1cb.png"]
    for name in names:
        draw_picture(1).save(tmp_path / name)
    (tmp_path / "list.txt").write_text("\n".join(names), encoding="utf-8")
    assert [path.name for path in list_images(tmp_path / "list.txt")] == names


def test_a_path_that_stands_in_a_list_twice_counts_once_and_is_said(tmp_path, make_pictures):
    first, second = make_pictures("p", 2)
    (tmp_path / "list.txt").write_text(f"p/P000001.png\n{first}\n./p/P000001.png\np//P000000.png\n{second}\n")
    with pytest.warns(UserWarning, match="3 of its 5 pictures again that stand in it already"):
        assert list_images(tmp_path / "list.txt") == [second, first]


def test_released_files_of_odd_lines_are_all_different():
    names = [".", "..", "/", "a.png", "../a.png", "/a.png", "A.png"]
    files = png_names(names)
    assert len({file.casefold() for file in files}) == len(names)
    assert files[3] == "a.png.png"


@pytest.mark.parametrize("line", ['"\\ud800.png"', '"nul\\u0000.png"', "nul\0.png"])
def test_what_no_file_can_be_called(line, tmp_path):
    (tmp_path / "list.txt").write_bytes(line.encode())
    with pytest.raises(DataError, match=r"line 1 .* expected the path of a file"):
        list_images(tmp_path / "list.txt")
    with pytest.raises(DataError, match="expected the path of a file"):
        list_source([Path("\ud800.png")])


def test_every_file_of_a_folder_that_is_left_out_is_counted(tmp_path, make_pictures):
    (picture,) = make_pictures("p", 1)
    for name in (
        "a.txt",
        "b.TXT",
        "Thumbs.db",
        "none",
        ".hidden.png",
        "deeper/clip.mov",
        "deeper/.git/x.png",
    ):
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "p" / name).write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"left out .*: 7 \(.*\)") as said:
        assert list_images(tmp_path / "p") == [picture]
    told = str(said[0].message)
    for kind in (".txt 2", "hidden 2", ".db 1", ".mov 1", "no ending 1"):
        assert kind in told
    picture.unlink()
    with pytest.raises(DataError, match=r"holds no picture: .* left out .* 7 \("):
        list_images(tmp_path / "p")


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.mpo", "MPO"), ("a.dib", "DIB"), ("a.pbm", "PPM"), ("a.pnm", "PPM"), ("a.j2k", "JPEG2000"),
        ("a.apng", "PNG"), ("a.JPE", "JPEG"), ("a.jpf", "JPEG2000"), ("a.pfm", "PPM"),
    ],
)  # fmt: skip
def test_all_endings_of_the_formats_that_are_read_are_listed(name, format, tmp_path):
    picture = draw_picture(1).convert({"a.pbm": "1", "a.pfm": "L"}.get(name, "RGB"))
    picture.save(tmp_path / name, format=format)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (found,) = list_images(tmp_path)
    assert read_image(found).size == picture.size


def test_a_name_that_begins_like_a_home_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert user_path("~/a.jpg") == tmp_path / "home" / "a.jpg"
    assert user_path("~a.jpg") == Path("~a.jpg")
    draw_picture(1).save("~a.jpg")
    assert image_names(list_source("~a.jpg").paths, Path()) == ["~a.jpg"]
