"""An index as a Lance dataset: the same centroids, codebook, cells and codes, so that Lance finds what aindex finds."""

import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from aindex.descriptors.files import Matrix
from aindex.errors import DescriptorError, FaissIndexError, OutputError
from aindex.index.backend import FaissIndex, Rows, faiss_errors, import_faiss
from aindex.index.lance_dataset import (
    LanceMetric,
    TrainedPart,
    import_lance,
    lance_errors,
    open_index,
)
from aindex.index.lance_rows import entries_of, row_addresses
from aindex.index.lists import Cells, Codes, cells_and_codes
from aindex.index.reference_index import ReferenceIndex
from aindex.index.row_table import printable_name
from aindex.index.rows import as_rows
from aindex.index.structure import take_apart

COLUMN, INDEX_NAME = "descriptor", "descriptor_idx"
_BLOCK_ROWS = 65_536
_ROWS_PER_FILE = 1_000_000
"""Rows of a fragment, the unit that workers index."""

_REMEDY = "make room, then run again"


def trained_part(index: FaissIndex) -> TrainedPart:
    """What Lance needs of a FAISS index.

    Raises:
        FaissIndexError: Lance has no index that stores the same.
    """
    faiss, parts = import_faiss(), take_apart(index)
    core, nothing = parts.core, "a Lance index cannot store what this index stores"
    if parts.kind not in ("IndexIVFPQ", "IndexIVFFlat"):
        raise FaissIndexError(
            f"{nothing} ({parts.kind}): expected IVF<cells>,PQ<M>x8, PQ<M>x4 or Flat; export to faiss"
        )
    if parts.transforms or parts.refine is not None:
        raise FaissIndexError(f"{nothing}: Lance has no transforms and no second index; export to faiss")
    coarse = parts.flat_coarse
    if coarse is None or coarse.metric_type != core.metric_type:
        raise FaissIndexError(
            f"{nothing}: it finds its cells by {type(parts.coarse).__name__}, Lance by comparing with all; export to "
            "faiss"
        )
    metric: LanceMetric = "dot" if core.metric_type == faiss.METRIC_INNER_PRODUCT else "l2"
    centroids = coarse.reconstruct_n(0, coarse.ntotal)
    if parts.is_lossless:
        return TrainedPart("IVF_FLAT", metric, centroids, None)
    pq = core.pq
    if core.by_residual != (metric == "l2"):
        has, wants = ("residuals", "descriptors") if core.by_residual else ("descriptors", "residuals")
        raise FaissIndexError(
            f"{nothing}: with Lance's metric {metric} the codes are those of {wants}, here of {has}; train with quant "
            "L2, or export to faiss"
        )
    if pq.nbits not in (4, 8) or (pq.nbits == 4 and pq.M % 2):
        raise FaissIndexError(
            f"{nothing}: PQ{pq.M}x{pq.nbits}, expected PQ<M>x8, or x4 with an even M; export to faiss"
        )
    codebook = faiss.vector_to_array(pq.centroids).reshape(pq.M, pq.ksub, pq.dsub)
    return TrainedPart("IVF_PQ", metric, centroids, codebook)


def index_arguments(trained: TrainedPart) -> dict[str, Any]:
    """Arguments of Lance's `create_index` that make an index with this very quantiser, for any dataset."""
    arguments: dict[str, Any] = {
        "index_type": trained.kind,
        "metric": trained.metric,
        "num_partitions": len(trained.centroids),
        "ivf_centroids": trained.centroids,
    }
    if trained.codebook is not None:
        parts, points, _ = trained.codebook.shape
        bits = points.bit_length() - 1
        arguments |= {"num_sub_vectors": parts, "num_bits": bits, "pq_codebook": trained.codebook}
    return arguments


def export_to_lance(
    index: ReferenceIndex, destination: Path, *, descriptors: Matrix | None = None, overwrite: bool = False
) -> None:
    """Write an index as a Lance dataset with the columns id, name and descriptor; it appears whole or not at all.

    The codes are those of the index, not made anew: Lance indexes what they decode to, in the cells where they lie.
    While it does, the decoded rows lie on the disk (4·d bytes each).

    Args:
        index: with rows.
        destination: folder of the dataset.
        descriptors: of all rows, n×d, for the column; None leaves it null, which Lance's searches do not mind.
        overwrite: replace a dataset that is there.

    Raises:
        FaissIndexError: Lance is not installed or has no such index; the index has no rows.
        DescriptorError: another number of descriptors, or another dimension.
        OutputError: something is there, or the folder cannot be written.
    """
    import_lance()
    trained_part(index.faiss_index)
    _check(index, destination, descriptors, overwrite=overwrite)
    ivf = take_apart(index.faiss_index).ivf
    cells, codes = cells_and_codes(ivf, index.ntotal)
    work = destination.absolute().with_name(f".{destination.name[:40]}.{secrets.token_hex(4)}.partial")
    try:
        work.mkdir(parents=True)
        with lance_errors(f"the dataset {str(destination)!r} cannot be written", _REMEDY):
            made = _write(work, index, cells, codes, descriptors)
        _check_codes(made, cells, codes)
        destination.parent.mkdir(parents=True, exist_ok=True)
        if destination.exists():
            destination.rename(work / "replaced.lance")
        made.rename(destination)
    except OSError as error:
        raise OutputError(
            f"the dataset {str(destination)!r} cannot be written: {error.strerror or error}; {_REMEDY}"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write(work: Path, index: ReferenceIndex, cells: Cells, codes: Codes, descriptors: Matrix | None) -> Path:
    """The dataset; its index is made over a dataset of the same rows, decoded, and then moved."""
    import pyarrow as pa

    def given(begin: int, end: int) -> Rows | None:
        return None if descriptors is None else as_rows(descriptors[begin:end], index.dim)

    def decoded(begin: int, end: int) -> Rows:
        return _decoded(index.faiss_index, cells[begin:end], codes[begin:end])

    lance = import_lance()
    made, source = work / "made.lance", work / "decoded.lance"
    dataset = _write_rows(made, index, given)
    decoded_dataset = _write_rows(source, index, decoded)
    addresses = decoded_dataset.to_table(columns=[], with_row_id=True)["_rowid"]
    partitions = pa.table({"row_id": addresses, "partition": pa.array(cells.astype(np.uint32))})
    lance.write_dataset(partitions, str(work / "cells.lance"))
    segment = decoded_dataset.create_index_uncommitted(
        COLUMN,
        name=INDEX_NAME,
        precomputed_partition_dataset=str(work / "cells.lance"),
        fragment_ids=[fragment.fragment_id for fragment in decoded_dataset.get_fragments()],
        **index_arguments(trained_part(index.faiss_index)),
    )
    folder = Path("_indices") / str(segment.uuid)
    (made / folder).parent.mkdir()
    (source / folder).rename(made / folder)
    dataset.commit_existing_index_segments(INDEX_NAME, COLUMN, [segment])
    return made


def _write_rows(path: Path, index: ReferenceIndex, vectors: Callable[[int, int], Rows | None]) -> Any:
    """A dataset with the columns id, name and descriptor: what `vectors` gives for the rows from one up to another."""
    import pyarrow as pa

    kind = pa.list_(pa.float32(), index.dim)
    schema = pa.schema([("id", pa.int64()), ("name", pa.string()), (COLUMN, kind)])

    def batches() -> Iterator[Any]:
        for begin in range(0, index.ntotal, _BLOCK_ROWS):
            end = min(index.ntotal, begin + _BLOCK_ROWS)
            rows = vectors(begin, end)
            values = (
                pa.nulls(end - begin, kind)
                if rows is None
                else pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), index.dim)
            )
            pictures = index.owners.of_rows(np.arange(begin, end))
            text = pa.array([printable_name(index.names[int(picture)]) for picture in pictures])
            yield pa.record_batch([pa.array(np.arange(begin, end)), text, values], schema=schema)

    return import_lance().write_dataset(batches(), str(path), schema=schema, max_rows_per_file=_ROWS_PER_FILE)


def _decoded(index: FaissIndex, cells: Cells, codes: Codes) -> Rows:
    """What codes stand for: n×d."""
    ivf: FaissIndex = take_apart(index).ivf
    width = ivf.coarse_code_size()
    numbers = cells.astype("<i8").view(np.uint8).reshape(-1, 8)[:, :width]
    with faiss_errors("the codes cannot be decoded", "export to faiss"):
        rows: Rows = ivf.sa_decode(np.ascontiguousarray(np.concatenate([numbers, codes], axis=1)))
    return rows


def _check(index: ReferenceIndex, destination: Path, descriptors: Matrix | None, *, overwrite: bool) -> None:
    if not index.ntotal:
        raise FaissIndexError("0 rows in the index: expected some; add references before exporting to lance")
    if descriptors is not None and descriptors.shape != (index.ntotal, index.dim):
        raise DescriptorError(
            f"descriptors of shape {descriptors.shape} for an index of {index.ntotal} rows of dimension {index.dim}: "
            "expected one per row, in the order of the rows"
        )
    if is_dataset(destination) and not overwrite:
        raise OutputError(
            f"{str(destination)!r} holds a dataset already: give another folder, or say overwrite"
        )
    if destination.exists() and not is_dataset(destination):
        raise OutputError(f"{str(destination)!r} holds something else already: give another folder")


def is_dataset(path: Path) -> bool:
    """Whether a folder looks like a Lance dataset."""
    return (path / "_versions").is_dir()


def _check_codes(made: Path, cells: Cells, codes: Codes) -> None:
    """Read the index back: what Lance made of decoded rows must be their codes."""
    found = open_index(str(made))
    addresses, _ = row_addresses(found)
    seen = 0
    for cell, ids, stored in entries_of(found, addresses):
        if (cells[ids] != cell).any() or not np.array_equal(codes[ids], stored):
            raise FaissIndexError(
                f"this release of pylance stores other codes in cell {cell} than FAISS: export to faiss, or install "
                "another release of pylance"
            )
        seen += len(ids)
    if seen != len(cells):
        raise FaissIndexError(
            f"this release of pylance indexed {seen} of {len(cells)} rows: install another release of pylance"
        )
