"""How a run gets its index: made of descriptors or opened, the originals put in, whole or a share per rank."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from aindex import distributed
from aindex.activation.datamodule import ImageData
from aindex.callbacks.run_folder import INDEX_FOLDER, LANCE_FOLDER, ORIGINALS_FOLDER, SKIPPED_FILE
from aindex.collection.equipment import index_folder
from aindex.data.atomic import replace_when_done
from aindex.data.images import SkippedImages
from aindex.descriptors.extraction import Extraction, ExtractionSettings
from aindex.descriptors.extractor import Extractor
from aindex.descriptors.files import Matrix
from aindex.descriptors.sources import check_source
from aindex.descriptors.stored import descriptors_for, extract_to_folder, read_extraction
from aindex.errors import ConfigError
from aindex.index.cache import train_cached
from aindex.index.default_factory import DEFAULT_FACTORY
from aindex.index.devices import Device
from aindex.index.factory import Metric, check_plan
from aindex.index.filling import Filling, NumberedNames, Placement, fill
from aindex.index.folder import YAML_NAME, read_state
from aindex.index.lance_dataset import import_lance
from aindex.index.lance_export import export_to_lance, is_dataset, trained_part
from aindex.index.lance_search import LanceReferenceIndex
from aindex.index.on_disk import extend_on_disk
from aindex.index.originals import add_originals
from aindex.index.owners import Owners
from aindex.index.quantiser import Quantiser
from aindex.index.reference_index import ReferenceIndex
from aindex.index.row_choice import check_row_count, rows_of_pictures
from aindex.index.rows import Batch
from aindex.index.sharded import AnyIndex, ShardedIndex
from aindex.paths import user_path

_TRAINED_FOLDER = "trained"
_IDS_FILE, _ROWS_FILE = "index_ids.npy", "rows.npz"

Engine = Literal["faiss", "lance"]


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """What decides an index; see `BuildIndex`."""

    path: str | None
    idx_factory: str
    idx_dir: Path
    quant: Metric
    nprobe: int
    fts_training_path: str | None
    fts_reference_path: str | None
    rows: int
    placement: Placement
    on_disk: bool
    device: Device
    seed: int
    engine: Engine = "faiss"


def settled(
    path: str | None,
    idx_factory: str | None,
    quant: Metric | None,
    nprobe: int | None,
    fts_training_path: str | None,
    fts_reference_path: str | None,
) -> dict[str, Any]:
    """`idx_factory`, `quant` and `nprobe` where nobody gave them: those of the index in `path`, else the defaults.

    Raises:
        ConfigError: what was given contradicts that index, or no index is named.
        FaissIndexError: there is none in `path`, or it has not so many cells.
    """
    given = {"idx_factory": idx_factory, "quant": quant, "nprobe": nprobe}
    if path is None:
        if fts_training_path is None or fts_reference_path is None:
            raise ConfigError(
                "no index is named: give --index.path (shipped is the one that comes with aindex), or both "
                "--index.fts_training_path and --index.fts_reference_path"
            )
        own = {"idx_factory": DEFAULT_FACTORY, "quant": "L2", "nprobe": 1}
    else:
        for name, source in (("training", fts_training_path), ("reference", fts_reference_path)):
            if source is not None:
                raise ConfigError(
                    f"index.path and index.fts_{name}_path are both given: expected one of them; leave one out"
                )
        stored = read_state(index_folder(path)).description
        own = {"idx_factory": stored.idx_factory, "quant": stored.metric, "nprobe": stored.nprobe}
        for name in ("idx_factory", "quant"):
            if given[name] not in (None, own[name]):
                raise ConfigError(
                    f"index.{name} {given[name]!r}, but the index in {path!r} has {own[name]!r}: leave index.{name} "
                    "out, or leave index.path out to build another index"
                )
    return {name: own[name] if value is None else value for name, value in given.items()}


class IndexBuilder:
    """Makes the index of the run in a folder, and finds again what an interrupted run has made of it."""

    def __init__(
        self, settings: IndexSettings, folder: Path, data: ImageData, extractor: Extractor, *, progress: bool
    ) -> None:
        self._settings = settings
        self._folder, self._data, self._extractor = folder, data, extractor
        # fp32: what an index keeps, and what images are drawn to, is one thing
        self._extraction = ExtractionSettings(
            data.batch_size, data.num_workers, precision="fp32", progress=progress
        )

    def build(self) -> AnyIndex:
        """The index with the originals in it; collective."""
        if self._settings.engine == "lance":
            distributed.everywhere(import_lance)
        distributed.on_rank_zero(self._prepare)
        if self._settings.placement == "sharded":
            return self._shard()
        if self._settings.engine == "lance":
            return self._in_lance()
        return ReferenceIndex.open(self._folder / INDEX_FOLDER, self._extractor, read_only=True)

    def _in_lance(self) -> ReferenceIndex:
        """The run's index, searched in a Lance dataset of the same rows, cells and codes; collective."""
        dataset = self._folder / LANCE_FOLDER

        def export() -> None:
            for left in self._folder.glob(f".{LANCE_FOLDER}.*.partial"):
                shutil.rmtree(left)
            if not is_dataset(dataset):
                export_to_lance(ReferenceIndex.open(self._folder / INDEX_FOLDER), dataset)

        distributed.on_rank_zero(export)
        opened = LanceReferenceIndex.open(self._folder / INDEX_FOLDER, self._extractor, read_only=True)
        opened.search_in(dataset)
        return opened

    def originals(self) -> tuple[Matrix, list[str], SkippedImages]:
        """Descriptors n×d and names of the originals, and those that cannot be read; once the index is built."""
        folder = self._folder / ORIGINALS_FOLDER
        descriptors, names = read_extraction(folder, extractor=self._extractor)
        return descriptors, names, SkippedImages.read(folder / SKIPPED_FILE)

    def ids(self) -> npt.NDArray[np.int64]:
        """The originals' rows, n; once the index is built."""
        found: npt.NDArray[np.int64] = np.load(self._folder / ORIGINALS_FOLDER / _IDS_FILE)
        return found

    def rows(self) -> list[Matrix] | None:
        """Per original r×d, what its rows in the index are made of; None where that is its descriptor."""
        path = self._folder / ORIGINALS_FOLDER / _ROWS_FILE
        if not path.is_file():
            return None
        with np.load(path) as stored:
            return np.split(stored["rows"], np.cumsum(stored["counts"])[:-1])

    def references(self) -> tuple[Matrix, list[str] | None]:
        """Descriptors and names of the references, from which the index is built."""
        return self._descriptors(self._settings.fts_reference_path)

    def _prepare(self) -> None:
        """Describe the originals, make the index, put them in; what is sharded is only trained; on rank 0."""
        images = self._data.listed()[0]
        is_whole = self._settings.placement != "sharded"
        self._check_plan()
        start = None
        if is_whole and not (self._folder / ORIGINALS_FOLDER / _IDS_FILE).is_file():
            # before the originals are described, which may take hours: what cannot be used is refused here
            start = self._trained() if self._settings.path is None else self._opened()
            if self._settings.engine == "lance":
                trained_part(start.faiss_index)
            if self._settings.path is None:
                self.references()
        originals = extract_to_folder(
            images,
            self._extractor,
            self._folder / ORIGINALS_FOLDER,
            self._extraction,
            root=self._data.root,
        )
        if originals.skipped.count:
            originals.skipped.write(self._folder / SKIPPED_FILE)
        if not is_whole:
            self._train_for_shards(originals)
        elif start is not None:
            put_in = self._fill if self._settings.path is None else self._extend
            self._save_ids(put_in(start, originals, self._folder / INDEX_FOLDER))

    def _check_plan(self) -> None:
        """Refuse a plan that nothing can come of."""
        settings = self._settings
        if settings.engine == "lance":
            for name, value, only in (
                ("placement", settings.placement, "replicated"),
                ("device", settings.device, "cpu"),
            ):
                if value != only:
                    raise ConfigError(
                        f"index.engine lance with index.{name} {value!r}: Lance reads its dataset from the disk, in "
                        f"every process; take {only}"
                    )
        check_row_count(settings.rows)
        self._data.check_queries()
        if settings.path is not None and settings.placement == "sharded":
            raise ConfigError(
                "index.placement 'sharded' with index.path: an index that exists is not split; give "
                "index.fts_training_path and index.fts_reference_path, or take the placement replicated"
            )
        if settings.fts_training_path is None or settings.fts_reference_path is None:
            return
        check_source(settings.fts_reference_path)
        pictures = check_source(settings.fts_training_path)
        rows = None if pictures is None else len(pictures)
        check_plan(
            self._extractor.dim, settings.idx_factory, settings.quant, nprobe=settings.nprobe, rows=rows
        )

    def _train_for_shards(self, originals: Extraction) -> None:
        """Make the trained index for all ranks; shares for other numbers of ranks are removed."""
        for share in (self._folder / INDEX_FOLDER).glob("rank*of*"):
            if not share.name.endswith(f"of{distributed.world_size()}"):
                shutil.rmtree(share)
        # kept with the run, so that shares made later get the same codes
        stored = self._folder / INDEX_FOLDER / _TRAINED_FOLDER
        if not (stored / YAML_NAME).is_file():
            self._trained().save(stored, overwrite=True)
        quantiser = ReferenceIndex.open(stored, self._extractor).quantiser
        # the other ranks then find them extracted
        _, reference_names = self.references()
        if self.rows() is None:
            there = set(reference_names or ())
            self._choose_rows(quantiser, originals, [n for n in originals.names if n not in there])

    def _shard(self) -> ShardedIndex:
        """Make this rank's share, unless an interrupted run has; collective."""
        rank, ranks = distributed.rank(), distributed.world_size()
        target = self._folder / INDEX_FOLDER / f"rank{rank}of{ranks}"
        descriptors, names, _ = self.originals()
        filling = distributed.everywhere(lambda: self._filling(descriptors, names))
        filling = filling._replace(rows=self.rows())
        ids = filling.ids
        batches = filling.batches(ids)

        def make() -> ReferenceIndex:
            if not (target / YAML_NAME).is_file():
                stored = self._folder / INDEX_FOLDER / _TRAINED_FOLDER
                trained = ReferenceIndex.open(stored, self._extractor).empty_copy()
                fill(trained, batches, target, rank=rank, ranks=ranks, on_disk=self._settings.on_disk)
            return ReferenceIndex.open(target, self._extractor, read_only=True)

        share = distributed.everywhere(make)
        owners = Owners()
        for batch in batches:
            owners = owners.extended(len(batch.names), batch.counts)
        index = ShardedIndex(share, rank=rank, ranks=ranks, gather=distributed.gather, owners=owners)
        distributed.everywhere(lambda: filling.check(index, ids))
        distributed.on_rank_zero(lambda: self._save_ids(ids))
        return index

    def _filling(self, originals: Matrix, names: Sequence[str]) -> Filling:
        references, reference_names = self.references()
        return Filling(references, reference_names or NumberedNames(len(references)), originals, names)

    def _choose_rows(
        self, quantiser: Quantiser, originals: Extraction, names: Sequence[str]
    ) -> list[Matrix] | None:
        """The rows of all originals: several for those that are named, the descriptor for the others.

        None where every picture has one row.
        """
        if self._settings.rows == 1:
            return None
        paths = dict(zip(*reversed(self._data.listed()), strict=True))
        descriptors = dict(zip(originals.names, np.array(originals.descriptors), strict=True))
        chosen = rows_of_pictures(
            np.array([descriptors[name] for name in names]),
            [paths[name] for name in names],
            names,
            self._extractor,
            quantiser,
            self._settings.rows,
            seed=self._settings.seed,
            progress=self._extraction.progress,
        )
        several = dict(zip(names, chosen, strict=True))
        rows = [several.get(name, own[None]) for name, own in descriptors.items()]
        with (
            replace_when_done(self._folder / ORIGINALS_FOLDER / _ROWS_FILE) as temporary,
            open(temporary, "wb") as file,
        ):
            np.savez(file, rows=np.concatenate(rows), counts=np.array([len(some) for some in rows]))
        return rows

    def _save_ids(self, ids: npt.NDArray[np.int64]) -> None:
        with replace_when_done(self._folder / ORIGINALS_FOLDER / _IDS_FILE) as temporary:
            np.save(temporary, ids)

    def _fill(self, trained: ReferenceIndex, originals: Extraction, target: Path) -> npt.NDArray[np.int64]:
        """Put references and originals into a trained index; the originals' rows."""
        filling = self._filling(originals.descriptors, originals.names)
        ids = filling.ids
        new = [name for name, row in zip(originals.names, ids, strict=True) if row >= len(filling.references)]
        filling = filling._replace(rows=self._choose_rows(trained.quantiser, originals, new))
        fill(trained, filling.batches(ids), target, on_disk=self._settings.on_disk)
        filling.check(ReferenceIndex.open(target, read_only=True, verify=False), ids)
        return ids

    def _extend(self, index: ReferenceIndex, originals: Extraction, target: Path) -> npt.NDArray[np.int64]:
        """Put the originals into a copy of the index that was given; their rows."""
        batches: list[Batch] = []

        def append(descriptors: Matrix, names: Sequence[str]) -> npt.NDArray[np.int64]:
            rows = self._choose_rows(index.quantiser, originals, names)
            if rows is None:
                batches.append(Batch(descriptors, names))
            else:
                own = dict(zip(originals.names, rows, strict=True))
                added = [own[name] for name in names]
                batches.append(Batch(np.concatenate(added), names, [len(some) for some in added]))
            return index.pictures + np.arange(len(names), dtype=np.int64)

        ids = add_originals(index, originals.descriptors, originals.names, append)
        if index.is_on_disk:
            assert self._settings.path is not None
            extend_on_disk(index_folder(self._settings.path), batches, self._extractor, into=target)
        else:
            for batch in batches:
                index.add(*batch)
            index.save(target, overwrite=True)
        return ids

    def _opened(self) -> ReferenceIndex:
        assert self._settings.path is not None
        index = ReferenceIndex.open(index_folder(self._settings.path), self._extractor)
        if self._settings.on_disk and not index.is_on_disk:
            raise ConfigError(
                "index.on_disk with index.path: the lists of an index stay where they were when it was built; leave "
                "index.on_disk out, or index.path"
            )
        check_row_count(self._settings.rows, index.quantiser)
        index.nprobe = self._settings.nprobe
        return index

    def _trained(self) -> ReferenceIndex:
        training, _ = self._descriptors(self._settings.fts_training_path)
        index, _ = train_cached(
            self._settings.idx_dir,
            training,
            idx_factory=self._settings.idx_factory,
            metric=self._settings.quant,
            nprobe=self._settings.nprobe,
            seed=self._settings.seed,
            extractor=self._extractor,
            device=self._settings.device,
        )
        return index

    def _descriptors(self, source: str | None) -> tuple[Matrix, list[str] | None]:
        assert source is not None
        return descriptors_for(user_path(source), self._extractor, self._settings.idx_dir, self._extraction)
