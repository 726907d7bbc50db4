"""The LightningModule: activates batch after batch of images, and describes edited copies in validation."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from pytorch_lightning import LightningModule
from timm.scheduler.scheduler import Scheduler
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from aindex.activation.datamodule import Picture
from aindex.activation.goals import FeatureLoss, GoalMaker
from aindex.activation.loop import Activation, activate_images
from aindex.activation.optimizer import OptimizerFactory, SchedulerFactory
from aindex.activation.outcome import Curves, Failed, Released, measured, to_cpu
from aindex.activation.run import GivenRun, Run
from aindex.activation.settings import ActivationSettings, DeltaSize
from aindex.data.loading import succeeded
from aindex.descriptors.extractor import Extractor, check_gradient
from aindex.descriptors.inference import FastExtractor, Precision, fast_extractor
from aindex.descriptors.registry import load_extractor
from aindex.edits.differentiable import EditSettings
from aindex.errors import ConfigError
from aindex.index.quantiser import Target
from aindex.parallel import side_by_side
from aindex.seeding import derive_seed

_ROWS_PER_CALL = 64
"""Edited copies in one call of the extractor: enough to fill it, few enough for its memory."""
_ROWS_PER_THREAD = 16
"""The same on a CPU, where calls go side by side: threads that wait for each other in every layer lose most of their
time when loader processes want the cores too."""

PRECISIONS: dict[str, Precision] = {"bf16-mixed": "bf16", "32-true": "fp32"}
"""Lightning's names of the precisions that ten gradient steps can bear (fp16 would drop some of them)."""


class ActivationModule(GivenRun, LightningModule):
    """Changes images imperceptibly so that their descriptors lie at the centre of what the index stores.

    A batch is a list of `Picture`; what it is drawn to comes with it, where the index files it from the module's `run`.

    Args:
        extractor: `aindex_small` (it comes with aindex); `sscd_disc_mixup`, `sscd_disc_advanced`,
            `sscd_disc_large`, `dino_r50`, `dino_vits`, `isc_dt1` (fetched once); `torchvision/<model>`,
            `timm/<model>`; or the path of a TorchScript file or of a `.safetensors` that `aindex train` wrote.
        resize_size: side of the extractor's square input, pixels; default: the extractor's own.
        iterations: gradient steps per image.
        target: where `cossim` and `mse` draw the descriptor: `pq_recons` what the index stores for it, decoded;
            `ivf_cluster` the centroid of its coarse cell; `ivf_cluster_half` midway to that centroid; `ori_ft` the
            original descriptor.
        loss_f: what is minimised: `cossim` minus the cosine similarity to the target, `mse` the squared distance;
            `assignment` minus the log-probability that the index files the image where its row lies.
        temperature: of `assignment`, in squared distances.
        anchor: weight, within `assignment`, of staying near the unchanged image's descriptor, for indexes that will be
            trained anew.
        lambda_f: weight of the feature loss.
        lambda_i: weight of the image loss.
        scaling: strength of the change, in just-noticeable differences.
        min_psnr: PSNR in dB that the change is optimised to keep (default: no bound).
        use_attenuation: shape the change by what the eye does not see (JND map); else by a flat map of the
            same mean.
        use_tanh: bound the change by tanh.
        scale_channels: allow red, green and blue what the eye tolerates in each.
        delta_size: size at which the change is optimised: `image` the image's own; `input` the extractor's
            input, or a number, so many times that: it is up-sampled once at the end, and the cost does not grow with
            the image.
        views: randomly edited copies that each iteration draws to the same place.
        edits: what they are edited by.
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
        temperature: float = 0.05,
        anchor: float = 0.0,
        lambda_f: float = 1.0,
        lambda_i: float = 0.01,
        scaling: float = 3.0,
        min_psnr: float | None = None,
        use_attenuation: bool = True,
        use_tanh: bool = True,
        scale_channels: bool = True,
        delta_size: DeltaSize = "image",
        views: int = 0,
        edits: EditSettings = EditSettings(),  # noqa: B008 (frozen)
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
            temperature=temperature,
            anchor=anchor,
            lambda_f=lambda_f,
            lambda_i=lambda_i,
            scaling=scaling,
            min_psnr=min_psnr,
            use_attenuation=use_attenuation,
            use_tanh=use_tanh,
            scale_channels=scale_channels,
            delta_size=delta_size,
            views=views,
            edits=edits,
        )
        self.make_optimizer: OptimizerFactory = optimizer
        self.make_scheduler: SchedulerFactory | None = scheduler
        self._extractor: Extractor | None = None
        self._make_goal: GoalMaker | None = None

    @property
    def extractor(self) -> Extractor:
        """On this rank's device; loaded when it is first asked for.

        Raises:
            ExtractorError: it cannot be loaded.
        """
        if self._extractor is None:
            self._extractor = load_extractor(
                self.extractor_name,
                resize_size=self.resize_size,
                device=self.trainer.strategy.root_device,
            )
        return self._extractor

    @property
    def fast(self) -> FastExtractor:
        """The extractor in the form and precision that the loop calls.

        Raises:
            ConfigError: the trainer's precision is none that activation can use.
            ExtractorError: the extractor cannot be loaded.
        """
        device = self.trainer.strategy.root_device
        return fast_extractor(self.extractor, device=device, precision=self.precision)

    @property
    def precision(self) -> Precision:
        """Of the extractor's arithmetic, as the trainer was told."""
        name = str(self.trainer.precision)
        if name not in PRECISIONS:
            raise ConfigError(f"trainer.precision {name}: expected one of {', '.join(PRECISIONS)}")
        return PRECISIONS[name]

    def configure_optimizers(self) -> None:
        """None: every batch brings its own optimiser."""

    @property
    def run(self) -> Run:
        """What the run has; see `GivenRun`."""
        return super().run

    @run.setter
    def run(self, run: Run) -> None:
        self._run, self._make_goal = run, None

    def goal_maker(self) -> GoalMaker:
        """Says what descriptors are drawn to.

        Raises:
            AindexError: the run's index has no such target, or the loss does not suit it.
        """
        return GoalMaker(
            self.run.quantiser,
            loss_f=self.settings.loss_f,
            target=self.target,
            temperature=self.settings.temperature,
            anchor=self.settings.anchor,
            nprobe=self.run.index.nprobe,
            device=self.device,
        )

    def check(self) -> None:
        """Find before the first batch what would fail in it.

        Raises:
            ExtractorError: the extractor has no gradient.
            AindexError: the run's index has no such target, or the loss does not suit it.
        """
        check_gradient(self.extractor, self.extractor.name, self.extractor.input_size)
        self.goal_maker()([self.run.goal_of(0)])

    def training_step(self, batch: list[Any], batch_idx: int) -> dict[str, Any] | None:
        """Activate a batch.

        Returns:
            `released`: a list of `Released`; `failed`: a list of `Failed`; `curves`: `Curves` of those that are
            released, or None without iterations.
        """
        started = time.perf_counter()
        pictures: list[Picture] = succeeded(batch)
        if not pictures:
            return None
        images = [picture.pixels.to(self.device, non_blocking=True) for picture in pictures]
        failed: list[Failed] = []
        curves = None
        rendered: Sequence[Tensor | None] = [image.permute(1, 2, 0) for image in images]
        if self.active:
            activation = self._activated(pictures, images)
            rendered, curves = activation.released(), activation.curves
            failed = [
                Failed(position=picture.position, name=picture.image.name, reason=reason)
                for picture, reason in zip(pictures, activation.failures, strict=True)
                if reason is not None
            ]
        kept = [row for row, pixels in enumerate(rendered) if pixels is not None]
        curves = None if curves is None else curves.only(kept)
        released = self._released(
            [pictures[row] for row in kept],
            [images[row] for row in kept],
            [pixels for pixels in rendered if pixels is not None],
            curves,
        )
        seconds = (time.perf_counter() - started) / len(pictures)
        released = [replace(one, seconds=seconds) for one in released]
        return {"released": released, "failed": failed, "curves": curves}

    def _activated(self, pictures: list[Picture], images: list[Tensor]) -> Activation:
        self._make_goal = self._make_goal or self.goal_maker()
        self.trainer.optimizers = []  # the last batch's, as large as its δ
        # Lightning's autocast would reach the pixel arithmetic too; the extractor switches on its own
        with torch.autocast(self.device.type, enabled=False):
            return activate_images(
                images,
                self._make_goal([picture.goal for picture in pictures]),
                self.fast,
                self.settings,
                seeds=[derive_seed(self.seed, picture.image.name, "delta") for picture in pictures],
                batch_size=self.run.batch_size,
                optimizer=self.make_optimizer,
                scheduler=self.make_scheduler,
                stepping=self._counted,
                with_measures=self._is_logged(),
            )

    def _counted(self, optimizer: Optimizer) -> Callable[[], Any]:
        """Steps that Lightning counts in `global_step`: it must know an optimiser before it steps."""
        self.trainer.optimizers = [optimizer]
        self.trainer.fit_loop.epoch_loop.manual_optimization.on_run_start()
        return self.optimizers().step  # type: ignore[union-attr]

    def _is_logged(self) -> bool:
        """Whether a step of this batch is one that the trainer logs."""
        if not self.trainer.loggers:
            return False
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return bool(-self.global_step % every < max(1, self.settings.iterations))

    def _released(
        self, pictures: list[Picture], images: list[Tensor], rendered: list[Tensor], curves: Curves | None
    ) -> list[Released]:
        if not pictures:
            return []
        measures = measured(images, rendered).tolist()
        last = torch.full((3, len(pictures)), torch.nan)
        if curves is not None:
            last = torch.stack([curves.loss[-1], curves.feature_loss[-1], curves.image_loss[-1]])
        names = ("psnr_db", "linf_grey_levels", "loss", "feature_loss", "image_loss")
        columns = dict(zip(names, [*measures, *last.tolist()], strict=True))
        return [
            Released(
                image=picture.image,
                position=picture.position,
                original=picture.pixels.permute(1, 2, 0).contiguous(),
                pixels=pixels,
                seconds=0.0,
                **{name: round(column[row], 6) for name, column in columns.items()},
            )
            for row, (picture, pixels) in enumerate(zip(pictures, to_cpu(rendered), strict=True))
        ]

    def validation_step(self, batch: list[Any], batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Describe a batch of edited copies: items with `inputs`, n×3×R×R.

        Returns:
            Descriptors n×d float32 on the CPU, all items' rows after each other; 0×0 for an empty batch.
        """
        items = succeeded(batch)
        if not items:
            return torch.empty(0, 0)
        return self.describe(torch.cat([item.inputs for item in items]))

    def describe(self, inputs: Tensor) -> Tensor:
        """n×3×R×R prepared pictures to n×d float32 on the CPU."""
        fast = self.fast  # loaded before threads call it
        if not len(inputs):
            return torch.empty(0, fast.dim)
        if self.device.type == "cpu":
            # kernels round by the number of rows
            blank = inputs.new_zeros(-len(inputs) % _ROWS_PER_THREAD, *inputs.shape[1:])
            calls = torch.split(torch.cat([inputs, blank]), _ROWS_PER_THREAD)
            return torch.cat(side_by_side(self._described, calls))[: len(inputs)]
        return torch.cat([self._described(rows) for rows in torch.split(inputs, _ROWS_PER_CALL)])

    @torch.no_grad()
    def _described(self, rows: Tensor) -> Tensor:
        return self.fast(rows.to(self.device, non_blocking=True)).cpu()
