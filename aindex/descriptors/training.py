"""Training a copy-detection descriptor with Lightning, and its export as a file that every command takes."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from aindex.data.atomic import replace_when_done
from aindex.descriptors.preprocess import normalise
from aindex.descriptors.small import SmallConfig, SmallExtractor, save_small
from aindex.descriptors.training_data import validation_attacks
from aindex.errors import ConfigError


class ExtractorTraining(LightningModule):
    """A small extractor trained so that edited views of a picture get near descriptors.

    Args:
        channels: widths of the four residual stages.
        layers: residual blocks of each stage.
        stem_width: width of the first convolutions.
        dim: descriptor dimension.
        temperature: of InfoNCE.
        koleo_weight: weight of the entropy term beside InfoNCE.
        lr: peak learning rate of AdamW; one cycle, warmed up over the first 5 % of the steps, down to nothing.
        weight_decay: of AdamW, on matrices and kernels (not on biases and norms).
    """

    def __init__(
        self,
        channels: tuple[int, ...] = (32, 64, 128, 256),
        layers: tuple[int, ...] = (2, 2, 2, 2),
        stem_width: int = 16,
        dim: int = 256,
        temperature: float = 0.06,
        koleo_weight: float = 1.0,
        lr: float = 2e-3,
        weight_decay: float = 0.02,
    ) -> None:
        super().__init__()
        for name, value in (("temperature", temperature), ("lr", lr)):
            if not 0 < value < math.inf:
                raise ConfigError(f"model.{name} {value}: expected a number above 0; leave it out")
        for name, value in (("koleo_weight", koleo_weight), ("weight_decay", weight_decay)):
            if not 0 <= value < math.inf:
                raise ConfigError(f"model.{name} {value}: expected a number of 0 or more; leave it out")
        self.save_hyperparameters()
        config = SmallConfig(channels=channels, layers=layers, stem_width=stem_width, dim=dim)
        self.model = SmallExtractor(config).to(memory_format=torch.channels_last)
        self._validation: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, pictures: Tensor) -> Tensor:
        """uint8 B×3×R×R → unit-norm descriptors B×dim."""
        values = normalise(pictures.float() / 255)
        return self.model(values.contiguous(memory_format=torch.channels_last))  # type: ignore[no-any-return]

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        """One batch of view pairs."""
        weak, strong, image_ids = batch
        descriptors = self(torch.cat([weak, strong]))  # 2B×d
        ids = torch.cat([image_ids, image_ids])
        contrast = info_nce(descriptors, ids, temperature=self.hparams["temperature"])
        entropy = koleo(descriptors, ids)
        loss: Tensor = contrast + self.hparams["koleo_weight"] * entropy
        parts: dict[str, Tensor | float] = {"loss": loss, "info_nce": contrast, "koleo": entropy}
        parts["input_size"] = float(weak.shape[-1])
        self.log_dict({f"train/{key}": value for key, value in parts.items()}, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        """Collect descriptors of left-out pictures and their edited copies."""
        pictures, images, edits = batch
        self._validation.append((self(pictures), images, edits))

    def on_validation_epoch_end(self) -> None:
        """Exhaustive R@1 among the left-out pictures, per edit and on average."""
        descriptors, images, edits = (torch.cat(parts) for parts in zip(*self._validation, strict=True))
        self._validation.clear()
        originals = edits < 0
        best = (descriptors[~originals] @ descriptors[originals].T).argmax(1)
        found = (images[originals][best] == images[~originals]).float()
        recalls = {
            str(attack): found[edits[~originals] == number].mean()
            for number, attack in enumerate(validation_attacks())
        }
        self.log_dict({f"recall@1/{name.replace(' ', '_')}": value for name, value in recalls.items()})
        self.log("val/recall@1", torch.stack(list(recalls.values())).nanmean(), prog_bar=True)

    def configure_optimizers(self) -> Any:
        """AdamW under one cycle over the whole run."""
        lr, decay = self.hparams["lr"], self.hparams["weight_decay"]
        matrices = {"params": [p for p in self.parameters() if p.ndim > 1], "weight_decay": decay}
        others = {"params": [p for p in self.parameters() if p.ndim <= 1], "weight_decay": 0.0}
        optimizer = AdamW([matrices, others], lr=lr)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = OneCycleLR(
            optimizer, lr, total_steps=steps, pct_start=0.05, cycle_momentum=False, final_div_factor=1000
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def info_nce(descriptors: Tensor, image_ids: Tensor, *, temperature: float) -> Tensor:
    """Mean cross-entropy of picking a view's other views among all views of the batch.

    Args:
        descriptors: V×d, unit norm, every image by at least two views.
        image_ids: V, which image each view shows.
        temperature: divides the cosine similarities.
    """
    itself = torch.eye(len(descriptors), dtype=torch.bool, device=descriptors.device)
    logits = (descriptors @ descriptors.T / temperature).masked_fill(itself, -torch.inf)
    log_probabilities = logits - logits.logsumexp(1, keepdim=True)
    same = (image_ids[:, None] == image_ids) & ~itself
    # chosen by a mask as an index, the views would have to be counted first, for which the CPU waits for the GPU
    return -log_probabilities.masked_fill(~same, 0).sum() / same.sum()


def koleo(descriptors: Tensor, image_ids: Tensor) -> Tensor:
    """Minus the mean logarithm of each view's distance to the nearest view of another image (Kozachenko–Leonenko).

    Spreads the descriptors over the sphere, so that distances mean the same everywhere. With InfoNCE it is the
    objective of SSCD (Pizzi et al., CVPR 2022). Arguments as `info_nce`.
    """
    eps = 1e-8  # keeps the logarithm finite
    other = image_ids[:, None] != image_ids
    with torch.no_grad():
        nearest = (descriptors @ descriptors.T).masked_fill(~other, -torch.inf).argmax(1)
    distances = F.pairwise_distance(descriptors, descriptors[nearest], eps=eps)
    return -(distances + eps).log().mean()


class ExportExtractor(Callback):
    """At the end of training, writes the best checkpoint's network as an extractor file.

    Args:
        path: the file to write, ending in `.safetensors`.
        name: what the extractor is called in index folders and reports.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = Path(path), name

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it, with the recipe in its metadata."""
        assert isinstance(pl_module, ExtractorTraining)
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if best:
            state = torch.load(best, map_location="cpu", weights_only=True)["state_dict"]
            pl_module.load_state_dict(state)
        model = pl_module.model
        data: Any = getattr(trainer, "datamodule", None)
        sizes = tuple(data.input_sizes) if data is not None else (model.config.input_size,)
        model.config = replace(model.config, input_size=sizes[-1])
        notes = {"epochs": str(trainer.max_epochs), "recipe": str(dict(pl_module.hparams))}
        if trainer.is_global_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replace_when_done(self.path) as temporary:
                save_small(model, temporary, name=self.name, notes=notes)
        rank_zero_info(f"extractor written to {self.path}")
