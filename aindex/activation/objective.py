"""What the loop minimises: closeness to the target in descriptor space, and a small change of the image."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

FeatureLoss = Literal["cossim", "mse"]


def feature_loss(descriptors: Tensor, targets: Tensor, kind: FeatureLoss = "cossim") -> Tensor:
    """Distance of each descriptor to its target: B×d, B×d → B, float32.

    Args:
        descriptors: B×d, differentiable.
        targets: B×d.
        kind: `cossim` = minus the cosine similarity; `mse` = squared Euclidean distance, summed over d.
    """
    descriptors, targets = descriptors.float(), targets.float()
    if kind == "cossim":
        return -F.cosine_similarity(descriptors, targets, dim=1)
    if kind == "mse":
        return (descriptors - targets).square().sum(dim=1)
    raise ValueError(f"feature loss {kind!r}: expected 'cossim' or 'mse'")


def image_loss(changes: Sequence[Tensor]) -> Tensor:
    """Mean squared change of each image over its own pixels and channels.

    Args:
        changes: per image x' − x in normalised space, 3×H×W each, of any sizes.

    Returns:
        B, float32.
    """
    return torch.stack([change.float().square().mean() for change in changes])
