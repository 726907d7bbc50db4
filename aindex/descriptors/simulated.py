"""Descriptors of simulated edits of pictures: where in descriptor space their copies will lie."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from aindex.data.images import read_image
from aindex.descriptors.extractor import Extractor
from aindex.descriptors.files import Matrix
from aindex.descriptors.inference import FastExtractor, fast_extractor
from aindex.descriptors.preprocess import normalise, resize
from aindex.edits.differentiable import EditSettings, draw, edited, sent
from aindex.errors import ImageReadError
from aindex.parallel import side_by_side
from aindex.seeding import derive_seed
from aindex.terminal import bars_are_off

COPIES = 24
"""Simulated copies of a picture: enough to tell its likely cells."""

_TOGETHER = 16
_SIZE = 2
"""Side of the pictures that are edited, in sides of the extractor's input."""


def simulated_copies(
    paths: Sequence[Path],
    names: Sequence[str],
    extractor: Extractor,
    *,
    copies: int = COPIES,
    seed: int = 0,
    progress: bool = False,
) -> Iterator[Matrix]:
    """Descriptors of edited copies of each picture, c×d, picture after picture, in fp32.

    They depend on the picture, its name and the seed alone. The edits are those that the activation loop draws, never
    the evaluation's.

    Args:
        paths: of the pictures.
        names: theirs; what is drawn derives from them.
        extractor: describes.
        copies: c.
        seed: of the edits.
        progress: show a bar.

    Raises:
        ImageReadError: a picture cannot be read.
    """
    fast = fast_extractor(extractor, precision="fp32")

    def each(one: tuple[Path, str]) -> Matrix:
        return _describe(*one, fast, copies, seed)

    pairs = list(zip(paths, names, strict=True))
    with tqdm(total=len(pairs), desc="simulate edits", unit="img", disable=bars_are_off(progress)) as bar:
        for start in range(0, len(pairs), _TOGETHER):
            some = pairs[start : start + _TOGETHER]
            yield from side_by_side(each, some) if fast.device.type == "cpu" else map(each, some)
            bar.update(len(some))


@torch.no_grad()
def _describe(path: Path, name: str, fast: FastExtractor, copies: int, seed: int) -> Matrix:
    try:
        pixels = torch.from_numpy(np.array(read_image(path))).permute(2, 0, 1).to(fast.device).float() / 255
    except ImageReadError as error:
        raise ImageReadError(f"{name!r} can no longer be read: {error}") from error
    rng, aspect = random.Random(derive_seed(seed, name, "rows")), pixels.shape[2] / pixels.shape[1]
    views = [draw(rng, aspect, EditSettings()) for _ in range(copies)]
    picture = resize(pixels, _SIZE * fast.input_size)
    (edits,) = sent([views], fast.device)
    rows = edited(picture.expand(copies, -1, -1, -1).contiguous(), edits, fast.input_size)
    descriptors: Matrix = fast(normalise(rows).contiguous(memory_format=torch.channels_last)).cpu().numpy()
    return descriptors
