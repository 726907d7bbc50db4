"""Video Seal and Pixel Seal: Meta's marks of 256 bits, used on pictures; both fetch their weights when first used."""

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torchvision.transforms.functional import to_pil_image, to_tensor

from aindex.descriptors.fetch import fetch
from aindex.errors import AindexError

from .base import BITS, Bench, Mark, UnavailableError

SCRIPT = "https://dl.fbaipublicfiles.com/videoseal/y_256b_img.jit"
TIMES = 256 // BITS


class VideoSeal(Mark):
    """The identifier eight times; its TorchScript file needs no package."""

    name = "Video Seal"

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        try:
            self.model = torch.jit.load(fetch(SCRIPT, progress=False)).eval()
        except AindexError as error:
            raise UnavailableError(f"its weights could not be fetched from {SCRIPT}") from error

    @torch.no_grad()
    def write(self, picture: Image.Image, bits: npt.NDArray[np.int64]) -> Image.Image:
        message = torch.from_numpy(bits).float().repeat(TIMES)[None]
        return to_pil_image(self.embed(to_tensor(picture)[None], message)[0].clamp(0, 1))

    @torch.no_grad()
    def read(self, copy: Image.Image) -> npt.NDArray[np.float32]:
        bits = self.detect(to_tensor(copy)[None])[0, 1:]  # the first says whether there is a mark
        return bits.reshape(TIMES, BITS).sum(dim=0).numpy()

    def embed(self, picture: torch.Tensor, message: torch.Tensor) -> torch.Tensor:
        """1×3×H×W in [0, 1] and 1×256 → 1×3×H×W."""
        return self.model.embed(picture, message)

    def detect(self, copy: torch.Tensor) -> torch.Tensor:
        """1×3×H×W → 1×257."""
        return self.model.detect(copy)


class PixelSeal(VideoSeal):
    """By Meta's package `videoseal`, in a version that knows it."""

    name = "Pixel Seal"

    def __init__(self, bench: Bench) -> None:
        import videoseal

        Mark.__init__(self, bench)
        self.model = videoseal.load("pixelseal").eval()

    def embed(self, picture: torch.Tensor, message: torch.Tensor) -> torch.Tensor:
        return self.model.embed(picture, message, is_video=False)["imgs_w"]

    def detect(self, copy: torch.Tensor) -> torch.Tensor:
        return self.model.detect(copy, is_video=False)["preds"]
