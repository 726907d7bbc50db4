"""RivaGAN: a mark by a pair of networks, whose weights come inside the wheel (`invisible-watermark`)."""

from pathlib import Path

import imwatermark
import numpy as np
import numpy.typing as npt
import onnxruntime
from imwatermark.rivaGan import RivaWatermark
from PIL import Image

from .base import BITS, Bench, Mark


class RivaGAN(Mark):
    """At the picture's own size, however small; read by how sure the network is of each bit, not by its sign alone."""

    name = "RivaGAN"
    slow = True

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # as for every rival
        folder = Path(imwatermark.__file__).parent
        for role in ("encoder", "decoder"):
            session = onnxruntime.InferenceSession(folder / f"rivagan_{role}.onnx", options)
            setattr(RivaWatermark, role, session)

    def write(self, picture: Image.Image, bits: npt.NDArray[np.int64]) -> Image.Image:
        marked = RivaWatermark(bits.tolist(), BITS).encode(np.asarray(picture)[:, :, ::-1])
        return Image.fromarray(np.ascontiguousarray(marked[:, :, ::-1]))

    def read(self, copy: Image.Image) -> npt.NDArray[np.float32]:
        frame = np.asarray(copy, np.float32)[:, :, ::-1].transpose(2, 0, 1) / 127.5 - 1
        (bits,) = RivaWatermark.decoder.run(None, {"frame": frame[None, :, None]})
        return bits[0] - 0.52  # the package's threshold
