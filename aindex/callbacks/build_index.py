"""Builds or opens the index, puts the originals into it, and gives the run to the module and the data."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn

from aindex import distributed
from aindex.activation.datamodule import ImageData
from aindex.activation.module import ActivationModule
from aindex.activation.run import Run
from aindex.callbacks.index_building import Engine, IndexBuilder, IndexSettings, settled
from aindex.callbacks.run_folder import RunFolder
from aindex.data.source_image import SourceImage, png_names
from aindex.descriptors.files import Matrix
from aindex.errors import ConfigError, DataError
from aindex.index.default_factory import DEFAULT_FACTORY
from aindex.index.devices import Device, gpu_count
from aindex.index.factory import Metric
from aindex.index.filling import Placement
from aindex.index.reference_index import ReferenceIndex
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
        self._claim: RunFolder | None = None
        self._given = (path, idx_factory, quant, nprobe, fts_training_path, fts_reference_path)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Build on rank 0, open on all; give the run to module and data."""
        data = getattr(trainer, "datamodule", None)
        if not isinstance(pl_module, ActivationModule) or not isinstance(data, ImageData):
            raise ConfigError(
                "BuildIndex works on an ActivationModule and datamodule=ImageData(…): give the trainer both"
            )
        if not any(isinstance(callback, RunFolder) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            self._claim = RunFolder()
            self._claim.setup(trainer, pl_module, stage)
        folder = Path(trainer.default_root_dir)
        trainer.num_sanity_val_steps = 0  # nothing is released before the first batch
        self.settings = replace(self.settings, **distributed.on_rank_zero(lambda: settled(*self._given)))
        pl_module.fast  # noqa: B018 (what cannot be loaded fails now)
        progress = trainer.progress_bar_callback is not None
        builder = IndexBuilder(self.settings, folder, data, pl_module.extractor, progress=progress)
        index = builder.build()
        index.nprobe = self.settings.nprobe
        if self.settings.device == "gpu":
            index.use_device("gpu", _gpu_of(trainer))
        descriptors, described, skipped = builder.originals()
        run = Run(
            folder=folder,
            images=_images(data, described, builder.ids()),
            descriptors=descriptors,
            index=index,
            rows=builder.rows(),
            kneighbors=self.kneighbors,
            batch_size=data.batch_size,
            batch_size_eval=data.batch_size_eval,
            query_nonmatch_dir=data.query_nonmatch_dir,
            left_out={"skipped": skipped},
        )
        if self.settings.path is None:
            run.row_descriptors = lambda: _row_descriptors(run, builder.references()[0], self.settings)
        pl_module.run = data.run = run
        activates = pl_module.active and trainer.state.fn == TrainerFn.FITTING
        # what would fail after hours: too many neighbours, a target or a loss that this index does not offer
        distributed.everywhere(lambda: run.search(descriptors[:1]))
        distributed.everywhere(lambda: pl_module.check() if activates else None)
        run.twins, name = distributed.on_rank_zero(lambda: _find_twins(run, pl_module.device))
        if run.twins.rows:
            self._treat_twins(run, name)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the folder, if nobody else has claimed it."""
        if self._claim is not None:
            self._claim.teardown(trainer, pl_module, stage)
            self._claim = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The same after an error."""
        self.teardown(trainer, pl_module, "")

    def _treat_twins(self, run: Run, first: str) -> None:
        """Say that originals have twins, and what is done about them."""
        treated = "a copy counts as found under either name (--index.twins left_out leaves them out)"
        if self.treatment == "left_out":
            treated = "they are left out of the evaluation (--index.twins found counts either name)"
            run.evaluated = [
                position for position, image in enumerate(run.images) if image.index_id not in run.twins.rows
            ]
            if not run.evaluated:
                raise DataError(
                    f"all {len(run.images)} originals have a twin in the index, and index.twins left_out leaves them "
                    "out: give references without them, or index.twins found"
                )
        run.notes.append(
            f"{len(run.twins.rows)} of the originals are in the index already under another name, with the same "
            f"descriptor ({first}): {treated}"
        )


def _images(data: ImageData, described: list[str], ids: npt.NDArray[np.int64]) -> list[SourceImage]:
    paths, names = data.listed()
    path_of = dict(zip(names, paths, strict=True))
    return [
        SourceImage(name=name, path=path_of[name], index_id=int(id_), released=released)
        for name, id_, released in zip(described, ids, png_names(described), strict=True)
    ]


def _row_descriptors(run: Run, references: Matrix, settings: IndexSettings) -> list[Matrix]:
    """Those of the references, and of the originals that are not among them."""
    added = [position for position, image in enumerate(run.images) if image.index_id >= len(references)]
    if len(references) + len(added) != run.index.pictures:
        raise DataError(
            f"{len(references)} references in {settings.fts_reference_path!r} and {len(added)} originals: expected "
            f"the {run.index.pictures} pictures of the run's index; the references have changed, start the run anew "
            "with --overwrite true"
        )
    return [references, run.descriptors[added]]


def _find_twins(run: Run, device: torch.device) -> tuple[Twins, str]:
    """The originals' twins, and the first of them for people."""
    own = np.array([image.index_id for image in run.images], dtype=np.int64)
    rows = run.row_descriptors()
    if rows is not None:
        twins = twins_by_descriptor(rows, run.descriptors, own, device=device)
    else:
        assert isinstance(run.index, ReferenceIndex)
        twins = twins_by_code(run.index, run.descriptors, own)
    first = next((image for image in run.images if image.index_id in twins.rows), None)
    if first is None:
        return twins, ""
    row = twins.rows[first.index_id][0]
    # a share of an index knows the names of its own rows alone
    name = repr(run.index.names[row]) if isinstance(run.index, ReferenceIndex) else f"row {row}"
    return twins, f"the first is {first.name!r}, in the index as {name}"


def _gpu_of(trainer: Trainer) -> int:
    """The GPU of this process, or its turn where the extractor runs on the CPU."""
    device = trainer.strategy.root_device
    if device.type == "cuda" and device.index is not None:
        return device.index
    return trainer.local_rank % max(1, gpu_count())
