"""What each rank puts into its folder."""

from collections.abc import Callable

import numpy as np
import pytest

from aindex.errors import DataError
from aindex.index import filling, rows, sharded
from aindex.index.filling import Filling, fill
from aindex.index.owners import Owners
from aindex.index.reference_index import ReferenceIndex
from aindex.index.rows import Batch
from aindex.index.sharded import ShardedIndex

Make = Callable[..., ReferenceIndex]


@pytest.mark.parametrize("on_disk", [False, True])
def test_shares_make_up_the_whole_also_where_a_rank_gets_none(
    tmp_path, make_index: Make, reference_rows, monkeypatch, on_disk: bool
) -> None:
    for module in (rows, sharded):
        monkeypatch.setattr(module, "BLOCK_ROWS", 16)
    batches = [Batch(reference_rows[:30], [f"R{i}" for i in range(30)])]
    counts = []
    for rank in range(3):
        fill(make_index(), batches, tmp_path / str(rank), rank=rank, ranks=3, on_disk=on_disk)
        share = ReferenceIndex.open(tmp_path / str(rank), read_only=True)
        counts.append(share.ntotal)
        ShardedIndex(share, rank=rank, ranks=3, gather=lambda value: [value], owners=Owners(30))
    assert counts == [16, 14, 0]


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_single_share_has_a_name_for_each_row_too(
    tmp_path, make_index: Make, reference_rows, query_rows, on_disk: bool
) -> None:
    batches = [Batch(reference_rows[:30], [f"R{i}" for i in range(10)], [3] * 10)]
    fill(make_index(), batches, tmp_path / "whole", on_disk=on_disk)
    whole = ReferenceIndex.open(tmp_path / "whole")
    fill(make_index(), batches, tmp_path / "share", rank=0, ranks=1, on_disk=on_disk)
    share = ReferenceIndex.open(tmp_path / "share", read_only=True)
    assert (whole.pictures, share.pictures) == (10, 30)
    shard = ShardedIndex(share, rank=0, ranks=1, gather=lambda value: [value], owners=whole.owners)
    for k in (1, 10):
        for found, expected in zip(shard.search(query_rows, k), whole.search(query_rows, k), strict=True):
            assert np.array_equal(found, expected)


def test_an_original_with_the_name_of_another_picture_is_told_on_a_shard(
    make_shard: Callable[..., ShardedIndex], reference_rows, monkeypatch
) -> None:
    monkeypatch.setattr(filling, "_CHECKED_TOGETHER", 2)
    names = [f"R{i}" for i in range(len(reference_rows))]
    index = make_shard([Batch(reference_rows, names)], rank=0, ranks=1, gather=lambda value: [value])
    good = Filling(reference_rows, names, reference_rows[:5], names[:5])
    good.check(index, good.ids)
    others = np.concatenate([reference_rows[:3], -reference_rows[3:5]])
    bad = Filling(reference_rows, names, others, names[:5])
    with pytest.raises(DataError, match="'R3' has the name of another picture"):
        bad.check(index, bad.ids)
