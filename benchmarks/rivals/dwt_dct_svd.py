"""DwtDctSvd: a mark in the frequencies of small blocks, without a network (`invisible-watermark`)."""

import cv2
import numpy as np
import numpy.typing as npt
from imwatermark.dwtDctSvd import EmbedDwtDctSvd
from PIL import Image

from .base import BITS, Mark

SIDE = 256


class DwtDctSvd(Mark):
    """Written and read at 256×256 pixels, so that a copy of another size is read on the same grid.

    The package's own front refuses pictures of fewer pixels than that, which many are; its method does not mind.
    """

    name = "DwtDctSvd"

    def write(self, picture: Image.Image, bits: npt.NDArray[np.int64]) -> Image.Image:
        small = _bgr(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        marked = EmbedDwtDctSvd(bits.tolist(), wmLen=BITS).encode(small.copy())
        change = cv2.resize(marked.astype(np.float32) - small, picture.size)[:, :, ::-1]
        return Image.fromarray(np.clip(np.rint(np.asarray(picture) + change), 0, 255).astype(np.uint8))

    def read(self, copy: Image.Image) -> npt.NDArray[np.float32]:
        small = _bgr(copy.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        bits = EmbedDwtDctSvd(wmLen=BITS).decode(small)
        return 2 * bits.astype(np.float32) - 1


def _bgr(picture: Image.Image) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(np.asarray(picture)[:, :, ::-1])
