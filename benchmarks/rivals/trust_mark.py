"""TrustMark: Adobe's mark of 100 bits (`trustmark`); it fetches its weights when it is first used."""

from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from .base import BITS, Bench, Mark, UnavailableError

TIMES = 3
SPARE = 4


class TrustMark(Mark):
    """The identifier three times and four bits to spare, in place of the package's own error correction."""

    name = "TrustMark"

    def __init__(self, bench: Bench) -> None:
        from trustmark import TrustMark as Model

        super().__init__(bench)
        with redirect_stdout(StringIO()):  # it prints what it could not fetch and goes on
            self.model = Model(use_ECC=False, verbose=False, device="cpu", model_type="Q", loadRemover=False)
        if self.model.encoder is None or self.model.decoder is None:
            raise UnavailableError("its weights could not be fetched from cai-watermark.adobe.net")

    def write(self, picture: Image.Image, bits: npt.NDArray[np.int64]) -> Image.Image:
        text = "".join(map(str, bits)) * TIMES + "0" * SPARE
        return self.model.encode(picture, text, MODE="binary")

    def read(self, copy: Image.Image) -> npt.NDArray[np.float32]:
        text, _, _ = self.model.decode(copy, MODE="binary")
        bits = np.array([int(bit) for bit in text[: TIMES * BITS]], np.float32)
        return (2 * bits - 1).reshape(TIMES, BITS).sum(axis=0)
