"""Trained indexes kept in a folder, under a hash of everything that decides them."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from aindex.descriptors.files import Matrix
from aindex.errors import AindexError, FaissIndexError
from aindex.index.backend import import_faiss
from aindex.index.description import ExtractorIdentity, NamedExtractor
from aindex.index.devices import Device
from aindex.index.factory import Metric
from aindex.index.folder import YAML_NAME
from aindex.index.reference_index import ReferenceIndex

_CHUNK_ROWS = 65_536


def hash_descriptors(descriptors: Matrix) -> str:
    """SHA-256, hex, over shape and float32 values; files mapped into memory are read in pieces."""
    digest = hashlib.sha256(f"{descriptors.shape}".encode())
    for start in range(0, len(descriptors), _CHUNK_ROWS):
        digest.update(np.ascontiguousarray(descriptors[start : start + _CHUNK_ROWS], dtype=np.float32).data)
    return digest.hexdigest()


def cache_key(**parts: str | int | float | None) -> str:
    """SHA-256, hex, over named parts, in whatever order they come."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def cached_index(
    idx_dir: Path, label: str, key: str, make: Callable[[], ReferenceIndex]
) -> tuple[ReferenceIndex, bool]:
    """The index stored under a key, or a new one, which is then stored.

    Args:
        idx_dir: folder of the cache, made if it is missing.
        label: for people who look into the folder.
        key: hash of everything that decides the index.
        make: what makes it.

    Returns:
        The index, and whether it came from the cache.

    Raises:
        FaissIndexError: the stored index is damaged.
        OutputError: the new one cannot be stored.
    """
    folder = Path(idx_dir) / f"{re.sub(r'[^A-Za-z0-9]+', '-', label)[:60]}-{key[:16]}"
    if (folder / YAML_NAME).is_file():
        try:
            index = ReferenceIndex.open(folder)
        except AindexError as error:
            raise FaissIndexError(
                f"the cached index is not usable: {error}; remove {str(folder)!r}"
            ) from error
        if index.cache_key == key:
            return index, True
    index = make()
    index.cache_key = key
    index.save(folder, overwrite=True)
    return index, False


def train_cached(
    idx_dir: Path | None,
    descriptors: Matrix,
    *,
    idx_factory: str,
    metric: Metric = "L2",
    nprobe: int = 1,
    seed: int = 0,
    extractor: NamedExtractor | ExtractorIdentity | None = None,
    device: Device = "cpu",
) -> tuple[ReferenceIndex, bool]:
    """A trained, empty index, from the cache if the very same was trained before.

    Args:
        idx_dir: folder of the cache; None for no cache.
        descriptors: n×d training descriptors.
        idx_factory: FAISS's factory string.
        metric: ``L2`` or ``IP``.
        nprobe: coarse cells that a search visits; not part of the key.
        seed: of the training.
        extractor: what made the descriptors; its fingerprint and input size are part of the key.
        device: where the coarse cells are trained.

    Returns:
        The index, and whether it came from the cache.

    Raises:
        FaissIndexError, DescriptorError: as :meth:`ReferenceIndex.train`.
        OutputError: the cache cannot be written.
    """

    def make() -> ReferenceIndex:
        return ReferenceIndex.train(
            descriptors,
            idx_factory=idx_factory,
            metric=metric,
            nprobe=nprobe,
            seed=seed,
            extractor=extractor,
            device=device,
        )

    if idx_dir is None:
        return make(), False
    key = cache_key(
        idx_factory=idx_factory,
        metric=metric,
        seed=seed,
        device=device,
        extractor=None if extractor is None else extractor.fingerprint,
        resize_size=None if extractor is None else extractor.input_size,
        descriptors=hash_descriptors(descriptors),
        faiss=str(import_faiss().__version__),
    )
    index, found = cached_index(Path(idx_dir), f"{idx_factory}-{metric}", key, make)
    index.nprobe = nprobe
    return index, found
