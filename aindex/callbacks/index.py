"""Builds or opens the index, puts the originals into it, and tells the module and the data where they are."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn

from aindex import distributed
from aindex.activation.module import ActivationModule
from aindex.callbacks.index_building import DEFAULT_FACTORY, Engine, IndexBuilder, IndexSettings, settled
from aindex.data.datamodule import ImageData
from aindex.data.images import SkippedImages
from aindex.data.released import SourceImage, released_names
from aindex.descriptors.extractor import check_gradient
from aindex.descriptors.files import Matrix
from aindex.errors import ConfigError, DataError
from aindex.index.devices import Device, gpu_count
from aindex.index.factory import Metric
from aindex.index.filling import AnyIndex, Placement
from aindex.index.reference_index import ReferenceIndex
from aindex.index.sharded import ShardedIndex
from aindex.index.twins import Twins, twins_by_code, twins_by_descriptor
from aindex.paths import user_path


class BuildIndex(Callback):
    """The index that edited copies are searched in.

    Trained on training descriptors, filled with the references', then with those of the originals (the images of
    data_dir); or an index that exists, to which the originals are added. The result lies in `index/` of the run's
    folder; an index that was given stays as it is.

    Args:
        path: folder of an existing index to start from; `shipped` is the one that comes with aindex. Instead of
            idx_factory, quant, fts_training_path and fts_reference_path.
        idx_factory: FAISS's factory string (default: IVF4096,PQ8x8; with path: its own).
        idx_dir: folder where trained indexes and extracted descriptors are kept for the next run.
        quant: metric: L2 (squared Euclidean distance) or IP (inner product) (default: L2; with path: its own).
        nprobe: coarse cells visited per search (default: 1; with path: its own).
        kneighbors: neighbours retrieved per search.
        fts_training_path: training descriptors (.pth, .pt, .npy, .safetensors, or a folder that `aindex extract` made),
            or images to extract them from (folder or list). Never those of the references.
        fts_reference_path: the references' descriptors or images, in the same forms.
        rows: most rows of each picture that is put into the index: in the cells that simulated edits of it fall into. A
            picture is found once, at its nearest row. 1 is its own descriptor.
        placement: with several processes: `replicated` each searches the whole index (processes of one machine share
            its memory); `sharded` each holds its share of the rows, queries go to all of them, and the neighbours are
            the same. Memory per process falls with their number; every search waits for the slowest.
        on_disk: keep the inverted lists on the disk, for indexes larger than memory (IVF…,PQ…, IVF…,SQ…, IVF…,Flat).
        device: where the cells are trained and the index is searched: cpu, or gpu (needs faiss-gpu; the index that is
            stored and that gives the targets stays on the CPU).
        engine: what edited copies are searched in: `faiss`, or `lance`, a Lance dataset that the run's index is
            exported to (`index.lance` in the run's folder; IVF…,PQ… and IVF…,Flat; needs aindex[lance]).
        twins: what to do about originals that are among the references under other names too, with equal descriptors:
            `found` counts a copy as found under whichever name comes first; `left_out` leaves these originals out of
            the evaluation. The run says how many there are.
        seed: of the training; with the command line it is `seed_everything`.
    """

    def __init__(
        self,
        path: str | None = None,
        idx_factory: str | None = None,
        idx_dir: str = "runs/indexes",
        quant: Metric | None = None,
        nprobe: int | None = None,
        kneighbors: int = 100,
        fts_training_path: str | None = None,
        fts_reference_path: str | None = None,
        rows: int = 1,
        placement: Placement = "replicated",
        on_disk: bool = False,
        device: Device = "cpu",
        engine: Engine = "faiss",
        twins: Literal["found", "left_out"] = "found",
        seed: int = 0,
    ) -> None:
        if kneighbors < 1:
            raise ConfigError(f"index.kneighbors {kneighbors}: expected 1 or more")
        self.kneighbors = kneighbors
        self.treatment = twins
        self.twins = Twins()
        self._twin = ""
        self.settings = IndexSettings(
            path=path,
            idx_factory=idx_factory or DEFAULT_FACTORY,
            idx_dir=user_path(idx_dir),
            quant=quant or "L2",
            nprobe=1 if nprobe is None else nprobe,
            fts_training_path=fts_training_path,
            fts_reference_path=fts_reference_path,
            rows=rows,
            placement=placement,
            on_disk=on_disk,
            device=device,
            engine=engine,
            seed=seed,
        )
        self._given = (path, idx_factory, quant, nprobe, fts_training_path, fts_reference_path)
        self.skipped = SkippedImages()
        self._index: AnyIndex | None = None
        self._builder: IndexBuilder | None = None

    @property
    def index(self) -> AnyIndex:
        """The index with the originals in it; there after `setup`."""
        assert self._index is not None
        return self._index

    def search(
        self, descriptors: Matrix, originals: npt.NDArray[np.int64] | None = None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Distances and ids, nq×kneighbors each; collective where `is_collective`.

        Args:
            descriptors: nq×d.
            originals: nq rows of what the queries are copies of, −1 for none; default none. An original and its twins
                are one row then.
        """
        if not self.twins.rows:
            return self.index.search(descriptors, self.kneighbors)
        depth = min(self.kneighbors + self.twins.extra, self.index.pictures)
        distances, ids = self.index.search(descriptors, depth)
        if originals is None:
            return distances[:, : self.kneighbors], ids[:, : self.kneighbors]
        far = float(np.finfo(np.float32).max)
        worst = -far if self.index.larger_is_closer else far
        return self.twins.as_one(distances, ids, originals, self.kneighbors, worst=worst)

    def evaluated(self, images: list[SourceImage]) -> list[int]:
        """Positions of the images that an evaluation takes.

        Raises:
            DataError: it would take none.
        """
        if self.treatment == "found":
            return list(range(len(images)))
        kept = [position for position, image in enumerate(images) if image.index_id not in self.twins.rows]
        if not kept:
            raise DataError(
                f"all {len(images)} originals have a twin in the index, and index.twins left_out leaves them out: give "
                "references without them, or index.twins found"
            )
        return kept

    def twins_text(self) -> str:
        """One line for people about originals that have a twin; empty if none has."""
        if not self.twins.rows:
            return ""
        treated = (
            "a copy counts as found under either name (--index.twins left_out leaves them out)"
            if self.treatment == "found"
            else "they are left out of the evaluation (--index.twins found counts either name)"
        )
        return (
            f"{len(self.twins.rows)} of the originals are in the index already under another name, with the same "
            f"descriptor ({self._twin}): {treated}"
        )

    @property
    def is_collective(self) -> bool:
        """Whether all ranks must search together, each as often as the others."""
        return isinstance(self._index, ShardedIndex)

    def answer_others(self) -> None:
        """Take part in a search of the other ranks, without queries of one's own."""
        if self.is_collective:
            self.search(np.empty((0, self.index.dim), np.float32))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Build on rank 0, open on all; hand images, ids and descriptors on."""
        assert isinstance(pl_module, ActivationModule)
        data: ImageData = trainer.datamodule  # type: ignore[attr-defined]
        own = distributed.on_rank_zero(lambda: settled(*self._given))
        self.settings = replace(self.settings, **own)
        self._builder = IndexBuilder(
            self.settings,
            Path(trainer.default_root_dir),
            data,
            pl_module,
            progress=trainer.progress_bar_callback is not None,
        )
        self._index = self._builder.build()
        self._index.nprobe = self.settings.nprobe
        if self.settings.device == "gpu":
            self._index.use_device("gpu", _gpu_of(trainer))
        descriptors, described, self.skipped = self._builder.originals()
        ids = self._builder.ids()
        paths, names = data.listed()
        path_of = dict(zip(names, paths, strict=True))
        data.images = [
            SourceImage(name=name, path=path_of[name], index_id=int(id_), released=released)
            for name, id_, released in zip(described, ids, released_names(described), strict=True)
        ]
        activates = pl_module.active and trainer.state.fn == TrainerFn.FITTING
        pl_module.prepare_for(data.images, descriptors, self._builder.rows())
        distributed.everywhere(lambda: self._check(pl_module, descriptors, activates=activates))
        self.twins, self._twin = distributed.on_rank_zero(lambda: self._find_twins(data, pl_module))

    def _find_twins(self, data: ImageData, module: ActivationModule) -> tuple[Twins, str]:
        """The originals' twins, and the first of them for people."""
        own = np.array([image.index_id for image in data.images], dtype=np.int64)
        rows = self.row_descriptors(data, module)
        if rows is not None:
            twins = twins_by_descriptor(rows, module.descriptors, own, device=module.device)
        else:
            assert isinstance(self.index, ReferenceIndex)
            twins = twins_by_code(self.index, module.descriptors, own)
        first = next((image for image in data.images if image.index_id in twins.rows), None)
        if first is None:
            return twins, ""
        row = twins.rows[first.index_id][0]
        # a share of an index knows the names of its own rows alone
        name = repr(self.index.names[row]) if isinstance(self.index, ReferenceIndex) else f"row {row}"
        return twins, f"the first is {first.name!r}, in the index as {name}"

    def _check(self, module: ActivationModule, descriptors: Matrix, *, activates: bool) -> None:
        """Find now what would fail after hours: too many neighbours, a target or a loss that the index has not.

        Raises:
            FaissIndexError: the index has fewer rows, or no such target.
            ConfigError: the loss does not suit the index.
            ExtractorError: the extractor has no gradient.
        """
        self.search(descriptors[:1])
        if activates:
            extractor = module.load()
            check_gradient(extractor, extractor.name, extractor.input_size)
            module.aim(self.index.quantiser, nprobe=self.index.nprobe)

    def row_descriptors(self, data: ImageData, module: ActivationModule) -> list[Matrix] | None:
        """The descriptors of the index's rows: matrices whose rows, one after the other, have the ids 0, 1, ….

        None for an index that was given as a folder, which holds none.

        Raises:
            DataError: they are others than the index was filled with.
        """
        if self.settings.path is not None or self._builder is None:
            return None
        references, _ = self._builder.references()
        added = [position for position, image in enumerate(data.images) if image.index_id >= len(references)]
        if len(references) + len(added) != self.index.pictures:
            raise DataError(
                f"{len(references)} references in {self.settings.fts_reference_path!r} and {len(added)} originals: "
                f"expected the {self.index.pictures} pictures of the run's index; the references have changed, start "
                "the run anew with --overwrite true"
            )
        return [references, module.descriptors[added]]


def _gpu_of(trainer: Trainer) -> int:
    """The GPU of this process, or its turn where the extractor runs on the CPU."""
    device = trainer.strategy.root_device
    if device.type == "cuda" and device.index is not None:
        return device.index
    return trainer.local_rank % max(1, gpu_count())


def index_of(trainer: Trainer) -> BuildIndex:
    """The trainer's index callback."""
    return next(one for one in trainer.callbacks if isinstance(one, BuildIndex))  # type: ignore[attr-defined]
