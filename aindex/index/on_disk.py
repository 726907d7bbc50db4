"""Inverted lists that stay on the disk: for indexes larger than memory."""

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np

from aindex.data.atomic import lock_of
from aindex.errors import FaissIndexError, OutputError
from aindex.index import folder as folders
from aindex.index.backend import FaissIndex, Ids, faiss_errors, import_faiss
from aindex.index.description import NamedExtractor
from aindex.index.lists import entries_without, put_lists, replace_lists
from aindex.index.names import RowNames
from aindex.index.owners import Owners
from aindex.index.reference_index import ReferenceIndex, row_files
from aindex.index.rows import Batch, as_rows, check_names, own_blocks
from aindex.index.structure import clone_of, take_apart

PART_ROWS = 1_000_000
"""Rows that are in memory at a time, as codes."""

_WORK = ".building-"
# others keep codes in another form, or more beside them
_MAPPED = {"IndexIVFFlat", "IndexIVFPQ", "IndexIVFScalarQuantizer", "IndexIVFResidualQuantizer"}
_REMEDY = "make room, then run again"


def build_on_disk(
    trained: ReferenceIndex, batches: Iterable[Batch], folder: Path | str, *, overwrite: bool = False
) -> ReferenceIndex:
    """An index folder whose inverted lists are never in memory as a whole, neither now nor when it is searched.

    Args:
        trained: a trained, empty index with coarse cells.
        batches: pictures in the order of their ids; files mapped into memory are read in blocks.
        folder: as for :meth:`ReferenceIndex.save`.
        overwrite: replace another index that is there.

    Returns:
        The index, opened from the folder.

    Raises:
        FaissIndexError: the factory has no such form.
        DescriptorError: wrong dimension, NaN, or another number of names.
        OutputError: the folder cannot be written, lacks room, or holds other things.
    """
    if trained.ntotal:
        raise FaissIndexError(f"{trained.ntotal} rows in the trained index: expected an empty one")
    if take_apart(trained.faiss_index).kind not in _MAPPED:
        raise FaissIndexError(
            f"idx_factory {trained.idx_factory!r} cannot keep its inverted lists on the disk: take IVF<cells>,PQ…, "
            "IVF<cells>,SQ… or IVF<cells>,Flat"
        )
    return _build(trained, None, batches, Path(folder), expected=None, overwrite=overwrite)


def extend_on_disk(
    folder: Path | str,
    batches: Iterable[Batch],
    extractor: NamedExtractor | None = None,
    *,
    into: Path | None = None,
) -> ReferenceIndex:
    """Append rows to a folder that :func:`build_on_disk` wrote; needs room for the old lists and the new ones.

    Args:
        folder, batches: as for :func:`build_on_disk`.
        extractor: the one in use.
        into: another folder for the result; the old index then stays as it is.

    Raises:
        FaissIndexError, ExtractorError: the folder holds no such index.
        DescriptorError, OutputError: as :func:`build_on_disk`.
    """
    base = ReferenceIndex.open(folder, extractor, verify=False)
    if not base.is_on_disk:
        raise FaissIndexError(
            f"index {str(folder)!r} has no lists on the disk: add to it with ReferenceIndex.add"
        )
    expected = base.yaml_hash if into is None else None
    return _build(
        base.empty_copy(), base, batches, into or Path(folder), expected=expected, overwrite=into is not None
    )


def remove_on_disk(folder: Path | str, pictures: Ids) -> ReferenceIndex:
    """Take pictures out of a folder that :func:`build_on_disk` wrote; a crash leaves the old index or the new one.

    Needs room for the new lists beside the old ones; errors as of :func:`extend_on_disk`.

    Args:
        folder: of the index.
        pictures: their ids.
    """
    folder = Path(folder)
    base = ReferenceIndex.open(folder, verify=False)
    pictures = np.unique(np.asarray(pictures, np.int64))
    removed = np.concatenate([np.empty(0, np.int64), *base.owners.rows_of(pictures)])
    trained = base.empty_copy()
    with _work_folder(folder) as work:
        lists = _new_lists(trained.faiss_index, base.ntotal - len(removed), work)
        with faiss_errors("the inverted lists cannot be written", _REMEDY):
            kept = entries_without(take_apart(base.faiss_index).ivf, removed)
            replace_lists(trained.faiss_index, kept, lists)
        names, owners = base.names.without(pictures), base.owners.without(pictures)
        _write(folder, trained, base, names, owners, lists, expected=base.yaml_hash)
    return ReferenceIndex.open(folder, verify=False)


def _build(
    trained: ReferenceIndex,
    base: ReferenceIndex | None,
    batches: Iterable[Batch],
    folder: Path,
    *,
    expected: str | None,
    overwrite: bool,
) -> ReferenceIndex:
    names = RowNames(b"" if base is None else base.names.to_bytes())
    owners = Owners() if base is None else base.owners

    def noted() -> Iterator[Batch]:
        nonlocal owners
        for batch in batches:
            check_names(batch.names, len(batch.descriptors), batch.counts)
            owners = owners.extended(len(batch.names), batch.counts)
            names.extend(batch.names)
            yield batch

    with _work_folder(folder) as work:
        parts = [] if base is None else [base.faiss_index]
        faiss = import_faiss()
        for path in _write_parts(trained, noted(), owners.rows, work):
            parts.append(faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY))
        lists = _merge(trained.faiss_index, parts, work)
        _write(folder, trained, base, names, owners, lists, expected=expected, overwrite=overwrite)
    return ReferenceIndex.open(folder, verify=False)


def _write(
    folder: Path,
    trained: ReferenceIndex,
    base: ReferenceIndex | None,
    names: RowNames,
    owners: Owners,
    lists: FaissIndex,
    *,
    expected: str | None,
    overwrite: bool = False,
) -> None:
    """The folder of an index whose lists lie in a file; base is what it was before."""
    Path(lists.filename).touch()  # FAISS makes no file for lists without rows
    if base is not None:
        trained.calibration = base.calibration
    folders.write_files(
        folder,
        trained.describe(),
        {"index": partial(folders.write_index, trained.faiss_index), **row_files(names, owners)},
        ready={"lists": Path(lists.filename)},
        expected=expected,
        overwrite=overwrite,
    )


def _write_parts(trained: ReferenceIndex, batches: Iterable[Batch], first: int, work: Path) -> Iterator[Path]:
    """Encode the rows, under their final ids from `first` on, and write a file whenever there are PART_ROWS."""
    part, number = clone_of(trained.faiss_index), 0
    for descriptors, _, _ in batches:
        for begin, end in own_blocks(first, len(descriptors)):
            rows = as_rows(descriptors[begin:end], trained.dim, f"the descriptors to add, from row {begin}")
            # FAISS's merge can also shift ids, but shifts by a wrong number from the third part on (1.15.1).
            part.add_with_ids(rows, np.arange(first, first + len(rows), dtype=np.int64))
            first += len(rows)
            if part.ntotal >= PART_ROWS:
                yield _write_part(part, work / f"{number}.faiss")
                part, number = clone_of(trained.faiss_index), number + 1
    if part.ntotal:
        yield _write_part(part, work / f"{number}.faiss")


def _write_part(part: FaissIndex, path: Path) -> Path:
    with open(path, "wb") as file:
        folders.write_index(part, file.write)
    return path


def _merge(target: FaissIndex, parts: Sequence[FaissIndex], work: Path) -> FaissIndex:
    """Put the rows of all parts into lists in one file, and these into the empty target."""
    rows = sum(part.ntotal for part in parts)
    lists = _new_lists(target, rows, work)
    faiss = import_faiss()
    sources = faiss.InvertedListsPtrVector()
    for part in parts:
        sources.push_back(faiss.extract_index_ivf(part).invlists)
    if rows:
        with faiss_errors("the inverted lists cannot be merged", _REMEDY):
            lists.merge_from_multiple(sources.data(), sources.size(), False)
    put_lists(target, lists, rows)
    return lists


def _new_lists(index: FaissIndex, rows: int, work: Path) -> FaissIndex:
    """Empty lists in a file, for so many rows of an index."""
    ivf: FaissIndex = take_apart(index).ivf
    needed = rows * (ivf.code_size + 8)
    # The lists are written through a memory map: running out of room would kill the process.
    free = shutil.disk_usage(work).free
    if needed > free:
        raise OutputError(
            f"{needed} bytes of inverted lists do not fit on the disk of {str(work.parent)!r} ({free} free)"
        )
    path = work / f"lists.{secrets.token_hex(6)}.ivfdata"
    return import_faiss().OnDiskInvertedLists(ivf.nlist, ivf.code_size, str(path))


@contextmanager
def _work_folder(folder: Path) -> Iterator[Path]:
    """A folder inside for what is not finished, on the same disk; those of builds that were killed are removed."""
    new = not folder.exists()
    work = folder / f"{_WORK}{secrets.token_hex(6)}"
    lock = None
    try:
        with folders.output_errors(folder):
            work.mkdir()
            lock = lock_of(work, wait=False)
            for other in folder.glob(f"{_WORK}*"):
                abandoned = None if other == work else lock_of(other, wait=False)
                if abandoned is not None:
                    shutil.rmtree(other, ignore_errors=True)
                    os.close(abandoned)
            yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if lock is not None:
            os.close(lock)
        if new:
            # Only an empty one can be removed: one in which nothing was finished.
            with suppress(OSError):
                folder.rmdir()
