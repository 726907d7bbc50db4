"""The LightningModule: activates batch after batch of images, and describes edited copies in validation."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pytorch_lightning import LightningModule
from timm.scheduler.scheduler import Scheduler
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from aindex.activation.distortion import ActivationSettings, DeltaSize
from aindex.activation.objective import FeatureLoss
from aindex.activation.outcome import Curves, Released, measured, to_cpu
from aindex.activation.problem import ActivationProblem, LossTerms
from aindex.data.datamodule import Picture, succeeded
from aindex.data.released import SourceImage
from aindex.descriptors.extractor import Extractor
from aindex.descriptors.inference import FastExtractor, Precision, fast_extractor
from aindex.descriptors.registry import load_extractor
from aindex.errors import ConfigError
from aindex.index.quantiser import Quantiser, Target
from aindex.parallel import side_by_side
from aindex.seeding import derive_seed

_ROWS_PER_CALL = 64
"""Edited copies in one call of the extractor: enough to fill it, few enough for its memory."""
_ROWS_PER_THREAD = 16
"""The same on a CPU, where calls go side by side: threads that wait for each other in every layer lose most of their
time when loader processes want the cores too."""

PRECISIONS: dict[str, Precision] = {"bf16-mixed": "bf16", "32-true": "fp32"}
"""Lightning's names of the precisions that ten gradient steps can bear (fp16 would drop some of them)."""


class ActivationModule(LightningModule):
    """Changes images imperceptibly so that their descriptors lie at the centre of what the index stores.

    Args:
        extractor: `aindex_small` (it comes with aindex); `sscd_disc_mixup`, `sscd_disc_advanced`,
            `sscd_disc_large`, `dino_r50`, `dino_vits`, `isc_dt1` (fetched once); `torchvision/<model>`,
            `timm/<model>`; or the path of a TorchScript file or of a `.safetensors` that `aindex train` wrote.
        resize_size: side of the extractor's square input, pixels; default: the extractor's own.
        iterations: gradient steps per image.
        target: where the descriptor is drawn: `pq_recons` what the index stores for it, decoded; `ivf_cluster`
            the centroid of its coarse cell; `ivf_cluster_half` midway to that centroid; `ori_ft` the original
            descriptor.
        loss_f: distance to the target: `cossim` minus the cosine similarity, `mse` the squared distance.
        lambda_f: weight of the feature loss.
        lambda_i: weight of the image loss.
        scaling: strength of the change, in just-noticeable differences.
        use_attenuation: shape the change by what the eye does not see (JND map); else a flat map of the
            same mean.
        use_tanh: bound the change by tanh.
        scale_channels: allow red, green and blue what the eye tolerates in each.
        delta_size: size at which the change is optimised: `image` the image's own; `input` the extractor's
            input, up-sampled once at the end (the cost does not grow with the image then).
        active: false is the passive control: the same pipeline, pixels unchanged.
        optimizer: any of torch.optim or timm.optim by name, with its arguments.
        scheduler: any of torch.optim.lr_scheduler or timm.scheduler by name, with its arguments, stepped once
            per iteration; default: none.
        seed: of the start of the optimisation; with the command line it is `seed_everything`.
    """

    def __init__(
        self,
        extractor: str = "aindex_small",
        resize_size: int | None = None,
        iterations: int = 10,
        target: Target = "pq_recons",
        loss_f: FeatureLoss = "cossim",
        lambda_f: float = 1.0,
        lambda_i: float = 0.01,
        scaling: float = 3.0,
        use_attenuation: bool = True,
        use_tanh: bool = True,
        scale_channels: bool = True,
        delta_size: DeltaSize = "image",
        active: bool = True,
        optimizer: Callable[[Iterable[Tensor]], Optimizer] = lambda p: Adam(p, lr=1.0),
        scheduler: Callable[[Optimizer], LRScheduler | Scheduler] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.extractor_name = extractor
        self.resize_size = resize_size
        self.target: Target = target
        self.active = active
        self.seed = seed
        self.settings = ActivationSettings(
            iterations=iterations,
            loss_f=loss_f,
            lambda_f=lambda_f,
            lambda_i=lambda_i,
            scaling=scaling,
            use_attenuation=use_attenuation,
            use_tanh=use_tanh,
            scale_channels=scale_channels,
            delta_size=delta_size,
        )
        self._make_optimizer = optimizer
        self._make_scheduler = scheduler
        self._extractor: Extractor | None = None
        self._fast: FastExtractor | None = None
        self._problem: ActivationProblem | None = None
        self._originals: list[Tensor] = []
        self._started = 0.0
        self.quantiser: Quantiser | None = None
        self.images: Sequence[SourceImage] = ()
        self.descriptors: npt.NDArray[np.float32] = np.empty((0, 0), np.float32)

    def setup(self, stage: str) -> None:
        """Load the extractor onto this rank's device."""
        self.load()

    def load(self) -> Extractor:
        """The extractor, on this rank's device; loaded once.

        Raises:
            ConfigError: the trainer's precision is none that activation can use.
            ExtractorError: the extractor cannot be loaded.
        """
        if self._extractor is None:
            precision = self.precision
            device = self.trainer.strategy.root_device
            extractor = load_extractor(self.extractor_name, resize_size=self.resize_size, device=device)
            self._fast = fast_extractor(extractor, device=device, precision=precision)
            self._extractor = extractor
        return self._extractor

    @property
    def precision(self) -> Precision:
        """Of the extractor's arithmetic, as the trainer was told."""
        name = str(self.trainer.precision)
        if name not in PRECISIONS:
            raise ConfigError(f"trainer.precision {name}: expected one of {', '.join(PRECISIONS)}")
        return PRECISIONS[name]

    def configure_optimizers(self) -> None:
        """None: every batch brings its own optimiser."""

    def prepare_for(
        self,
        quantiser: Quantiser,
        images: Sequence[SourceImage],
        descriptors: npt.NDArray[np.float32],
    ) -> None:
        """Tell the module what it activates and towards what.

        Args:
            quantiser: gives the targets.
            images: the images to activate; a `Picture`'s position counts in this list.
            descriptors: n×d of the originals, in the same order.
        """
        self.quantiser, self.images, self.descriptors = quantiser, images, descriptors

    def on_train_batch_start(self, batch: list[Any], batch_idx: int) -> None:
        """Pose the batch's problem, and give Lightning its optimiser, so that `global_step` counts iterations."""
        self._started = time.perf_counter()
        self._problem = None
        self.trainer.optimizers = []  # the last batch's, as large as its problem
        pictures: list[Picture] = succeeded(batch)
        pixels = [picture.pixels.to(self.device, non_blocking=True) for picture in pictures]
        self._originals = [image.permute(1, 2, 0) for image in pixels]
        if not pictures or not self.active:
            return
        assert self.quantiser is not None
        assert self._fast is not None
        positions = [picture.position for picture in pictures]
        targets = self.quantiser.targets(torch.from_numpy(self.descriptors[positions]), self.target)
        with torch.autocast(self.device.type, enabled=False):
            self._problem = ActivationProblem(
                pixels,
                targets.to(self.device),
                self._fast,
                self.settings,
                seeds=[derive_seed(self.seed, self.images[position].name, "delta") for position in positions],
                batch_size=self.trainer.datamodule.batch_size,  # type: ignore[attr-defined]
            )
        try:
            self.trainer.optimizers = [self._problem.optimizer(self._make_optimizer)]
        except ValueError as error:
            raise ConfigError(f"model.optimizer: {error}; leave it out for Adam with lr 1.0") from error

    def training_step(self, batch: list[Any], batch_idx: int) -> dict[str, Any] | None:
        """Activate a batch.

        Returns:
            `released`: a list of `Released`; `curves`: `Curves`, or None without iterations.
        """
        if not batch:
            return None
        originals = [picture.pixels.permute(1, 2, 0).contiguous() for picture in batch]
        if self._problem is None:
            return {"released": self._released(batch, originals, self._originals, None), "curves": None}
        # Lightning's autocast would reach the pixel arithmetic too; the extractor switches on its own.
        with torch.autocast(self.device.type, enabled=False):
            curves = self._iterate(self._problem, with_images=self._is_logged())
            rendered = self._problem.render()
            released = self._released(batch, originals, rendered, curves)
        self._problem = None
        return {"released": released, "curves": curves}

    def _is_logged(self) -> bool:
        """Whether a step of this batch is one that the trainer logs."""
        if not self.trainer.loggers:
            return False
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return bool(-self.global_step % every < max(1, self.settings.iterations))

    def _iterate(self, problem: ActivationProblem, *, with_images: bool) -> Curves | None:
        optimizer = self.optimizers()
        scheduler = self._scheduler_of(optimizer.optimizer)  # type: ignore[union-attr]
        terms: list[LossTerms] = []
        measures: list[Tensor] = []
        iterations = self.settings.iterations
        for iteration in range(iterations):
            last = iteration == iterations - 1
            terms.append(problem.loss_and_grad(with_image_loss=with_images or last))
            if with_images:
                measures.append(measured(list(zip(self._originals, problem.render(), strict=True))))
            optimizer.step()  # type: ignore[union-attr]
            _advance(scheduler, iteration)
        if not terms:
            return None
        losses = torch.stack([torch.stack(term) for term in terms], dim=1).cpu()  # 3×iterations×B
        if not losses[1].isfinite().all():
            raise ConfigError(
                f"the feature loss is {losses[1].max()}: expected finite numbers; lower model.optimizer.lr, or take "
                "trainer.precision 32-true"
            )
        images = torch.stack(measures, dim=1).cpu() if measures else (None, None)  # 2×iterations×B
        return Curves(
            # without the image loss the sum of the two is not the loss
            loss=torch.where(losses[2].isnan(), torch.nan, losses[0]),
            feature_loss=losses[1],
            image_loss=losses[2],
            psnr_db=images[0],
            linf_grey_levels=images[1],
        )

    def _scheduler_of(self, optimizer: Optimizer) -> LRScheduler | Scheduler | None:
        scheduler = self._make_scheduler(optimizer) if self._make_scheduler else None
        if isinstance(scheduler, ReduceLROnPlateau):
            # it would watch the loss of a batch, and tie its images to each other
            raise ConfigError("model.scheduler ReduceLROnPlateau: expected a schedule that watches no loss")
        return scheduler

    def _released(
        self, batch: list[Picture], originals: list[Tensor], rendered: list[Tensor], curves: Curves | None
    ) -> list[Released]:
        pixels = to_cpu(rendered)
        measures = measured(list(zip(self._originals, rendered, strict=True))).tolist()
        last = torch.full((3, len(batch)), torch.nan)
        if curves is not None:
            last = torch.stack([curves.loss[-1], curves.feature_loss[-1], curves.image_loss[-1]])
        columns = [*measures, *last.tolist()]
        names = ("psnr_db", "linf_grey_levels", "loss", "feature_loss", "image_loss")
        seconds = (time.perf_counter() - self._started) / len(batch)
        return [
            Released(
                image=self.images[picture.position],
                position=picture.position,
                original=originals[row],
                pixels=pixels[row],
                seconds=seconds,
                **{name: round(column[row], 6) for name, column in zip(names, columns, strict=True)},
            )
            for row, picture in enumerate(batch)
        ]

    def validation_step(self, batch: list[Any], batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Describe a batch of edited copies.

        Args:
            batch: items with `inputs`, n×3×R×R.
            batch_idx: not used.
            dataloader_idx: which evaluation; not used.

        Returns:
            Descriptors n×d float32 on the CPU, all items' rows after each other; 0×0 for an empty batch.
        """
        items = succeeded(batch)
        if not items:
            return torch.empty(0, 0)
        return self.describe(torch.cat([item.inputs for item in items]))

    def describe(self, inputs: Tensor) -> Tensor:
        """n×3×R×R prepared pictures to n×d float32 on the CPU."""
        assert self._fast is not None
        if not len(inputs):
            return torch.empty(0, self._fast.dim)
        if self.device.type == "cpu":
            # kernels round by the number of rows
            blank = inputs.new_zeros(-len(inputs) % _ROWS_PER_THREAD, *inputs.shape[1:])
            calls = torch.split(torch.cat([inputs, blank]), _ROWS_PER_THREAD)
            return torch.cat(side_by_side(self._described, calls))[: len(inputs)]
        return torch.cat([self._described(rows) for rows in torch.split(inputs, _ROWS_PER_CALL)])

    @torch.no_grad()
    def _described(self, rows: Tensor) -> Tensor:
        assert self._fast is not None
        return self._fast(rows.to(self.device, non_blocking=True)).cpu()


def _advance(scheduler: LRScheduler | Scheduler | None, iteration: int) -> None:
    if isinstance(scheduler, LRScheduler):
        scheduler.step()
    elif scheduler is not None:
        # timm: whether a schedule counts epochs or updates is its own setting; the other call does nothing
        scheduler.step(iteration + 1)
        scheduler.step_update(iteration + 1)
