"""Indexes over folders of pictures or descriptor files: made new, and added to."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from aindex.collection.equipment import Equipment, describing, index_folder, loaded, open_equipment
from aindex.data.atomic import exclusive, remove_tree, replace_when_done
from aindex.data.images import SkippedImages
from aindex.descriptors.extraction import Extraction, ExtractionSettings
from aindex.descriptors.extractor import Extractor
from aindex.descriptors.registry import DEFAULT_EXTRACTOR
from aindex.descriptors.sources import Source, check_source, describe, picture_paths
from aindex.errors import ConfigError, DataError
from aindex.index.backend import Ids
from aindex.index.default_factory import default_factory
from aindex.index.factory import Metric, check_plan
from aindex.index.folder import WORK_NAME, YAML_NAME, check_place, read_state
from aindex.index.on_disk import remove_on_disk
from aindex.index.reference_index import ReferenceIndex
from aindex.index.row_choice import check_row_count, rows_of_pictures
from aindex.index.rows import Batch
from aindex.paths import possible_path

Duplicates = Literal["error", "skip", "add"]

_COMMIT = "commit.json"


@dataclass(frozen=True)
class Indexed:
    """An index with new pictures: their ids, how many rows they have, and the pictures that could not be read.

    `note` says which kind of index was chosen where none was named.
    """

    index: ReferenceIndex
    ids: Ids
    rows: int
    skipped: SkippedImages
    note: str = ""


def build_index(
    output: Path | str,
    *,
    train: Source | None = None,
    references: Source | None = None,
    like: Path | str | None = None,
    idx_factory: str | None = None,
    quant: Metric | None = None,
    nprobe: int | None = None,
    extractor: Extractor | Path | str | None = None,
    resize_size: int | None = None,
    names: Path | str | None = None,
    rows: int = 1,
    seed: int = 0,
    settings: ExtractionSettings | None = None,
    overwrite: bool = False,
) -> Indexed:
    """Make an index folder over pictures or descriptors.

    Descriptors of pictures are kept beside the folder until it is whole: killed and started again, the same build goes
    on. Pictures that cannot be read get no row and are counted.

    Args:
        output: the folder to make; new or empty.
        train: what the quantiser is trained on, never the references: a folder of pictures, a list file (a path per
            line), a folder that `aindex extract` made, or a descriptor file (.pth, .pt, .npy, .safetensors).
        references: what becomes rows, in the same forms; left out, the index has none.
        like: an index folder whose trained quantiser is taken, instead of train; `shipped` is the one that comes with
            aindex.
        idx_factory: FAISS's factory string (default: Flat up to 1,000 pictures, beyond that IVF with a number of cells
            that suits pictures and training; with like: its own).
        quant: metric: L2 (squared Euclidean distance) or IP (inner product) (default: L2; with like: its own).
        nprobe: coarse cells visited per search (default: 1; with like: its own).
        extractor: name or path, see `aindex extract --help`, or one in use (default: aindex_small; with like: its own).
        resize_size: side of the extractor's square input, pixels (default: the extractor's own).
        names: names of the rows where references is a descriptor file: a text file with one per line.
        rows: most rows of each picture, in the cells that simulated edits of it fall into; a picture is found once, at
            its nearest row. 1 is its own descriptor.
        seed: of the training, and of the simulated edits.
        settings: device, precision and batch size.
        overwrite: replace an index that is in output.

    Raises:
        AindexError: a source, the extractor, the factory or the folder is not possible.
    """
    output, settings = possible_path(output), settings or describing()
    _check_options(train, references, like, idx_factory, quant, names, rows)
    if references is not None:
        check_source(references, names)
    if not (work_folder(output) / _COMMIT).is_file():
        check_place(output, overwrite=overwrite)
    with _working(output) as work:
        copied, used = _like(like, extractor, resize_size, settings)
        if copied is not None:
            check_row_count(rows, copied.quantiser)
            copied.nprobe = copied.nprobe if nprobe is None else nprobe
        elif train is not None:
            _check_training(train, idx_factory, quant or "L2", nprobe, used)
        training = None if train is None else describe(train, used, work / "train", settings).descriptors
        described = Extraction(np.empty((0, used.dim), np.float32), [], SkippedImages())
        if references is not None:
            described = describe(references, used, work / "references", settings, names=names)
        index, note = copied, ""
        if index is None:
            assert training is not None
            if idx_factory is None:
                pictures = None if references is None else len(described.names)
                idx_factory = default_factory(pictures, len(training), used.dim, rows=rows)
                note = _choice(idx_factory, pictures, len(training))
            index = ReferenceIndex.train(
                training,
                idx_factory=idx_factory,
                metric=quant or "L2",
                nprobe=1 if nprobe is None else nprobe,
                seed=seed,
                extractor=used,
            )
        ids = np.empty(0, np.int64)
        if references is not None:
            equipment = Equipment(index, used, settings)
            ids = index.add(*chosen_rows(described, picture_paths(references), equipment, rows, seed))
        key = (train, like, index.idx_factory, index.metric, index.nprobe, rows, seed, used.fingerprint)
        if not overwrite and (output / YAML_NAME).is_file():
            # an earlier try of this command may have been killed right after it had saved
            saved = ReferenceIndex.open(output)
            if _committed(work, key, described.names, saved) is not None:
                return Indexed(saved, ids, saved.ntotal, described.skipped, note)
        _note_commit(work, key, described.names, 0, len(described.names))
        index.save(output, overwrite=overwrite)
    return Indexed(index, ids, index.ntotal, described.skipped, note)


def _choice(idx_factory: str, pictures: int | None, training: int) -> str:
    """What was chosen, for people."""
    of = "pictures that come later" if pictures is None else f"{pictures:,} pictures"
    how = "an exact search" if idx_factory == "Flat" else f"{training:,} training descriptors"
    more = "; activation needs an index with cells or codes" if idx_factory == "Flat" else ""
    return f"chosen for {of}: idx_factory {idx_factory} ({how}{more}); name another with idx_factory"


def _check_training(
    train: Source, idx_factory: str | None, metric: Metric, nprobe: int | None, extractor: Extractor
) -> None:
    """Refuse what training would refuse, before a picture is decoded."""
    pictures = check_source(train)
    if idx_factory is not None:
        rows = None if pictures is None else len(pictures)
        check_plan(extractor.dim, idx_factory, metric, nprobe=nprobe, rows=rows)
    elif nprobe is not None and nprobe < 1:
        raise ConfigError(f"nprobe {nprobe}: expected 1 or more; the default is 1")


def _like(
    like: Path | str | None,
    extractor: Extractor | Path | str | None,
    resize_size: int | None,
    settings: ExtractionSettings,
) -> tuple[ReferenceIndex | None, Extractor]:
    """The empty copy of an index that is named, and the extractor."""
    if like is None:
        return None, loaded(extractor or DEFAULT_EXTRACTOR, resize_size, settings)
    found = open_equipment(like, extractor, resize_size=resize_size, settings=settings, read_only=False)
    return found.index.empty_copy(), found.extractor


def add_to_index(
    index: Path | str,
    references: Source,
    *,
    extractor: Extractor | Path | str | None = None,
    resize_size: int | None = None,
    names: Path | str | None = None,
    prefix: str = "",
    duplicates: Duplicates = "error",
    rows: int = 1,
    seed: int = 0,
    settings: ExtractionSettings | None = None,
) -> Indexed:
    """Append pictures or descriptors to an index folder.

    A crash leaves the old index or the new one. Pictures that cannot be read get no row and are counted.

    Args:
        index: the folder.
        references: what becomes rows: a folder of pictures, a list file, a folder that `aindex extract` made, or a
            descriptor file.
        extractor: name or path, or one in use (default: the one that the index names).
        resize_size: side of the extractor's square input, pixels (default: the index's).
        names: names of the rows where references is a descriptor file: a text file with one per line.
        prefix: put before the new names, for folders whose pictures have the same names.
        duplicates: names that the index has already: `error`, `skip` them, or `add` them again.
        rows: most rows of each picture, in the cells that simulated edits of it fall into.
        seed: of the simulated edits.
        settings: device, precision and batch size.

    Raises:
        AindexError: no such index, another extractor, no pictures, or a name that is there already.
    """
    folder, settings = possible_path(index), settings or describing()
    read_state(folder)  # an error before anything is written
    check_row_count(rows)
    with _working(folder) as work:
        # opened by one command after the other, each with the rows of the one before
        equipment = open_equipment(
            folder, extractor, resize_size=resize_size, settings=settings, read_only=False
        )
        opened = equipment.index
        check_row_count(rows, opened.quantiser)
        pictures = check_source(references, names)
        if duplicates == "error" and names is None and not (work / _COMMIT).is_file():
            _new_rows([prefix + name for name in pictures or ()], opened, duplicates)
        described = describe(references, equipment.extractor, work / "references", settings, names=names)
        new_names = [prefix + name for name in described.names]
        key = (str(references), prefix, duplicates, rows, seed, equipment.extractor.fingerprint)
        first, before = _committed(work, key, new_names, opened), opened.ntotal
        if first is not None:
            ids = np.arange(first, opened.pictures)
            count = sum(len(one) for one in opened.owners.rows_of(ids))
            return Indexed(opened, ids, count, described.skipped)
        kept = _new_rows(new_names, opened, duplicates)
        new = Extraction(
            np.array(described.descriptors[kept]), [described.names[row] for row in kept], described.skipped
        )
        batch = chosen_rows(new, picture_paths(references), equipment, rows, seed)
        _note_commit(work, key, new_names, opened.pictures, len(kept))
        ids = opened.add(batch.descriptors, [prefix + name for name in batch.names], batch.counts)
        opened.save(folder)
    return Indexed(opened, ids, opened.ntotal - before, described.skipped)


def remove_from_index(index: Path | str, names: Sequence[str]) -> tuple[ReferenceIndex, int]:
    """Take pictures out of an index folder, with all their rows.

    A crash leaves the old index or the new one. The pictures after them move up: their rows get other numbers.

    Args:
        index: the folder.
        names: names of pictures in the index; where one is there several times all of them go.

    Returns:
        The index as it is then, and how many pictures were removed.

    Raises:
        DataError: a name is not in the index.
        FaissIndexError: no such index, or a kind that cannot lose rows.
    """
    folder, wanted = possible_path(index), set(names)
    opened = ReferenceIndex.open(folder)
    found = [picture for picture, name in enumerate(opened.names) if name in wanted]
    missing = wanted.difference(opened.names[picture] for picture in found)
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(wanted)} names are not in the index, {min(missing)!r} for one: give names as "
            "aindex search prints them"
        )
    pictures = np.array(found, np.int64)
    if opened.is_on_disk:
        return remove_on_disk(folder, pictures), len(pictures)
    opened.remove(pictures)
    opened.save(folder)
    return opened, len(pictures)


def chosen_rows(
    described: Extraction,
    paths: Mapping[str, Path] | None,
    equipment: Equipment,
    rows: int,
    seed: int,
) -> Batch:
    """Pictures with the rows they get: their own descriptor, or up to `rows` in the cells that their copies fall into.

    Raises:
        ConfigError: several rows for descriptors of pictures that are not at hand, or in an index without cells.
    """
    if rows == 1:
        return Batch(described.descriptors, described.names)
    if paths is None or not set(described.names) <= set(paths):
        raise ConfigError(
            f"rows {rows} for descriptors: expected pictures, whose edits are simulated; leave rows out, or give "
            "pictures under their own names"
        )
    chosen = rows_of_pictures(
        described.descriptors,
        [paths[name] for name in described.names],
        described.names,
        equipment.extractor,
        equipment.index.quantiser,
        rows,
        seed=seed,
        progress=equipment.settings.progress,
    )
    descriptors = np.concatenate([np.empty((0, equipment.index.dim), np.float32), *chosen])
    return Batch(descriptors, described.names, [len(some) for some in chosen])


@contextmanager
def _working(folder: Path) -> Iterator[Path]:
    """The folder of one command at a time, where descriptors are kept until the index holds what they are for."""
    work, is_new = work_folder(folder), not folder.exists()
    with exclusive(work):
        try:
            yield work
        except BaseException:
            if not any(path.name != ".lock" for path in work.iterdir()):
                remove_tree(work)
            raise
        finally:
            if is_new:
                # only an empty one can be removed: one in which nothing was begun
                with suppress(OSError):
                    folder.rmdir()
        # what was committed is forgotten last, so that a kill meanwhile is told from one before
        for part in ("train", "references"):
            remove_tree(work / part)
        remove_tree(work)


def work_folder(folder: Path) -> Path:
    """Where descriptors are kept until `folder` holds what they are for."""
    return folder.absolute() / WORK_NAME


def _note_commit(work: Path, key: Sequence[object], names: Sequence[str], first: int, count: int) -> None:
    """Note what is about to be saved, so that a kill right after it is not taken for one before."""
    noted = {"key": _hash(key, names), "first": first, "count": count}
    with replace_when_done(work / _COMMIT) as temporary:
        temporary.write_text(json.dumps(noted) + "\n")


def _committed(work: Path, key: Sequence[object], names: Sequence[str], index: ReferenceIndex) -> int | None:
    """The first of the pictures that this very command has saved already before it was killed; None if it has not."""
    try:
        noted = json.loads((work / _COMMIT).read_text())
    except (OSError, ValueError):
        return None
    first, count = noted["first"], noted["count"]
    is_there = noted["key"] == _hash(key, names) and index.pictures == first + count
    return first if is_there and set(index.names[first:]) <= set(names) else None


def _hash(key: Sequence[object], names: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([*map(str, key), *names]).encode()).hexdigest()


def _check_options(
    train: Source | None,
    references: Source | None,
    like: Path | str | None,
    idx_factory: str | None,
    quant: Metric | None,
    names: Path | str | None,
    rows: int,
) -> None:
    check_row_count(rows)
    if references is None and (names is not None or rows != 1):
        raise ConfigError("names and rows are those of references: give references too, or leave them out")
    if (train is None) == (like is None):
        raise ConfigError(
            "an index needs either train, pictures or descriptors to train its quantiser on, or like, an index whose "
            "quantiser it takes (shipped is the one that comes with aindex): give one of them"
        )
    if like is None:
        return
    stored = read_state(index_folder(like)).description
    for name, wanted, found in (
        ("idx_factory", idx_factory, stored.idx_factory),
        ("quant", quant, stored.metric),
    ):
        if wanted not in (None, found):
            raise ConfigError(
                f"{name} {wanted!r}, but the index to be like has {found!r}: leave {name} out, or train"
            )


def _new_rows(names: Sequence[str], index: ReferenceIndex, duplicates: Duplicates) -> list[int]:
    if duplicates == "add":
        return list(range(len(names)))
    wanted = set(names)
    there = {name: row for row, name in enumerate(index.names) if name in wanted}
    if there and duplicates == "error":
        name, row = next(iter(there.items()))
        raise DataError(
            f"{len(there)} of the {len(names)} names are in the index already, {name!r} as row {row}: give a prefix "
            "for other pictures of the same names, or say duplicates skip or add"
        )
    return [row for row, name in enumerate(names) if name not in there]
