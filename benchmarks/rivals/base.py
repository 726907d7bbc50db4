"""What a rival is, what all of them share, and what they know about the bench."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from aindex.data.images import read_image
from aindex.descriptors.extractor import Extractor
from aindex.descriptors.inference import FastExtractor
from aindex.descriptors.preprocess import prepare
from aindex.index.reference_index import ReferenceIndex

BITS = 32
"""Length of the identifiers that marks carry."""


class UnavailableError(Exception):
    """A rival cannot take part: its package or its weights cannot be had; says why."""


@dataclass(frozen=True)
class Bench:
    """What every rival may know.

    Attributes:
        paths: files of the n reference pictures.
        names: their names.
        references: n×d, their descriptors.
        extractor: what made them.
        fast: the same, as a search uses it.
        quantised: the approximate index of them.
        exhaustive: the same rows, all compared.
        released: rows of the pictures that rivals will prepare.
        seed: of the identifiers, and of the start of each activation.
    """

    paths: list[Path]
    names: list[str]
    references: npt.NDArray[np.float32]
    extractor: Extractor
    fast: FastExtractor
    quantised: ReferenceIndex
    exhaustive: ReferenceIndex
    released: list[int]
    seed: int = 0

    def picture(self, row: int) -> Image.Image:
        """A reference picture as it was before any rival touched it."""
        return read_image(self.paths[row])


@dataclass(frozen=True)
class Scan:
    """What a look-up goes through, so that its cost can be reckoned for other numbers of pictures.

    Attributes:
        kind: `bits` compares hashes by Hamming distance, `floats` vectors, `cells` opens cells of an IVF-PQ index.
        width: bits of a hash, or numbers of a vector.
        nprobe: cells opened.
        times: scans per look-up; of cells, rows that a picture has.
    """

    kind: Literal["bits", "floats", "cells"]
    width: int
    nprobe: int = 0
    times: int = 1


class Rival:
    """Says which of the n reference pictures a picture is a copy of, or none.

    Attributes:
        name: as in the tables.
        family: colour of its points.
        released_as: name of what it makes of a picture; None if the picture stays as it is. Rivals with one name share
            the released picture.
        finds_published: whether copies of pictures that were published before, unprepared, can be found.
        stored_bytes: per picture, without its name.
        scans: what a look-up goes through.
        slow: whether it is given fewer pictures.
        reader: what looks copies up, itself but in a combination.
    """

    name: str
    family: ClassVar[Literal["hash", "mark", "descriptor", "aindex", "both"]]
    released_as: str | None = None
    finds_published: bool = True
    stored_bytes: int
    scans: tuple[Scan, ...]
    slow: bool = False

    @property
    def reader(self) -> "Rival":
        return self

    def prepare(self, picture: Image.Image, row: int) -> Image.Image:
        """What is released in place of a reference picture, of the same size."""
        raise NotImplementedError

    def identify(self, copy: Image.Image) -> tuple[int, float]:
        """The row that a picture is a copy of (−1: none) and how sure that is: larger is surer."""
        raise NotImplementedError

    def strange_scores(self, picture: Image.Image, count: int) -> list[float]:
        """How sure it is of a picture that matches nothing, so many times; only slow ones are asked more than once."""
        return [self.identify(picture)[1]] * count


class Hash(Rival):
    """A perceptual hash of each reference picture; the one with the fewest differing bits is the answer."""

    family = "hash"

    def __init__(self, bench: Bench) -> None:
        self.codes = np.zeros((len(bench.paths), self.stored_bytes), np.uint8)
        self.scans = (Scan("bits", 8 * self.stored_bytes),)

    def hash(self, picture: Image.Image) -> npt.NDArray[np.uint8]:
        """The packed bits, bytes."""
        raise NotImplementedError

    def prepare(self, picture: Image.Image, row: int) -> Image.Image:
        self.codes[row] = self.hash(picture)
        return picture

    def identify(self, copy: Image.Image) -> tuple[int, float]:
        return self.nearest(self.hash(copy))

    def nearest(self, code: npt.NDArray[np.uint8]) -> tuple[int, float]:
        """The row of the nearest hash, and minus the number of bits that differ."""
        distances = np.bitwise_count(self.codes ^ code).sum(axis=1, dtype=np.int64)
        row = int(distances.argmin())
        return row, -float(distances[row])


@lru_cache
def codewords(count: int, seed: int | tuple[int, int]) -> npt.NDArray[np.float32]:
    """Random identifiers: count×32 of −1 and 1."""
    drawn = np.random.default_rng(seed).integers(0, 2, (count, BITS))
    return (2 * drawn - 1).astype(np.float32)


class Mark(Rival):
    """A watermark that carries the picture's identifier; the nearest identifier is the answer."""

    family = "mark"
    finds_published = False
    stored_bytes = BITS // 8

    def __init__(self, bench: Bench) -> None:
        self.seed = bench.seed
        self.words = codewords(len(bench.paths), bench.seed)
        self.scans = (Scan("bits", BITS),)
        self.released_as = self.name

    def write(self, picture: Image.Image, bits: npt.NDArray[np.int64]) -> Image.Image:
        """The picture with 32 bits in it."""
        raise NotImplementedError

    def read(self, copy: Image.Image) -> npt.NDArray[np.float32]:
        """32 numbers, above 0 for a 1, the larger the surer; zeros where nothing can be read."""
        raise NotImplementedError

    def prepare(self, picture: Image.Image, row: int) -> Image.Image:
        return self.write(picture, (self.words[row] > 0).astype(np.int64))

    def identify(self, copy: Image.Image) -> tuple[int, float]:
        """The score is the number of bits that agree; how clear they are decides between equals."""
        return _most_alike(self.words, self.read(copy))

    def strange_scores(self, picture: Image.Image, count: int) -> list[float]:
        """One reading, compared with the identifiers and with others drawn anew: whom it resembles is chance."""
        values = self.read(picture)
        others = [codewords(len(self.words), (self.seed, number)) for number in range(1, count)]
        return [_most_alike(words, values)[1] for words in (self.words, *others)]


def _most_alike(words: npt.NDArray[np.float32], values: npt.NDArray[np.float32]) -> tuple[int, float]:
    likeness = words @ values
    row = int(likeness.argmax())
    agreeing = int((words[row] * values > 0).sum())
    clearness = likeness[row] / (np.abs(values).sum() + 1e-9)
    return row, agreeing + 0.5 * float(clearness)


class Described(Rival):
    """The extractor that comes with aindex, and an index of its descriptors."""

    family = "descriptor"

    def __init__(self, bench: Bench, index: ReferenceIndex, nprobe: int | None = None) -> None:
        self.bench, self.index, self.nprobe = bench, index, nprobe
        self.extractor = bench.fast

    @torch.no_grad()
    def describe(self, picture: Image.Image) -> npt.NDArray[np.float32]:
        """1×d."""
        pixels = prepare(picture, self.extractor.input_size)[None]
        return self.extractor(pixels.contiguous(memory_format=torch.channels_last)).numpy()

    def prepare(self, picture: Image.Image, row: int) -> Image.Image:
        self.describe(picture)
        return picture

    def identify(self, copy: Image.Image) -> tuple[int, float]:
        distances, rows = self.index.search(self.describe(copy), 1, nprobe=self.nprobe)
        return int(rows[0, 0]), -float(distances[0, 0])
