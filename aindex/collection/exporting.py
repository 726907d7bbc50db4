"""Give an index to other programs: as a FAISS file, as a Lance dataset; and see whether theirs is still the same."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from aindex.collection.adopting import NEAR_SHARE, read_quantiser, sample_of
from aindex.collection.equipment import index_folder
from aindex.data.atomic import replace_when_done
from aindex.descriptors.files import Matrix, read_descriptors
from aindex.descriptors.stored import FEATURES, read_extraction
from aindex.errors import ConfigError, DescriptorError, FaissIndexError, OutputError
from aindex.index.backend import FaissIndex, faiss_errors, import_faiss
from aindex.index.comparing import quantiser_difference
from aindex.index.folder import write_index
from aindex.index.lance_export import export_to_lance, index_arguments, trained_part
from aindex.index.lance_rows import unindexed_rows
from aindex.index.lists import list_entries, replace_lists
from aindex.index.originals import are_near
from aindex.index.reference_index import ReferenceIndex
from aindex.index.row_table import NAMES_FILE, import_pyarrow, row_table
from aindex.index.structure import empty_clone, take_apart

Form = Literal["faiss", "lance"]


def export_index(
    index: Path | str,
    to: Form,
    destination: Path | str,
    *,
    descriptors: Path | str | None = None,
    overwrite: bool = False,
) -> ReferenceIndex:
    """Write an index as a FAISS file or a Lance dataset: `export DIR --to faiss FILE`, `export DIR --to lance DATASET`.

    Args:
        index: the index folder; `shipped` is the one that comes with aindex. May stand without its option.
        to: `faiss`: a file that `faiss.read_index` reads, and names.parquet (id, name, and owner where a picture has
            several rows) beside it; `lance`: a dataset with the columns id, name and descriptor, indexed with the same
            centroids, codebook and codes. DESTINATION may stand behind it.
        destination: the file, or the folder of the dataset.
        descriptors: of all rows, for a dataset's column: a folder that `aindex extract` made, or a descriptor file in
            the order of the rows (default: the column is empty; searches need it not, rows that Lance trains anew do).
        overwrite: replace what is there.

    Returns:
        The index.

    Raises:
        FaissIndexError: no such index, none that Lance knows, or Lance is not installed.
        DescriptorError: descriptors of other rows.
        OutputError: something is there, or it cannot be written.
    """
    destination = Path(destination).expanduser()
    if to == "faiss" and descriptors is not None:
        raise ConfigError("descriptors with a FAISS file: it holds codes alone; leave descriptors out")
    opened = ReferenceIndex.open(index_folder(index))
    if to == "faiss":
        _write_faiss(opened, destination, overwrite=overwrite)
        return opened
    rows = None if descriptors is None else _descriptors(Path(descriptors).expanduser(), opened)
    export_to_lance(opened, destination, descriptors=rows, overwrite=overwrite)
    return opened


def lance_arguments(index: Path | str) -> dict[str, Any]:
    """Arguments of Lance's `create_index` and `create_index_uncommitted` for an index with this very quantiser.

    Args:
        index: the index folder, with or without rows.

    Raises:
        FaissIndexError: no such index, or none that Lance knows.
    """
    return index_arguments(trained_part(ReferenceIndex.open(index_folder(index), read_only=True).faiss_index))


def check_against(source: Path | str, against: Path | str, *, column: str | None = None) -> str:
    """See that an engine's index still is the one that pictures were activated against: that it has its quantiser.

    Args:
        source: what `aindex index adopt` takes. May stand without its option.
        against: the index folder.
        column: column of the descriptors, where a dataset has several indexes.

    Returns:
        A line that says so.

    Raises:
        FaissIndexError: it has another one.
    """
    foreign, dataset = read_quantiser(str(source), column)
    if dataset is None and column is not None:
        raise ConfigError(f"column with {str(source)!r}: it is for Lance datasets; leave it out")
    mine = ReferenceIndex.open(index_folder(against), read_only=True)
    difference = quantiser_difference(foreign.index, mine.faiss_index)
    if difference is not None:
        raise FaissIndexError(
            f"{str(source)!r} has another quantiser than {str(against)!r} ({difference}): pictures that were activated "
            "against that are no longer at the centre of what the engine stores; create its index again with the "
            "centroids and codebook of an export, or adopt it anew and activate again"
        )
    waiting = 0 if dataset is None else unindexed_rows(dataset)
    later = (
        f"; {waiting} rows wait for the index and are compared exactly until "
        "dataset.optimize.optimize_indices(num_indices_to_merge=1)"
        if waiting
        else ""
    )
    return f"{source}: the quantiser of {against} ({mine.idx_factory}){later}"


def _write_faiss(index: ReferenceIndex, destination: Path, *, overwrite: bool) -> None:
    import_pyarrow()
    names = destination.with_name(NAMES_FILE)
    there = next((path for path in (destination, names) if path.exists()), None)
    if there is not None and (not overwrite or there.is_dir()):
        raise OutputError(f"{str(there)!r} exists already: give another file, or say overwrite")
    whole = _in_memory(index.faiss_index)
    faiss = import_faiss()
    with replace_when_done(names) as names_file, replace_when_done(destination) as index_file:
        row_table(index.names, index.owners).to_parquet(names_file, index=False)
        with open(index_file, "wb") as file:
            write_index(whole, file.write)
        with faiss_errors(f"{str(destination)!r} cannot be read back", "report the factory string"):
            faiss.read_index(str(index_file), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)


def _in_memory(index: FaissIndex) -> FaissIndex:
    """The same index with its lists in memory: those on the disk are written as the name of a file."""
    faiss, ivf = import_faiss(), take_apart(index).ivf
    if ivf is None or not isinstance(faiss.downcast_InvertedLists(ivf.invlists), faiss.OnDiskInvertedLists):
        return index
    clone = empty_clone(index)
    replace_lists(clone, list_entries(ivf))
    return clone


def _descriptors(path: Path, index: ReferenceIndex) -> Matrix:
    """The descriptors of all rows, in their order; a DescriptorError if some are missing, or they are others'."""
    if (path / FEATURES).is_file():
        matrix, names = read_extraction(path)
        position = {name: row for row, name in enumerate(names)}
        rows = row_table(index.names, index.owners)["name"].tolist()
        missing = next((name for name in rows if name not in position), None)
        if missing is not None:
            raise DescriptorError(
                f"{str(path)!r} has no descriptor of row {missing!r}: expected one for each of the {index.ntotal} rows"
            )
        if names != rows:
            matrix = matrix[[position[name] for name in rows]]
    else:
        matrix = read_descriptors(path, dim=index.dim)
    if matrix.shape != (index.ntotal, index.dim):
        raise DescriptorError(
            f"{str(path)!r} holds {len(matrix)} descriptors of dimension {matrix.shape[1]}: expected one for each of "
            f"the {index.ntotal} rows, of dimension {index.dim}"
        )
    some = sample_of(np.arange(index.ntotal, dtype=np.int64))
    near = int(are_near(index, np.array(matrix[some]), some).sum())
    if near < NEAR_SHARE * len(some):
        raise DescriptorError(
            f"{str(path)!r}: {near} of {len(some)} descriptors lie near the rows of the same number: expected those of "
            "the rows, in their order"
        )
    return matrix
