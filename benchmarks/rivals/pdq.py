"""PDQ: Facebook's perceptual hash of 256 bits (`pdqhash`), once as it is and once looked up in eight orientations."""

import numpy as np
import numpy.typing as npt
import pdqhash
from PIL import Image

from .base import Bench, Hash, Scan


class PDQ(Hash):
    """The nearest hash, whatever PDQ says of the picture's quality."""

    name = "PDQ"
    stored_bytes = 32

    def hash(self, picture: Image.Image) -> npt.NDArray[np.uint8]:
        bits, _ = pdqhash.compute(np.asarray(picture))
        return np.packbits(bits)


class PDQInEightOrientations(PDQ):
    """The copy is looked up turned by quarters and mirrored, too, which its hash gives almost for nothing."""

    name = "PDQ, eight orientations"

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.scans = (Scan("bits", 256, times=8),)

    def identify(self, copy: Image.Image) -> tuple[int, float]:
        orientations, _ = pdqhash.compute_dihedral(np.asarray(copy))
        return max((self.nearest(np.packbits(bits)) for bits in orientations), key=lambda found: found[1])
