from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aindex.data.source_image import find_released, png_names
from aindex.errors import DataError


def test_names_keep_stem_and_folder():
    assert png_names(["a.jpg", "sub/b.JPEG", "sub/c.png"]) == ["a.png", "sub/b.png", "sub/c.png"]


def test_names_that_would_meet_keep_their_ending():
    assert png_names(["a.jpg", "a.webp", "A.png", "b.png"]) == [
        "a.jpg.png",
        "a.webp.png",
        "A.png.png",
        "b.png",
    ]


def test_a_kept_ending_that_meets_another_name():
    names = png_names(["a.jpg", "a.png", "a.jpg.webp"])
    assert len(set(names)) == 3


def test_absolute_names_and_parents_stay_inside():
    assert png_names(["/data/x/a.jpg", "../b.jpg"]) == ["data/x/a.png", "b.png"]


@given(
    st.lists(
        st.from_regex(r"[aAb]{1,2}(/[ab])?\.(jpg|png|jpg\.png)", fullmatch=True), unique=True, min_size=1
    )
)
def test_png_names_are_different_and_end_in_png(names):
    released = png_names(names)
    assert len(set(released)) == len(names)
    assert all(name.endswith(".png") and not Path(name).is_absolute() for name in released)


def test_find_released_takes_short_full_and_own_names(tmp_path):
    for name in ("a.png", "b.jpg.png", "c.jpg"):
        (tmp_path / name).write_bytes(b"")
    found = find_released(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    assert [path.name for path in found] == ["a.png", "b.jpg.png", "c.jpg"]


def test_find_released_says_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"b\.jpg"):
        find_released(tmp_path, ["b.jpg"])
    with pytest.raises(DataError, match="no such folder"):
        find_released(tmp_path / "absent", ["b.jpg"])
