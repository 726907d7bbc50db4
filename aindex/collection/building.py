"""Indexes over folders of pictures or descriptor files: made new, and added to."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from aindex.collection.equipment import describing, index_folder, open_equipment
from aindex.collection.sources import Source, describe
from aindex.data.atomic import exclusive, remove_tree, replace_when_done
from aindex.data.images import SkippedImages
from aindex.descriptors.extract import ExtractionSettings
from aindex.descriptors.extractor import Extractor
from aindex.descriptors.registry import DEFAULT_EXTRACTOR, load_extractor
from aindex.errors import ConfigError, DataError
from aindex.index.backend import Ids
from aindex.index.factory import Metric
from aindex.index.folder import WORK_NAME, YAML_NAME, check_place, read_state
from aindex.index.reference_index import ReferenceIndex

DEFAULT_FACTORY = "IVF4096,PQ8x8"

Duplicates = Literal["error", "skip", "add"]

_COMMIT = "commit.json"


@dataclass(frozen=True)
class Indexed:
    """An index with new rows: their ids, and the pictures that could not be read."""

    index: ReferenceIndex
    ids: Ids
    skipped: SkippedImages


def build_index(
    output: Path | str,
    *,
    train: Source | None = None,
    references: Source | None = None,
    like: Path | str | None = None,
    idx_factory: str | None = None,
    quant: Metric = "L2",
    nprobe: int | None = None,
    extractor: Extractor | Path | str | None = None,
    resize_size: int | None = None,
    names: Path | str | None = None,
    seed: int = 0,
    settings: ExtractionSettings | None = None,
    overwrite: bool = False,
) -> Indexed:
    """Make an index folder: quantiser trained on `train` (or taken from `like`), rows of `references`.

    Descriptors of pictures are kept beside the folder until it is whole, so that a killed build goes on.

    Args:
        output: the folder; new or empty.
        train: training pictures or descriptors, never the references.
        references: pictures or descriptors that become rows; None for an index without rows.
        like: an index whose trained quantiser is taken instead of training one.
        idx_factory: FAISS's factory string; default `IVF4096,PQ8x8`.
        quant: L2 or IP.
        nprobe: coarse cells that a search visits; default 1, or that of `like`.
        extractor: one in use, a name or a path; default `aindex_small`, or the one of `like`.
        resize_size: side of the extractor's input, pixels; default the extractor's own.
        names: names of the rows of a descriptor file, one per line.
        seed: of the training.
        settings: device, precision and batch size.
        overwrite: replace an index that is in the folder.

    Raises:
        AindexError: a source, the extractor, the factory or the folder is not possible.
    """
    output, settings = Path(output).expanduser(), settings or describing()
    _check_options(train, like, idx_factory, quant)
    if not (work_folder(output) / _COMMIT).is_file():
        check_place(output, overwrite=overwrite)
    with _working(output) as work:
        index, used = _empty_index(
            work, train, like, idx_factory, quant, extractor, resize_size, seed, settings
        )
        if nprobe is not None:
            index.nprobe = nprobe
        ids, skipped, rows = np.empty(0, np.int64), SkippedImages(), list[str]()
        if references is not None:
            descriptors, rows, skipped = describe(
                references, used, work / "references", settings, names=names
            )
            ids = index.add(descriptors, rows)
        key = (str(train), str(like), index.idx_factory, index.metric, index.nprobe, seed, used.fingerprint)
        if not overwrite and (output / YAML_NAME).is_file():
            # an earlier try of this command may have been killed right after it had saved
            saved = ReferenceIndex.open(output)
            if _committed(work, key, rows, saved) is not None:
                return Indexed(saved, ids, skipped)
        _note_commit(work, key, rows, 0, len(rows))
        index.save(output, overwrite=overwrite)
    return Indexed(index, ids, skipped)


def _empty_index(
    work: Path,
    train: Source | None,
    like: Path | str | None,
    idx_factory: str | None,
    quant: Metric,
    extractor: Extractor | Path | str | None,
    resize_size: int | None,
    seed: int,
    settings: ExtractionSettings,
) -> tuple[ReferenceIndex, Extractor]:
    if like is not None:
        equipment = open_equipment(
            like, extractor, resize_size=resize_size, settings=settings, read_only=False
        )
        return equipment.index.empty_copy(), equipment.extractor
    assert train is not None
    used = _loaded(extractor, resize_size, settings)
    index = ReferenceIndex.train(
        describe(train, used, work / "train", settings).descriptors,
        idx_factory=DEFAULT_FACTORY if idx_factory is None else idx_factory,
        metric=quant,
        seed=seed,
        extractor=used,
    )
    return index, used


def add_to_index(
    index: Path | str,
    references: Source,
    *,
    extractor: Extractor | Path | str | None = None,
    resize_size: int | None = None,
    names: Path | str | None = None,
    prefix: str = "",
    duplicates: Duplicates = "error",
    settings: ExtractionSettings | None = None,
) -> Indexed:
    """Append rows to an index folder; a crash leaves the old index or the new one.

    Args:
        index: the folder.
        references: pictures or descriptors that become rows.
        extractor: default the one that the index names.
        resize_size: side of the extractor's input, pixels; default the index's.
        names: names of the rows of a descriptor file, one per line.
        prefix: put before the new names, to tell folders apart whose pictures have the same names.
        duplicates: what to do about names that the index has: `error`, `skip` them, or `add` them again.
        settings: device, precision and batch size.

    Raises:
        AindexError: no such index, another extractor, no pictures, or a name that is there already.
    """
    folder, settings = Path(index).expanduser(), settings or describing()
    read_state(folder)  # an error before anything is written
    with _working(folder) as work:
        # opened by one command after the other, each with the rows of the one before
        equipment = open_equipment(
            folder, extractor, resize_size=resize_size, settings=settings, read_only=False
        )
        opened = equipment.index
        found = describe(references, equipment.extractor, work / "references", settings, names=names)
        new_names = [prefix + name for name in found.names]
        key = (str(references), prefix, duplicates, equipment.extractor.fingerprint)
        first = _committed(work, key, new_names, opened)
        if first is not None:
            return Indexed(opened, np.arange(first, opened.ntotal), found.skipped)
        kept = _new_rows(new_names, opened, duplicates)
        _note_commit(work, key, new_names, opened.ntotal, len(kept))
        ids = opened.add(found.descriptors[kept], [new_names[row] for row in kept])
        opened.save(folder)
    return Indexed(opened, ids, found.skipped)


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
    """The first of the rows that this very command has saved already before it was killed; None if it has not."""
    try:
        noted = json.loads((work / _COMMIT).read_text())
    except (OSError, ValueError):
        return None
    first, count = noted["first"], noted["count"]
    is_there = noted["key"] == _hash(key, names) and index.ntotal == first + count
    return first if is_there and set(index.names[first:]) <= set(names) else None


def _hash(key: Sequence[object], names: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([*map(str, key), *names]).encode()).hexdigest()


def _check_options(
    train: Source | None, like: Path | str | None, idx_factory: str | None, quant: Metric
) -> None:
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
        if wanted not in (None, "L2", found):
            raise ConfigError(
                f"{name} {wanted!r}, but the index to be like has {found!r}: leave {name} out, or train"
            )


def _loaded(
    extractor: Extractor | Path | str | None, resize_size: int | None, settings: ExtractionSettings
) -> Extractor:
    if isinstance(extractor, Extractor):
        return extractor
    device = settings.device or "cpu"
    return load_extractor(extractor or DEFAULT_EXTRACTOR, resize_size=resize_size, device=device)


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
