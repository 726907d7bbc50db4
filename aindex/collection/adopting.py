"""Take over an index that others trained: a FAISS file, a Lance dataset, a model of OpenSearch."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aindex.collection.equipment import describing, loaded
from aindex.data.images import list_images, names_root
from aindex.descriptors.extraction import ExtractionSettings, extract
from aindex.descriptors.extractor import Extractor
from aindex.descriptors.files import Matrix
from aindex.descriptors.sources import describe
from aindex.descriptors.stored import FEATURES
from aindex.errors import ConfigError, DataError, ExtractorError, FaissIndexError
from aindex.index import folder as folders
from aindex.index.backend import Ids
from aindex.index.comparing import quantiser_difference
from aindex.index.filling import NumberedNames
from aindex.index.foreign import Foreign, check_aim, read_faiss_file, read_opensearch_model
from aindex.index.lance_dataset import LanceIndex, empty_faiss_index, lance_errors, open_index
from aindex.index.lance_rows import fill_from_lance, row_addresses, stored_descriptors
from aindex.index.names import RowNames
from aindex.index.originals import are_near, last_rows
from aindex.index.reference_index import ReferenceIndex, row_files
from aindex.index.row_table import names_by_id, pictures_of
from aindex.index.structure import empty_clone

_NO_IDS = np.empty(0, np.int64)
_SAMPLE = 64
NEAR_SHARE = 0.5
"""Share of a sample's rows that must be among the nearest of their pictures; of another extractor one in twenty is."""


@dataclass(frozen=True)
class Adopted:
    """An index that was taken over.

    Attributes:
        index: as it lies in the folder.
        sampled: pictures that were described and compared with their rows; 0 if none were given.
        near: how many of them lie near their rows.
        encoded: rows that the source had not put into its index, and that were encoded here.
    """

    index: ReferenceIndex
    sampled: int
    near: int
    encoded: int


def adopt_index(
    source: Path | str,
    output: Path | str,
    *,
    extractor: Extractor | Path | str,
    resize_size: int | None = None,
    names: Path | str | None = None,
    rows: bool = True,
    sample: Path | str | None = None,
    nprobe: int | None = None,
    column: str | None = None,
    name_column: str | None = None,
    settings: ExtractionSettings | None = None,
    overwrite: bool = False,
) -> Adopted:
    """Make an index folder of an index that others trained.

    Args:
        source: a FAISS file; a Lance dataset (folder or URI) with an IVF_PQ or IVF_FLAT index; a JSON file with the
            model_blob of OpenSearch's k-NN plugin. On the command line it may stand without its option:
            `aindex index adopt SOURCE …`.
        output: the folder to make; new or empty.
        extractor: name or path of what made the descriptors, see `aindex extract --help`, or one in use.
        resize_size: side of the extractor's square input, pixels (default: the extractor's own).
        names: names of the rows: a text file with one per line in the order of the ids, or a csv or Parquet file with
            the columns id and name, and owner where pictures have several rows (default: a dataset's column of names,
            else the ids).
        rows: take the rows as well; false takes what is trained alone.
        sample: a folder of indexed pictures, named as in the index, or what `aindex extract` made of them: see that
            they lie near their rows.
        nprobe: coarse cells visited per search (default: the source's, or 1).
        column: column of the descriptors, where a dataset has several indexes.
        name_column: column of the names in a dataset (default: name).
        settings: device, precision and batch size.
        overwrite: replace an index that is in output.

    Raises:
        FaissIndexError: the source is no such index, or none that activation can aim at.
        ExtractorError: another dimension, or rows that are far from their pictures.
        DataError: names are missing, or no picture of the sample has one.
        OutputError: the folder cannot be written, or holds other things.
    """
    output, settings = Path(output).expanduser(), settings or describing()
    used = loaded(extractor, resize_size, settings)
    names_file = None if names is None else Path(names).expanduser()
    foreign, row_names, encoded = _read(str(source), names_file, rows, column, name_column)
    if foreign.index.d != used.dim:
        raise ExtractorError(
            f"extractor {used.name!r} gives dimension {used.dim}, {str(source)!r} holds {foreign.index.d}: take the "
            "extractor that its descriptors were made with"
        )
    called = foreign.ids if len(foreign.ids) else np.arange(len(row_names))
    pictures, owners = pictures_of(row_names, names_file if rows else None, called)
    index = ReferenceIndex(
        foreign.index,
        idx_factory=foreign.idx_factory,
        metric=foreign.metric,
        nprobe=foreign.nprobe if nprobe is None else nprobe,
        extractor=used,
        names=pictures,
        owners=owners,
    )
    sampled, near = (0, 0) if sample is None else _compare(index, Path(sample).expanduser(), used, settings)
    _warn_if_others(output, index, overwrite=overwrite)
    _write(output, index, foreign.file, overwrite=overwrite)
    return Adopted(index, sampled, near, encoded)


def read_quantiser(source: str, column: str | None = None) -> tuple[Foreign, LanceIndex | None]:
    """What is trained in a source, with its rows if it is a FAISS file, and its Lance index if it is a dataset.

    Raises:
        FaissIndexError: no such source, or none that activation can aim at.
    """
    path = Path(source).expanduser()
    if path.is_dir() and (path / folders.YAML_NAME).is_file():
        raise FaissIndexError(
            f"{source!r} is an index folder of aindex already: give it as index, or to build as like"
        )
    if "://" in source or path.is_dir():
        found = open_index(source if "://" in source else str(path), column)
        trained = found.trained
        index = empty_faiss_index(trained)
        check_aim(index, f"dataset {source!r}")
        return Foreign(index, _NO_IDS, trained.idx_factory, trained.faiss_metric, 1), found
    if path.suffix.lower() == ".json":
        return read_opensearch_model(path), None
    return read_faiss_file(path), None


def _read(
    source: str, names: Path | None, rows: bool, column: str | None, name_column: str | None
) -> tuple[Foreign, RowNames, int]:
    """The index with its rows, their names, and how many of them were encoded here."""
    foreign, dataset = read_quantiser(source, column)
    if dataset is None and (column is not None or name_column is not None):
        raise ConfigError(
            f"column and name_column with {source!r}: they are for Lance datasets; leave them out"
        )
    if not rows:
        index = foreign.index if dataset is not None else empty_clone(foreign.index)
        return Foreign(index, _NO_IDS, foreign.idx_factory, foreign.metric, foreign.nprobe), RowNames(), 0
    if dataset is None:
        return foreign, names_by_id(names, foreign.ids), 0
    ids, found = _names_of_dataset(dataset, source, names, name_column)
    encoded = fill_from_lance(foreign.index, dataset, ids)
    _check_descriptors(foreign, dataset, source)
    return foreign, found, len(encoded)


def _check_descriptors(foreign: Foreign, dataset: LanceIndex, source: str) -> None:
    """See that a dataset's codes are those of the descriptors in it, where it has some."""
    index = ReferenceIndex(
        foreign.index,
        idx_factory=foreign.idx_factory,
        metric=foreign.metric,
        names=NumberedNames(foreign.index.ntotal),
    )
    positions = sample_of(np.arange(index.ntotal, dtype=np.int64))
    rows, there = stored_descriptors(dataset, positions)
    near = int(are_near(index, rows[there], positions[there]).sum())
    if near < NEAR_SHARE * int(there.sum()):
        raise FaissIndexError(
            f"of {int(there.sum())} rows of {source!r} that have a descriptor, {near} lie near the code of it: "
            "expected an index over this column; create it again"
        )


def _names_of_dataset(
    dataset: LanceIndex, source: str, names: Path | None, name_column: str | None
) -> tuple[Ids, RowNames]:
    """Lance's ids of the rows, and their names."""
    if names is not None:
        addresses, _ = row_addresses(dataset)
        return addresses, names_by_id(names, np.arange(len(addresses), dtype=np.int64))
    wanted = name_column or "name"
    with lance_errors(f"{source!r} cannot be read", "see whether its files are whole"):
        columns = list(dataset.dataset.schema.names)
    if wanted not in columns:
        raise DataError(
            f"{source!r} has no column {wanted!r} for the names of its rows: expected one of {', '.join(columns)} as "
            "name_column, or a names file"
        )
    addresses, table = row_addresses(dataset, (wanted,))
    if table[wanted].null_count:
        raise DataError(
            f"{table[wanted].null_count} of {len(addresses)} rows of {source!r} have no {wanted}: expected a name in "
            "each; give another name_column, or a names file"
        )
    found = RowNames()
    found.extend(str(name) for name in table[wanted].to_pylist())
    return addresses, found


def _compare(
    index: ReferenceIndex, sample: Path, extractor: Extractor, settings: ExtractionSettings
) -> tuple[int, int]:
    """How many pictures were compared with their rows, and how many of the rows are near; an error if too few are."""
    descriptors, ids = _sample(index, sample, extractor, settings)
    if not len(ids):
        shown = index.names[0] if len(index.names) else None
        raise DataError(
            f"no picture in {str(sample)!r} has the name of a row ({shown!r} is one): give a folder from which the "
            "indexed pictures have these paths, or leave sample out"
        )
    near = int(are_near(index, descriptors, ids).sum())
    if near < NEAR_SHARE * len(ids):
        raise ExtractorError(
            f"of {len(ids)} pictures whose names the index has, {near} lie near their rows: extractor "
            f"{extractor.name!r} at {extractor.input_size} pixels did not make these descriptors, or the names are "
            "those of others; take the extractor that made them"
        )
    return len(ids), near


def _sample(
    index: ReferenceIndex, sample: Path, extractor: Extractor, settings: ExtractionSettings
) -> tuple[Matrix, Ids]:
    """Descriptors of some pictures that are in the index, and their rows."""
    if (sample / FEATURES).is_file():
        described = describe(sample, extractor, None, settings)
    else:
        root, paths = names_root(sample), list_images(sample)
        ids = last_rows(index.names, [path.relative_to(root).as_posix() for path in paths])
        chosen = sample_of(np.flatnonzero(ids >= 0))
        if not len(chosen):
            return np.empty((0, index.dim), np.float32), chosen
        described = extract([paths[i] for i in chosen.tolist()], extractor, root=root, **settings._asdict())
    ids = last_rows(index.names, described.names)
    chosen = sample_of(np.flatnonzero(ids >= 0))
    return np.array(described.descriptors[chosen]), ids[chosen]


def sample_of(positions: Ids) -> Ids:
    """At most `_SAMPLE` of the positions, evenly spaced."""
    count = len(positions)
    return positions[np.linspace(0, count - 1, min(_SAMPLE, count)).astype(np.int64)]


def _warn_if_others(output: Path, index: ReferenceIndex, *, overwrite: bool) -> None:
    """Say that pictures which were activated against what lies in the folder do not fit any more."""
    if not overwrite or not (output / folders.YAML_NAME).is_file():
        return
    before = ReferenceIndex.open(output, read_only=True, verify=False)
    difference = quantiser_difference(index.faiss_index, before.faiss_index)
    if difference is not None:
        warnings.warn(
            f"the index that was in {str(output)!r} had another quantiser ({difference}): pictures that were activated "
            "against it are not activated against this one; activate them again",
            stacklevel=3,
        )


def _write(output: Path, index: ReferenceIndex, file: Path | None, *, overwrite: bool) -> None:
    """The folder; a file that holds the very same index is copied, without its rows in memory."""
    if file is None:
        index.save(output, overwrite=overwrite)
        return

    def copy(sink: Any) -> None:
        with open(file, "rb") as source:
            while block := source.read(1 << 24):
                sink(block)

    contents: dict[str, folders.Write | bytes] = {"index": copy, **row_files(index.names, index.owners)}
    folders.write_files(output, index.describe(), contents, expected=None, overwrite=overwrite)
