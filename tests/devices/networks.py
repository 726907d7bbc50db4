"""Extractors that can be made on a fake GPU."""

import torch
from torch import Tensor, nn

from aindex.descriptors.inference import FastExtractor, Precision, fast_extractor
from tests.conftest import TINY_DIM, TINY_INPUT_SIZE


class Net(nn.Module):
    """A small extractor, made on whatever device is the default."""

    input_size, dim = TINY_INPUT_SIZE, TINY_DIM

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Linear(8, TINY_DIM)

    def forward(self, pixels: Tensor) -> Tensor:
        """B×3×R×R → B×d."""
        return nn.functional.normalize(self.head(self.layers(pixels)), dim=1)


def fast_net(precision: Precision = "bf16") -> FastExtractor:
    """It, prepared for the loop, on the fake GPU."""
    with torch.device("cuda"):
        return fast_extractor(Net().eval(), device="cuda", precision=precision)
