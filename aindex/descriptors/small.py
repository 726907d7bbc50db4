"""The project's own small extractor: a narrow residual network, and its file form (safetensors, no pickle).

The trunk is timm's ResNet with a three-convolution stem and average-pooled shortcuts; generalised-mean pooling, one
linear layer and unit norm follow, as in SSCD (Pizzi et al., CVPR 2022).
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn
from torch.nn import functional as F

from aindex.data.images import one_line
from aindex.errors import ConfigError, ExtractorError

FORMAT = "aindex-small-1"


@dataclass(frozen=True)
class SmallConfig:
    """What decides the shape of the network.

    Attributes:
        channels: width of the four stages.
        layers: residual blocks per stage.
        stem_width: width of the stem's first convolutions.
        dim: descriptor dimension.
        input_size: side in pixels of the square input it was trained for.
    """

    channels: tuple[int, ...] = (32, 64, 128, 256)
    layers: tuple[int, ...] = (2, 2, 2, 2)
    stem_width: int = 16
    dim: int = 256
    input_size: int = 160

    def __post_init__(self) -> None:
        if min(*self.channels, *self.layers, self.stem_width, self.dim) < 1 or len(self.channels) != len(
            self.layers
        ):
            raise ConfigError(
                f"channels {self.channels}, layers {self.layers}, stem_width {self.stem_width}, dim {self.dim}: "
                "expected as many channels as layers, all of them 1 or more; leave them out"
            )


class GeM(nn.Module):
    """Generalised-mean pooling over the positions: (mean of x³)^(1/3), B×C×H×W → B×C (Radenović et al., 2018)."""

    def forward(self, features: Tensor) -> Tensor:
        """Pool in float32 whatever the precision around: cubes need a longer mantissa than bf16 has."""
        with torch.autocast(features.device.type, enabled=False):
            return features.float().clamp(min=1e-6).pow(3.0).mean((2, 3)).pow(1 / 3.0)


class Standardise(nn.Module):
    """Each picture to zero mean and unit deviation over all its pixels and channels.

    Brightness and contrast then change little of what the network sees, and colours keep their relations.
    """

    def forward(self, images: Tensor) -> Tensor:
        """B×3×R×R → the same shape; a flat picture becomes zeros."""
        last = images.permute(0, 2, 3, 1)  # as channels-last pictures lie in memory
        return F.layer_norm(last, last.shape[1:], eps=0.01).permute(0, 3, 1, 2)


class SmallExtractor(nn.Module):
    """Normalised images B×3×R×R → unit-norm descriptors B×dim."""

    def __init__(self, config: SmallConfig | None = None) -> None:
        super().__init__()
        self.config = config or SmallConfig()
        self.standardise = Standardise()
        self.trunk = ResNet(
            BasicBlock,  # type: ignore[arg-type]  # timm annotates the instance, and wants the class
            self.config.layers,
            channels=self.config.channels,
            stem_width=self.config.stem_width,
            stem_type="deep",
            avg_down=True,
            num_classes=0,
            global_pool="",
        )
        self.pool = GeM()
        self.head = nn.Linear(self.config.channels[-1], self.config.dim)

    def forward(self, images: Tensor) -> Tensor:
        """Descriptors (float32) of a batch."""
        pooled = self.pool(self.trunk(self.standardise(images)))  # B×C
        return F.normalize(self.head(pooled).float(), dim=1)  # B×dim


def save_small(model: SmallExtractor, path: Path, *, name: str, notes: dict[str, str] | None = None) -> None:
    """Write the weights in half precision, with what is needed to rebuild the network, as safetensors.

    Args:
        model: the network.
        path: the file, ending in `.safetensors`.
        name: what the extractor is called in index folders and reports.
        notes: anything else worth keeping with the weights (recipe, seed, data).
    """
    half = {
        key: (value.half() if value.is_floating_point() else value).detach().cpu().contiguous().clone()
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")  # used by training only
    }
    metadata = {"format": FORMAT, "name": name, "config": json.dumps(asdict(model.config)), **(notes or {})}
    save_file(half, path, metadata=metadata)


def load_small(path: Path) -> SmallExtractor:
    """The network in a file of `save_small`, in evaluation mode, float32.

    Raises:
        ExtractorError: the file is missing, damaged, or not of this form.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ExtractorError(
            f"{path} cannot be read as an extractor ({error}); give a .safetensors file written by `aindex train`"
        ) from error
    if metadata.get("format") != FORMAT:
        raise ExtractorError(
            f"{path} has the format {metadata.get('format')!r}, expected {FORMAT!r}; "
            "give a .safetensors file written by `aindex train`"
        )
    try:
        config = json.loads(metadata["config"])
        for key in ("channels", "layers"):
            config[key] = tuple(config[key])
        model = SmallExtractor(SmallConfig(**config))
        missing, unexpected = model.load_state_dict({k: v.float() for k, v in weights.items()}, strict=False)
    # a stranger may have written it
    except (ConfigError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ExtractorError(
            f"{path} does not fit its own description ({one_line(error)[:200]}); give a .safetensors file "
            "written by `aindex train`, or update aindex if a later one wrote it"
        ) from error
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ExtractorError(
            f"{path} does not fit its own description: missing {missing}, unexpected {unexpected}"
        )
    return model.eval()
