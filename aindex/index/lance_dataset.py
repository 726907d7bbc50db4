"""Lance datasets with a vector index: what is trained in them, and the FAISS index that stores the same."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from aindex.errors import FaissIndexError
from aindex.index.backend import FaissIndex, Rows, faiss_reason, import_extra, import_faiss
from aindex.index.factory import Metric, make_index
from aindex.index.structure import take_apart

# Lance ships no usable type information.
Dataset = Any
Kind = Literal["IVF_PQ", "IVF_FLAT"]
LanceMetric = Literal["l2", "cosine", "dot"]

_INDEX, _STORAGE = "index.idx", "auxiliary.idx"


@dataclass(frozen=True)
class TrainedPart:
    """The quantiser of a Lance index.

    Attributes:
        kind: IVF_PQ or IVF_FLAT.
        metric: `l2`; `cosine`, which is l2 of normalised vectors; `dot`.
        centroids: cells×d.
        codebook: M×K×(d/M); None for IVF_FLAT.
    """

    kind: Kind
    metric: LanceMetric
    centroids: Rows
    codebook: Rows | None

    @property
    def idx_factory(self) -> str:
        """FAISS's factory string of an index that stores the same."""
        cells = f"IVF{len(self.centroids)}"
        front = "L2norm," if self.metric == "cosine" else ""
        if self.codebook is None:
            return f"{front}{cells},Flat"
        return f"{front}{cells},PQ{len(self.codebook)}x{self.codebook.shape[1].bit_length() - 1}"

    @property
    def faiss_metric(self) -> Metric:
        """FAISS's metric."""
        return "IP" if self.metric == "dot" else "L2"


@dataclass(frozen=True)
class LanceIndex:
    """A vector index of an open dataset: its name, the column that it indexes, and its quantiser."""

    dataset: Dataset
    name: str
    column: str
    trained: TrainedPart


def import_lance() -> Any:
    """The module ``lance``; a FaissIndexError where it is not installed."""
    # it is told once, when it is loaded: empty cells are no news
    os.environ.setdefault("LANCE_LOG", "error")
    return import_extra("lance", "'aindex[lance]'")


@contextmanager
def lance_errors(what: str, remedy: str) -> Iterator[None]:
    """Turn what Lance throws into one line, without its source positions."""
    try:
        yield
    except FaissIndexError:
        raise
    except BaseException as error:
        # ValueError, OSError, RuntimeError, KeyError, Arrow's own, and what Rust panics with, which is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = faiss_reason(error).split(", /")[0]
        raise FaissIndexError(f"{what}: Lance says {reason!r}; {remedy}") from error


def open_index(uri: str, column: str | None = None) -> LanceIndex:
    """The vector index of a dataset.

    Args:
        uri: of the dataset, wherever Lance can read one.
        column: the index's, where there are several.

    Raises:
        FaissIndexError: no Lance, no dataset, no index or another kind, or segments that were trained apart.
    """
    lance = import_lance()
    with lance_errors(f"{uri!r} is no Lance dataset that can be read", "give the folder or URI of one"):
        dataset = lance.dataset(uri)
    found = _choose(dataset, uri, column)
    where = f"index {found.name!r} of {uri!r}"
    segments = [str(segment.uuid) for segment in found.segments]
    with lance_errors(f"{where} cannot be read", "build it again with this release of pylance"):
        described = _storage(dataset, segments[0])
        centroids = float_rows(dataset.get_ivf_model(found.name).centroids, where)
        has_codes = found.index_type == "IVF_PQ"
        books = [_codebook(dataset, uuid, where) for uuid in segments] if has_codes else []
        same = all(centroids.tobytes() in _index_bytes(dataset, uuid) for uuid in segments)
    metric = described["distance_type"]
    if metric not in get_args(LanceMetric):
        raise FaissIndexError(
            f"{where} compares by {metric!r}: expected {', '.join(get_args(LanceMetric))}; create it with metric='l2'"
        )
    if not same or len({book.tobytes() for book in books}) > 1:
        raise FaissIndexError(
            f"{where} has {len(segments)} segments that were trained apart: there is no one quantiser to "
            "aim at; create it anew with the same ivf_centroids and pq_codebook for all"
        )
    trained = TrainedPart(found.index_type, metric, centroids, books[0] if books else None)
    return LanceIndex(dataset, str(found.name), found.field_names[0], trained)


def empty_faiss_index(trained: TrainedPart) -> FaissIndex:
    """A FAISS index without rows that stores what the Lance index stores; a FaissIndexError where FAISS has none."""
    faiss = import_faiss()
    index = make_index(trained.centroids.shape[1], trained.idx_factory, trained.faiss_metric)
    ivf: FaissIndex = take_apart(index).ivf
    faiss.downcast_index(ivf.quantizer).add(trained.centroids)
    if trained.codebook is not None:
        faiss.copy_array_to_vector(np.ascontiguousarray(trained.codebook).ravel(), ivf.pq.centroids)
        # for inner products Lance encodes the vectors themselves
        ivf.by_residual = trained.metric != "dot"
    index.is_trained = ivf.is_trained = True
    if trained.codebook is not None and ivf.by_residual:
        ivf.precompute_table()
    return index


def _choose(dataset: Dataset, uri: str, column: str | None) -> Any:
    with lance_errors(f"the indexes of {uri!r} cannot be read", "see whether its files are whole"):
        indexes = dataset.describe_indices()
        kinds = sorted({str(one.index_type) for one in indexes})
        fitting = [
            one for one in indexes if one.index_type in get_args(Kind) and column in (None, *one.field_names)
        ]
    if not fitting:
        held = f"an index of the kind {', '.join(kinds)}" if kinds else "no index"
        over = "" if column is None else f" over {column!r}"
        raise FaissIndexError(
            f"{uri!r} has {held}{over}: expected {' or '.join(get_args(Kind))}, made with dataset.create_index; "
            "only those have cells and codes that a picture can be drawn to"
        )
    if len(fitting) > 1:
        columns = sorted({name for one in fitting for name in one.field_names})
        raise FaissIndexError(
            f"{uri!r} has {len(fitting)} vector indexes, over {', '.join(columns)}: expected one; give column"
        )
    return fitting[0]


def _reader(dataset: Dataset, uuid: str, file: str) -> Any:
    from lance.file import LanceFileReader

    return LanceFileReader(f"{dataset.uri.rstrip('/')}/_indices/{uuid}/{file}")


def _storage(dataset: Dataset, uuid: str) -> dict[str, Any]:
    """What the file of codes says of itself."""
    metadata = _reader(dataset, uuid, _STORAGE).metadata().schema.metadata
    stored: dict[str, Any] = {}
    for text in json.loads(metadata.get(b"storage_metadata", b"[]")):
        stored.update(json.loads(text))
    return {**stored, "distance_type": metadata[b"distance_type"].decode()}


def _index_bytes(dataset: Dataset, uuid: str) -> bytes:
    """The message that holds a segment's centroids."""
    reader = _reader(dataset, uuid, _INDEX)
    message: bytes = reader.read_global_buffer(int(reader.metadata().schema.metadata[b"lance:ivf"]))
    return message


def _codebook(dataset: Dataset, uuid: str, where: str) -> Rows:
    """pylance hands out the centroids, not the codebook: that lies in the file of codes, behind a short header."""
    stored = _storage(dataset, uuid)
    parts, dim, points = stored["num_sub_vectors"], stored["dimension"], 2 ** stored["nbits"]
    data = _reader(dataset, uuid, _STORAGE).read_global_buffer(stored["codebook_position"])
    header = _tensor_header([points, dim], 4 * points * dim)
    if data[: len(header)] != header or len(data) != len(header) + 4 * points * dim:
        raise FaissIndexError(
            f"{where} keeps its codebook in another form than float32 of {points}×{dim}: expected a column of float32, "
            "indexed by a known release of pylance (14)"
        )
    return np.frombuffer(data, np.float32, offset=len(header)).reshape(parts, points, dim // parts).copy()


def _tensor_header(shape: list[int], size: int) -> bytes:
    """The protobuf message of a float32 tensor up to its data: type 2, shape, and the length of the data."""
    packed = b"".join(_varint(number) for number in shape)
    return b"\x08\x02\x12" + _varint(len(packed)) + packed + b"\x1a" + _varint(size)


def _varint(number: int) -> bytes:
    digits = []
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])


def float_rows(array: Any, where: str) -> Rows:
    """An Arrow array of vectors as n×d."""
    if str(array.type.value_type) != "float":
        raise FaissIndexError(f"{where} holds {array.type.value_type} vectors: expected float32")
    rows: Rows = np.asarray(array.flatten(), np.float32).reshape(len(array), array.type.list_size)
    return rows
