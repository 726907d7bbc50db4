"""What every extractor sees: ImageNet-normalised pixels, then resized to a square."""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from aindex.descriptors.resizing import resize_picture

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(pixels: Tensor) -> Tensor:
    """RGB in [0, 1], …×3×H×W, to zero mean and unit deviation over ImageNet."""
    mean, std = (_sent(values, pixels.dtype, pixels.device) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels - mean) / std


def resize(values: Tensor, size: int) -> Tensor:
    """…×C×H×W to …×C×size×size: bilinear, antialiased, the aspect ratio not kept, differentiable."""
    batch = values.reshape(-1, *values.shape[-3:])
    resized = F.interpolate(batch, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    return resized.reshape(*values.shape[:-2], size, size)


def prepare(image: Image.Image, size: int) -> Tensor:
    """A PIL picture as an extractor's input, float32 3×size×size.

    As if the resize acted on normalised values: its weights sum to one, so what is the same for all pixels of a
    channel may as well come after it, where there are fewer.
    """
    pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    return normalise(resize_picture(pixels, size).div_(255))


@lru_cache(maxsize=64)
def _sent(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Constants of channels, C×1×1, sent to a device once: the activation loop would wait for them each iteration."""
    with torch.inference_mode(False):  # kept, and gradients flow through what they scale
        return torch.tensor(values, dtype=dtype, device=device)[:, None, None]
