"""Seeded unit vectors and the factories that the tests of the index share."""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pytest

from aindex.index.factory import Metric, train_quantiser
from aindex.index.filling import share_of
from aindex.index.owners import Owners
from aindex.index.reference_index import ReferenceIndex
from aindex.index.rows import Batch
from aindex.index.sharded import Gather, ShardedIndex

DIM = 16
Rows = npt.NDArray[np.float32]


def unit_rows(count: int, seed: int, dim: int = DIM) -> Rows:
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(autouse=True)
def _few_training_rows_are_fine() -> None:
    warnings.filterwarnings("ignore", message=".*FAISS recommends")


@pytest.fixture(scope="session")
def training_rows() -> Rows:
    return unit_rows(600, 1)


@pytest.fixture(scope="session")
def reference_rows() -> Rows:
    """300 rows, 40 of which are there twice, so that there are ties."""
    rows = unit_rows(260, 2)
    return np.concatenate([rows, rows[:40]])


@pytest.fixture(scope="session")
def query_rows() -> Rows:
    return unit_rows(30, 3)


@pytest.fixture(scope="session")
def trained_index(training_rows: Rows) -> Callable[..., Any]:
    """``trained_index("OPQ4_8,PQ4x4", "L2")``: a FAISS index of one's own; trained once per session."""

    @functools.cache
    def trained(idx_factory: str, metric: Metric) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return faiss.serialize_index(train_quantiser(training_rows, idx_factory, metric))

    return lambda idx_factory, metric="L2": faiss.deserialize_index(trained(idx_factory, metric))


@pytest.fixture
def make_index(trained_index: Callable[..., Any]) -> Callable[..., ReferenceIndex]:
    """``make_index("IVF8,PQ4x4", nprobe=2)``: trained, empty."""

    def make(idx_factory: str = "IVF8,PQ4x4", *, metric: Metric = "L2", **settings: Any) -> ReferenceIndex:
        index = trained_index(idx_factory, metric)
        return ReferenceIndex(index, idx_factory=idx_factory, metric=metric, **settings)

    return make


@pytest.fixture
def make_shard(make_index: Callable[..., ReferenceIndex]) -> Callable[..., ShardedIndex]:
    """``make_shard(batches, "Flat", rank=0, ranks=2, gather=gather)``: with the rows that `fill` gives a rank."""

    def make(
        batches: Sequence[Batch], *args: Any, rank: int, ranks: int, gather: Gather, **settings: Any
    ) -> ShardedIndex:
        share, owners = make_index(*args, **settings), Owners()
        for batch in share_of(batches, rank, ranks):
            share.add(*batch)
        for batch in batches:
            owners = owners.extended(len(batch.names), batch.counts)
        return ShardedIndex(share, rank=rank, ranks=ranks, gather=gather, owners=owners)

    return make


@pytest.fixture
def filled_index(
    make_index: Callable[..., ReferenceIndex], reference_rows: Rows
) -> Callable[..., ReferenceIndex]:
    """``filled_index("IVF8,PQ4x4", nprobe=2)``: with the 300 rows, named R0, R1, …"""

    def make(idx_factory: str = "IVF8,PQ4x4", **settings: Any) -> ReferenceIndex:
        index = make_index(idx_factory, **settings)
        index.add(reference_rows, [f"R{i}" for i in range(len(reference_rows))])
        return index

    return make
