"""Inverted lists that stay on the disk: for indexes larger than memory."""

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from aindex.data.atomic import lock_of
from aindex.errors import FaissIndexError, OutputError
from aindex.index import folder as folders
from aindex.index.backend import FaissIndex, Ids, faiss_errors, import_faiss
from aindex.index.description import ExtractorIdentity, NamedExtractor
from aindex.index.names import RowNames
from aindex.index.owners import Owners, check_counts
from aindex.index.reference_index import ReferenceIndex, row_writers
from aindex.index.removal import copy_without
from aindex.index.rows import Batch, aligned_blocks, as_rows, check_names
from aindex.index.structure import clone_of, take_apart

Batches = Iterable[Batch]

PART_ROWS = 1_000_000
_WORK = ".building-"


def build_on_disk(
    trained: ReferenceIndex,
    batches: Batches,
    folder: Path | str,
    *,
    part_rows: int = PART_ROWS,
    overwrite: bool = False,
) -> ReferenceIndex:
    """An index folder whose inverted lists are never in memory as a whole, neither now nor when it is searched.

    Args:
        trained: a trained, empty index with coarse cells.
        batches: pictures in the order of their ids; files mapped into memory are read in blocks.
        folder: as for :meth:`ReferenceIndex.save`.
        part_rows: rows that are in memory at a time, as codes.
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
    if not take_apart(trained.faiss_index).lists_can_be_mapped or trained.faiss_index.is_trained is False:
        raise FaissIndexError(
            f"idx_factory {trained.idx_factory!r} cannot keep its inverted lists on the disk: take IVF<cells>,PQ…, "
            "IVF<cells>,SQ… or IVF<cells>,Flat"
        )
    return _build(
        trained, None, batches, Path(folder), part_rows=part_rows, expected=None, overwrite=overwrite
    )


def extend_on_disk(
    folder: Path | str,
    batches: Batches,
    extractor: NamedExtractor | ExtractorIdentity | None = None,
    *,
    part_rows: int = PART_ROWS,
    into: Path | None = None,
) -> ReferenceIndex:
    """Append rows to a folder that :func:`build_on_disk` wrote; needs room for the old lists and the new ones.

    Args:
        folder: of the index.
        batches: as for :func:`build_on_disk`.
        extractor: the one in use.
        part_rows: rows that are in memory at a time, as codes.
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
    return _build(
        base.empty_copy(),
        base,
        batches,
        Path(folder) if into is None else into,
        part_rows=part_rows,
        expected=base.yaml_hash if into is None else None,
        overwrite=into is not None,
    )


def remove_on_disk(
    folder: Path | str, pictures: Ids, extractor: NamedExtractor | ExtractorIdentity | None = None
) -> ReferenceIndex:
    """Take pictures out of a folder that :func:`build_on_disk` wrote; a crash leaves the old index or the new one.

    Args:
        folder: of the index; needs room for the new lists beside the old ones.
        pictures: ids of pictures.
        extractor: the one in use.

    Raises:
        FaissIndexError, ExtractorError, OutputError: as :func:`extend_on_disk`.
    """
    folder = Path(folder)
    base = ReferenceIndex.open(folder, extractor, verify=False)
    state = folders.read_state(folder)
    pictures = np.unique(np.asarray(pictures, np.int64))
    removed = np.concatenate([np.empty(0, np.int64), *base.owners.rows_of(pictures)])
    trained, faiss = base.empty_copy(), import_faiss()
    ivf = faiss.extract_index_ivf(trained.faiss_index)
    rows = base.ntotal - len(removed)
    with _work_folder(folder) as work:
        path = work / f"lists.{secrets.token_hex(6)}.ivfdata"
        _check_room(work, rows * (ivf.code_size + 8))
        lists = faiss.OnDiskInvertedLists(ivf.nlist, ivf.code_size, str(path))
        with faiss_errors("the inverted lists cannot be written", "make room, then run again"):
            copy_without(faiss.extract_index_ivf(base.faiss_index).invlists, lists, removed)
        trained.faiss_index.ntotal = ivf.ntotal = rows
        ivf.replace_invlists(lists, True)
        lists.this.disown()
        trained.calibration = base.calibration
        names, owners = base.names.without(pictures), base.owners.without(pictures)
        folders.write_files(
            folder,
            trained.describe(),
            {"index": folders.index_writer(trained.faiss_index), **row_writers(names, owners)},
            ready={"lists": path},
            expected=state.yaml_hash,
        )
    return ReferenceIndex.open(folder, verify=False)


def _build(
    trained: ReferenceIndex,
    base: ReferenceIndex | None,
    batches: Batches,
    folder: Path,
    *,
    part_rows: int,
    expected: str | None,
    overwrite: bool,
) -> ReferenceIndex:
    names = RowNames(b"" if base is None else base.names.to_bytes())
    owners = Owners() if base is None else base.owners
    first = owners.rows

    def noted() -> Iterator[Batch]:
        nonlocal owners
        for some in batches:
            batch = Batch(*some)
            check_names(batch.names, len(batch.names if batch.counts else batch.descriptors))
            if batch.counts is not None:
                check_counts(batch.counts, len(batch.names), len(batch.descriptors))
            owners = owners.extended(len(batch.names), batch.counts)
            names.extend(batch.names)
            yield batch

    with _work_folder(folder) as work:
        parts = [] if base is None else [base.faiss_index]
        faiss = import_faiss()
        for path in _write_parts(trained, noted(), first, work, part_rows):
            parts.append(faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY))
        lists = _merge(trained.faiss_index, parts, work)
        if base is not None:
            trained.calibration = base.calibration
        folders.write_files(
            folder,
            trained.describe(),
            {"index": folders.index_writer(trained.faiss_index), **row_writers(names, owners)},
            ready={"lists": lists},
            expected=expected,
            overwrite=overwrite,
        )
    return ReferenceIndex.open(folder, verify=False)


def _write_parts(
    trained: ReferenceIndex, batches: Batches, first: int, work: Path, part_rows: int
) -> Iterator[Path]:
    """Encode the rows, under their final ids from `first` on, and write a file whenever there are ``part_rows``."""
    part, number = clone_of(trained.faiss_index), 0
    for descriptors, _, _ in batches:
        for begin, end in aligned_blocks(first, len(descriptors), part):
            rows = as_rows(descriptors[begin:end], trained.dim, f"the descriptors to add, from row {begin}")
            # FAISS's merge can also shift ids, but shifts by a wrong number from the third part on (1.15.1).
            part.add_with_ids(rows, np.arange(first, first + len(rows), dtype=np.int64))
            first += len(rows)
            if part.ntotal >= part_rows:
                yield _write_part(part, work / f"{number}.faiss")
                part, number = clone_of(trained.faiss_index), number + 1
    if part.ntotal:
        yield _write_part(part, work / f"{number}.faiss")


def _write_part(part: FaissIndex, path: Path) -> Path:
    with open(path, "wb") as file:
        folders.index_writer(part)(file.write)
    return path


def _merge(target: FaissIndex, parts: Sequence[FaissIndex], work: Path) -> Path:
    """Put the rows of all parts into one file of lists, and the empty target on top of it."""
    faiss = import_faiss()
    ivf = faiss.extract_index_ivf(target)
    rows = sum(part.ntotal for part in parts)
    _check_room(work, rows * (ivf.code_size + 8))
    path = work / f"lists.{secrets.token_hex(6)}.ivfdata"
    lists = faiss.OnDiskInvertedLists(ivf.nlist, ivf.code_size, str(path))
    sources = faiss.InvertedListsPtrVector()
    for part in parts:
        sources.push_back(faiss.extract_index_ivf(part).invlists)
    if rows:
        with faiss_errors("the inverted lists cannot be merged", "make room, then run again"):
            lists.merge_from_multiple(sources.data(), sources.size(), False)
    target.ntotal = ivf.ntotal = rows
    ivf.replace_invlists(lists, True)
    # The index owns them now.
    lists.this.disown()
    return path


def _check_room(work: Path, needed: int) -> None:
    # The lists are written through a memory map: running out of room would kill the process.
    free = shutil.disk_usage(work).free
    if needed > free:
        raise OutputError(
            f"{needed} bytes of inverted lists do not fit on the disk of {str(work.parent)!r} ({free} free)"
        )


@contextmanager
def _work_folder(folder: Path) -> Iterator[Path]:
    """A folder inside for what is not finished, on the same disk; those of builds that were killed are removed."""
    new = not folder.exists()
    work = folder / f"{_WORK}{secrets.token_hex(6)}"
    lock = None
    try:
        work.mkdir(parents=True)
        lock = lock_of(work, wait=False)
        for other in folder.glob(f"{_WORK}*"):
            if other != work:
                _remove_abandoned(other)
        yield work
    except OSError as error:
        raise OutputError(
            f"the index cannot be written to {str(folder)!r}: {error.strerror or error}; make room or give a "
            "writable folder, then run again"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if lock is not None:
            os.close(lock)
        if new:
            # Only an empty one can be removed: one in which nothing was finished.
            with suppress(OSError):
                folder.rmdir()


def _remove_abandoned(folder: Path) -> None:
    lock = lock_of(folder, wait=False)
    if lock is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
