"""Builds or opens the index, puts the originals into it, and tells the module and the data where they are."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn

import aindex.index
from aindex import distributed
from aindex.activation.module import ActivationModule
from aindex.callbacks.run_folder import INDEX_FOLDER, ORIGINALS_FOLDER, SKIPPED_FILE
from aindex.data.atomic import replace_when_done
from aindex.data.datamodule import ImageData
from aindex.data.images import SkippedImages
from aindex.data.released import SourceImage, released_names
from aindex.descriptors.extractor import Extractor
from aindex.descriptors.files import Matrix
from aindex.descriptors.stored import descriptors_for, extract_to_folder, read_extraction
from aindex.errors import ConfigError, DataError
from aindex.index.cache import train_cached
from aindex.index.devices import Device
from aindex.index.factory import Metric
from aindex.index.originals import add_originals
from aindex.index.reference_index import ReferenceIndex

SHIPPED = "shipped"
_IDS_FILE = "index_ids.npy"
_DEFAULT_FACTORY = "IVF4096,PQ8x8"


class BuildIndex(Callback):
    """The index that edited copies are searched in.

    Trained on training descriptors, filled with the references', then with those of the originals (the images of
    data_dir); or an index that exists, to which the originals are added. The result lies in `index/` of the run's
    folder; an index that was given stays as it is.

    Args:
        path: folder of an existing index to start from; `shipped` is the one that comes with aindex. Instead of
            idx_factory, quant, fts_training_path and fts_reference_path.
        idx_factory: FAISS's factory string.
        idx_dir: folder where trained indexes and extracted descriptors are kept for the next run.
        quant: metric: L2 (squared Euclidean distance) or IP (inner product).
        nprobe: coarse cells visited per search.
        kneighbors: neighbours retrieved per search.
        fts_training_path: training descriptors (.pth, .pt, .npy, .safetensors, or a folder that `aindex extract` made),
            or images to extract them from (folder or list). Never those of the references.
        fts_reference_path: the references' descriptors or images, in the same forms.
        device: where the cells are trained and searched, cpu or gpu (needs faiss-gpu).
        seed: of the training; with the command line it is `seed_everything`.
    """

    def __init__(
        self,
        path: str | None = None,
        idx_factory: str = _DEFAULT_FACTORY,
        idx_dir: str = "runs/indexes",
        quant: Metric = "L2",
        nprobe: int = 1,
        kneighbors: int = 100,
        fts_training_path: str | None = None,
        fts_reference_path: str | None = None,
        device: Device = "cpu",
        seed: int = 0,
    ) -> None:
        if kneighbors < 1:
            raise ConfigError(f"index.kneighbors {kneighbors}: expected 1 or more")
        self.path = path
        self.idx_factory, self.quant = idx_factory, quant
        self.idx_dir = Path(idx_dir).expanduser()
        self.nprobe, self.kneighbors = nprobe, kneighbors
        self.fts_training_path, self.fts_reference_path = fts_training_path, fts_reference_path
        self.device: Device = device
        self.seed = seed
        self.skipped = SkippedImages()
        self._index: ReferenceIndex | None = None
        self._progress = False

    @property
    def index(self) -> ReferenceIndex:
        """The index with the originals in it; there after `setup`."""
        assert self._index is not None
        return self._index

    def search(self, descriptors: Matrix) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Distances and ids, nq×kneighbors each."""
        return self.index.search(descriptors, self.kneighbors)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Build on rank 0, open on all; hand images, ids and descriptors on."""
        assert isinstance(pl_module, ActivationModule)
        data: ImageData = trainer.datamodule  # type: ignore[attr-defined]
        folder = Path(trainer.default_root_dir)
        paths, names = data.listed()
        extractor = pl_module.load()
        self._progress = trainer.progress_bar_callback is not None
        distributed.on_rank_zero(lambda: self._build(folder, data, paths, pl_module))
        descriptors, described, self.skipped = _read_originals(folder, extractor)
        self._index = ReferenceIndex.open(folder / INDEX_FOLDER, extractor, read_only=True)
        self._index.nprobe = self.nprobe
        if self.device == "gpu":
            self._index.use_device("gpu")
        ids = np.load(folder / ORIGINALS_FOLDER / _IDS_FILE)
        path_of = dict(zip(names, paths, strict=True))
        data.images = [
            SourceImage(name=name, path=path_of[name], index_id=int(id_), released=released)
            for name, id_, released in zip(described, ids, released_names(described), strict=True)
        ]
        self._check(
            pl_module, descriptors, activates=pl_module.active and trainer.state.fn == TrainerFn.FITTING
        )
        pl_module.prepare_for(self._index.quantiser, data.images, descriptors)

    def _check(self, module: ActivationModule, descriptors: Matrix, *, activates: bool) -> None:
        """Find now what would fail after hours: too many neighbours, a target or a loss that the index has not.

        Raises:
            FaissIndexError: the index has fewer rows, or no such target.
            ConfigError: the loss does not suit the index.
        """
        self.search(descriptors[:0])
        if not activates:
            return
        self.index.quantiser.targets(descriptors[:1], module.target)
        if (
            module.settings.loss_f == "mse"
            and "LSH" in self.index.idx_factory
            and module.target == "pq_recons"
        ):
            raise ConfigError(
                f"model.loss_f 'mse' with idx_factory {self.index.idx_factory!r}, whose codes keep no norm: expected "
                "cossim, which compares directions"
            )

    def row_descriptors(self, data: ImageData, module: ActivationModule) -> list[Matrix] | None:
        """The descriptors of the index's rows: matrices whose rows, one after the other, have the ids 0, 1, ….

        None for an index that was given as a folder, which holds none.

        Raises:
            DataError: they are others than the index was filled with.
        """
        if self.path is not None or self.fts_reference_path is None:
            return None
        references, _ = self._descriptors(self.fts_reference_path, data, module)
        added = [position for position, image in enumerate(data.images) if image.index_id >= len(references)]
        if len(references) + len(added) != self.index.ntotal:
            raise DataError(
                f"{len(references)} references in {self.fts_reference_path!r} and {len(added)} originals: expected "
                f"the {self.index.ntotal} rows of the run's index; the references have changed, start the run anew "
                "with --overwrite true"
            )
        return [references, module.descriptors[added]]

    def _build(self, folder: Path, data: ImageData, paths: Sequence[Path], module: ActivationModule) -> None:
        """Describe the originals, make the index, put them in; what an interrupted run finished is kept."""
        extractor = module.load()
        originals = extract_to_folder(
            paths,
            extractor,
            folder / ORIGINALS_FOLDER,
            root=data.root,
            batch_size=data.batch_size,
            num_workers=data.num_workers,
            precision=module.precision,
            progress=self._progress,
        )
        if originals.skipped.count:
            originals.skipped.write(folder / SKIPPED_FILE)
        if (folder / ORIGINALS_FOLDER / _IDS_FILE).is_file():
            return
        index = self._opened(extractor) if self.path is not None else self._trained(data, module)
        index.nprobe = self.nprobe
        ids = add_originals(index, originals.descriptors, originals.names)
        index.save(folder / INDEX_FOLDER, overwrite=True)
        with replace_when_done(folder / ORIGINALS_FOLDER / _IDS_FILE) as temporary:
            np.save(temporary, ids)

    def _opened(self, extractor: Extractor) -> ReferenceIndex:
        assert self.path is not None
        given = {"fts_training_path": self.fts_training_path, "fts_reference_path": self.fts_reference_path}
        for name, value in given.items():
            if value is not None:
                raise ConfigError(
                    f"index.path and index.{name} are both given: expected one of them; leave one out"
                )
        folder = (
            Path(aindex.index.__file__).parent / SHIPPED
            if self.path == SHIPPED
            else Path(self.path).expanduser()
        )
        index = ReferenceIndex.open(folder, extractor)
        stored = {"idx_factory": (self.idx_factory, index.idx_factory, _DEFAULT_FACTORY)}
        stored["quant"] = (self.quant, index.metric, "L2")
        for name, (wanted, found, default) in stored.items():
            if wanted not in (found, default):
                raise ConfigError(
                    f"index.{name} {wanted!r}, but the index in {str(folder)!r} has {found!r}: leave index.{name} out, "
                    "or leave index.path out to build another index"
                )
        return index

    def _trained(self, data: ImageData, module: ActivationModule) -> ReferenceIndex:
        if self.fts_training_path is None or self.fts_reference_path is None:
            raise ConfigError(
                "no index is named: give --index.path (shipped is the one that comes with aindex), or both "
                "--index.fts_training_path and --index.fts_reference_path"
            )
        extractor = module.load()
        training, _ = self._descriptors(self.fts_training_path, data, module)
        references, names = self._descriptors(self.fts_reference_path, data, module)
        index, _ = train_cached(
            self.idx_dir,
            training,
            idx_factory=self.idx_factory,
            metric=self.quant,
            nprobe=self.nprobe,
            seed=self.seed,
            extractor=extractor,
            device=self.device,
        )
        index.add(references, names or [f"reference {row}" for row in range(len(references))])
        return index

    def _descriptors(
        self, source: str, data: ImageData, module: ActivationModule
    ) -> tuple[Matrix, list[str] | None]:
        return descriptors_for(
            Path(source).expanduser(),
            module.load(),
            self.idx_dir,
            batch_size=data.batch_size,
            num_workers=data.num_workers,
            precision=module.precision,
            progress=self._progress,
        )


def _read_originals(folder: Path, extractor: Extractor) -> tuple[Matrix, list[str], SkippedImages]:
    descriptors, names = read_extraction(folder / ORIGINALS_FOLDER, extractor=extractor)
    return descriptors, names, SkippedImages.read(folder / ORIGINALS_FOLDER / SKIPPED_FILE)


def index_of(trainer: Trainer) -> BuildIndex:
    """The trainer's index callback."""
    return next(one for one in trainer.callbacks if isinstance(one, BuildIndex))  # type: ignore[attr-defined]
