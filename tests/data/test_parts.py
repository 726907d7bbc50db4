import pytest

from aindex.data.parts import PartFiles
from aindex.errors import OutputError


def test_records_of_all_ranks_come_back_in_order_once(tmp_path):
    first, second = (PartFiles(tmp_path, "series", rank=rank) for rank in (0, 1))
    for parts, batch in ((first, 2), (second, 1), (first, 0), (second, 2)):
        parts.append(batch, {"value": f"{batch} ä\n"})
    PartFiles(tmp_path, "other").append(7, {})
    assert [record["batch"] for record in first.records()] == [0, 1, 2]
    assert [record["value"] for record in second.records()] == ["0 ä\n", "1 ä\n", "2 ä\n"]
    assert set(first.offsets()) == {0, 1, 2}


@pytest.mark.parametrize("torn", [b'{"batch": 1, "va', b'{"batch": 1}', b"\xff\xfe", b"7\n", b'{"b": 1}\n'])
def test_line_that_a_kill_cut_short_is_not_counted_and_harms_no_other(tmp_path, torn):
    parts = PartFiles(tmp_path, "series")
    parts.append(0, {})
    with open(parts.files()[0], "ab") as file:
        file.write(torn)
    assert set(parts.offsets()) == {0}
    parts.append(2, {})
    parts.append(3, {})
    assert {2, 3} <= set(parts.offsets()) <= {0, 1, 2, 3}


def test_remove_leaves_other_series(tmp_path):
    parts, other = PartFiles(tmp_path, "series"), PartFiles(tmp_path, "other")
    parts.append(0, {})
    other.append(0, {})
    parts.remove()
    assert not parts.files()
    assert other.files()


def test_unwritable_folder_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="make room"):
        PartFiles(tmp_path / "file", "series").append(0, {})
