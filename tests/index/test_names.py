import pytest
from hypothesis import given
from hypothesis import strategies as st

from aindex.errors import FaissIndexError
from aindex.index.names import RowNames

AWKWARD = [
    "a.jpg",
    'say "hi".png',
    "two\nlines.png",
    "../../etc/passwd",
    "<b>x</b>",
    "\u2028é🎈.webp",
    "\udc80",
    "",
    "a.jpg",
]


def test_any_name_survives_the_file() -> None:
    names = RowNames()
    names.extend(AWKWARD)
    again = RowNames(names.to_bytes())
    assert list(again) == AWKWARD
    assert names.to_bytes().count(b"\n") == len(AWKWARD)
    assert again[2] == "two\nlines.png"
    assert again[-1] == "a.jpg"
    assert again[1:4] == AWKWARD[1:4]
    with pytest.raises(IndexError):
        again[len(AWKWARD)]


@given(st.lists(st.text(), max_size=8), st.lists(st.text(), max_size=8), st.text())
def test_it_is_a_list_that_grows(first: list[str], second: list[str], other: str) -> None:
    names = RowNames()
    names.extend(first)
    names = RowNames(names.to_bytes())
    names.extend(second)
    everything = first + second
    assert list(names) == everything
    for name in [*everything, other]:
        assert (name in names) == (name in everything)


@pytest.mark.parametrize("data", [b'"a"\n"b', b"not json\n", b"17\n"])
def test_damaged_names(data: bytes) -> None:
    with pytest.raises(FaissIndexError, match="again"):
        RowNames(data)[0]
