"""Indexes that others trained, as FAISS writes them: files, and the models of OpenSearch's k-NN plugin."""

import base64
import binascii
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aindex.errors import FaissIndexError
from aindex.index.backend import FaissIndex, Ids, faiss_errors, import_faiss
from aindex.index.factory import Metric
from aindex.index.lists import ListEntries, list_entries, list_ids, replace_lists
from aindex.index.quantiser import Quantiser
from aindex.index.structure import IndexParts, take_apart

_BINARY = b"IB"
"""How the files of FAISS's binary indexes begin."""


@dataclass(frozen=True)
class Foreign:
    """An index of others whose rows are numbered by their position, as aindex has it.

    Attributes:
        index: trained.
        ids: what each row was called in the source: n, by position.
        idx_factory: FAISS's factory string, or the class where there is none.
        file: the file that holds the very same index, mapped into memory; None where something was changed.
    """

    index: FaissIndex
    ids: Ids
    idx_factory: str
    metric: Metric
    nprobe: int
    file: Path | None = None


def read_faiss_file(path: Path) -> Foreign:
    """The index of a FAISS file; inverted lists stay in the file, mapped into memory, if nothing must be changed.

    Raises:
        FaissIndexError: no such file; a truncated, newer or foreign one; a binary index; one that activation cannot
            aim at.
    """
    faiss = import_faiss()
    where = f"FAISS file {str(path)!r}"
    try:
        with open(path, "rb") as file:
            start = file.read(4)
    except OSError as error:
        raise FaissIndexError(
            f"{where} cannot be read: {error.strerror}; give the file that faiss.write_index wrote"
        ) from error
    if start.startswith(_BINARY):
        raise FaissIndexError(
            f"{where} holds a binary index: expected one of descriptors of floating-point numbers; binary "
            "codes have no point that a picture could be drawn to"
        )
    with faiss_errors(
        f"{where} is no index that FAISS {faiss.__version__} reads",
        "give a whole file, or update faiss if a newer one wrote it",
    ):
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    return _with_positions(index, where, path)


def read_opensearch_model(path: Path) -> Foreign:
    """The quantiser of a model of OpenSearch's k-NN plugin, as its models API gives it; it has no rows.

    Args:
        path: a JSON file: the answer of `GET _plugins/_knn/models/<id>`, or a document of the model index.

    Raises:
        FaissIndexError: no JSON, no finished model of engine faiss in it, or a blob that is no FAISS index.
    """
    where = f"model file {str(path)!r}"
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise FaissIndexError(
            f"{where} cannot be read: {error.strerror}; give the JSON of a model"
        ) from error
    except (ValueError, RecursionError) as error:
        raise FaissIndexError(f"{where} is no JSON: give the answer of OpenSearch's models API") from error
    model = content.get("_source", content) if isinstance(content, dict) else {}
    blob = model.get("model_blob") if isinstance(model, dict) else None
    if not isinstance(blob, str) or not blob:
        raise FaissIndexError(
            f"{where} holds no model_blob: expected the answer of GET _plugins/_knn/models/<id> for a "
            "model in the state created"
        )
    if model.get("engine", "faiss") != "faiss":
        raise FaissIndexError(
            f"{where} is a model of engine {model['engine']!r:.40}: expected faiss, whose models are trained"
        )
    try:
        data = np.frombuffer(base64.b64decode(blob, validate=True), np.uint8)
    except (binascii.Error, ValueError) as error:
        raise FaissIndexError(f"{where}: its model_blob is no whole base64; fetch the model again") from error
    with faiss_errors(f"{where}: its model_blob is no FAISS index", "fetch the model again"):
        index = import_faiss().deserialize_index(data)
    found = _with_positions(index, where, None)
    if model.get("dimension", found.index.d) != found.index.d:
        raise FaissIndexError(
            f"{where} says dimension {model['dimension']!r:.20}, its model_blob has {found.index.d}: fetch "
            "the model again"
        )
    return found


def check_aim(index: FaissIndex, where: str) -> None:
    """Raise a FaissIndexError if an index is not trained, stores whole descriptors, or codes that cannot be decoded."""
    quantiser, parts = Quantiser(index), take_apart(index)
    if quantiser.keeps_descriptors:
        kind = type(parts.graph or parts.core).__name__
        raise FaissIndexError(
            f"{where} keeps whole descriptors ({kind}): there is nothing to draw a picture to; expected "
            "cells or codes, such as IVF4096,PQ8x8"
        )
    quantiser.targets(np.ones((1, quantiser.dim), np.float32))


def _with_positions(root: FaissIndex, where: str, path: Path | None) -> Foreign:
    """Take ids of all kinds away: rows are numbered from 0 on afterwards."""
    index, id_map = _without_id_map(root)
    try:
        parts = take_apart(index)
        check_aim(index, where)
    except FaissIndexError as error:
        raise FaissIndexError(str(error) if where in str(error) else f"{where}: {error}") from error
    ids = np.arange(index.ntotal, dtype=np.int64)
    changed = id_map is not None
    if parts.ivf is not None:
        stored = list_ids(parts.ivf)
        ids = np.sort(stored)
        changed = changed or not np.array_equal(ids, np.arange(len(ids)))
        if changed:
            replace_lists(index, _renumbered(parts.ivf, stored))
    if id_map is not None:
        # the lists below counted the rows of the map
        ids = id_map[ids] if len(ids) else ids
    return Foreign(
        index,
        ids,
        _factory_string(parts),
        _metric(index, where),
        1 if parts.ivf is None else min(max(1, int(parts.ivf.nprobe)), int(parts.ivf.nlist)),
        None if changed else path,
    )


def _renumbered(ivf: FaissIndex, stored: Ids) -> Iterator[ListEntries]:
    """The entries under the positions of their ids in the order of all; equal ids get positions in turn."""
    positions = np.empty(len(stored), np.int64)
    positions[np.argsort(stored, kind="stable")] = np.arange(len(stored))
    begin = 0
    for cell, ids, codes in list_entries(ivf):
        yield ListEntries(cell, positions[begin : begin + len(ids)], codes)
        begin += len(ids)


def _without_id_map(root: FaissIndex) -> tuple[FaissIndex, Ids | None]:
    """The index below an IDMap, at the top or behind transforms, and the ids of its rows."""
    faiss = import_faiss()
    if isinstance(root, (faiss.IndexIDMap, faiss.IndexIDMap2)):
        inner = faiss.downcast_index(root.index)
        # what was wrapped belongs to its wrapper, which so must live as long
        inner.referenced_objects = [root]
        return inner, faiss.vector_to_array(root.id_map).copy()
    if isinstance(root, faiss.IndexPreTransform):
        inner, ids = _without_id_map(faiss.downcast_index(root.index))
        if ids is not None:
            rebuilt = faiss.IndexPreTransform(inner)
            for number in reversed(range(root.chain.size())):
                rebuilt.prepend_transform(root.chain.at(number))
            rebuilt.referenced_objects = [root, inner]
            return rebuilt, ids
    return root, None


def _factory_string(parts: IndexParts) -> str:
    """What FAISS's factory would have been told; a rotation has lost its kind in the file (OPQ, random)."""
    from faiss.contrib import factory_tools

    reverse: Any = factory_tools.reverse_index_factory
    names = {"PCAMatrix": "PCA", "NormalizationTransform": "L2norm"}
    chain = []
    for transform in parts.transforms:
        kind = type(transform).__name__
        width = "" if kind == "NormalizationTransform" else str(transform.d_out)
        chain.append(names.get(kind, kind) + width)
    try:
        return ",".join([*chain, str(reverse(parts.refine or parts.inner))])
    # there are more kinds than it knows
    except (NotImplementedError, KeyError, AttributeError):
        return ",".join([*chain, parts.kind])


def _metric(index: FaissIndex, where: str) -> Metric:
    faiss = import_faiss()
    metrics: dict[Any, Metric] = {faiss.METRIC_L2: "L2", faiss.METRIC_INNER_PRODUCT: "IP"}
    if index.metric_type not in metrics:
        raise FaissIndexError(
            f"{where} compares by FAISS's metric number {index.metric_type}: expected METRIC_L2 or METRIC_INNER_PRODUCT"
        )
    return metrics[index.metric_type]
