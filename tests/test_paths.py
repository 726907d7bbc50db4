import pytest

from aindex.errors import ConfigError
from aindex.paths import possible_path
from aindex.seeding import derive_seed


@pytest.mark.parametrize("name", ["a" * 300, "a/" * 3000 + "b", "\ud800", "nul\0"])
def test_what_no_disk_can_hold(tmp_path, name):
    with pytest.raises(ConfigError, match="cannot be a path"):
        possible_path(f"{tmp_path}/{name}")


@pytest.mark.parametrize("name", ["new", "new/deeper", "file/below", "bad\udcff", "~a", "ü" * 100])
def test_what_might_be_there(tmp_path, name):
    (tmp_path / "file").touch()
    assert possible_path(f"{tmp_path}/{name}") == tmp_path / name


def test_seeds_of_names_that_are_no_unicode():
    assert derive_seed(0, "a.jpg") == 2436073104223073911
    assert len({derive_seed(0, name) for name in ("bad\udcff.jpg", "bad\udcfe.jpg", "bad\ud800.jpg")}) == 3
