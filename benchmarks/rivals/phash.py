"""pHash: the signs of the lowest frequencies of a small grey picture, 64 bits (`imagehash`)."""

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image

from .base import Hash


class PHash(Hash):
    """The one most people mean by "perceptual hash"."""

    name = "pHash"
    stored_bytes = 8

    def hash(self, picture: Image.Image) -> npt.NDArray[np.uint8]:
        return np.packbits(imagehash.phash(picture).hash)
