"""Trained indexes kept in a folder, under a hash of everything that decides them."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np

from aindex.descriptors.files import Matrix
from aindex.errors import AindexError, FaissIndexError
from aindex.index.backend import import_faiss
from aindex.index.description import NamedExtractor
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


def train_cached(
    idx_dir: Path,
    descriptors: Matrix,
    *,
    idx_factory: str,
    metric: Metric = "L2",
    nprobe: int = 1,
    seed: int = 0,
    extractor: NamedExtractor | None = None,
    device: Device = "cpu",
) -> tuple[ReferenceIndex, bool]:
    """A trained, empty index, from the cache if the very same was trained before.

    Args:
        idx_dir: folder of the cache, made if it is missing.
        descriptors, idx_factory, metric, nprobe, seed, extractor, device: as :meth:`ReferenceIndex.train` takes them;
            nprobe is not part of what is compared.

    Returns:
        The index, and whether it came from the cache.

    Raises:
        FaissIndexError, DescriptorError: as :meth:`ReferenceIndex.train`; or the stored index is damaged.
        OutputError: the cache cannot be written.
    """
    decisive = {
        "idx_factory": idx_factory,
        "metric": metric,
        "seed": seed,
        "device": device,
        "extractor": None if extractor is None else extractor.fingerprint,
        "resize_size": None if extractor is None else extractor.input_size,
        "descriptors": hash_descriptors(descriptors),
        "faiss": str(import_faiss().__version__),
    }
    key = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    label = re.sub(r"[^A-Za-z0-9]+", "-", f"{idx_factory}-{metric}")[:60]
    folder = idx_dir / f"{label}-{key[:16]}"
    if (folder / YAML_NAME).is_file():
        try:
            index = ReferenceIndex.open(folder)
        except AindexError as error:
            raise FaissIndexError(
                f"the cached index is not usable: {error}; remove {str(folder)!r}"
            ) from error
        if index.cache_key == key:
            index.nprobe = nprobe
            return index, True
    index = ReferenceIndex.train(
        descriptors,
        idx_factory=idx_factory,
        metric=metric,
        nprobe=nprobe,
        seed=seed,
        extractor=extractor,
        device=device,
    )
    index.cache_key = key
    index.save(folder, overwrite=True)
    return index, False
