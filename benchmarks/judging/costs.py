"""What a look-up costs among a billion pictures, reckoned from rates of scanning measured here on one core."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import faiss
import numpy as np
from rivals.base import Scan

CELLS = 65_536
"""Cells of an index of a billion: lists of 15,000 rows (docs/scale.md)."""


@dataclass(frozen=True)
class Rates:
    """Comparisons per second on one core: hashes by their number of bits, vectors of d numbers, codes of 8 bytes."""

    hashes: dict[int, float]
    vectors: float
    codes: float

    def scan_ms(self, scan: Scan, rows: int, cells: int) -> float:
        """Milliseconds of scanning for one look-up.

        Args:
            scan: what is gone through.
            rows: pictures in all.
            cells: of the approximate index.
        """
        if scan.kind == "bits":
            return 1000 * scan.times * rows / self.hashes[scan.width]
        if scan.kind == "floats":
            return 1000 * rows / self.vectors
        return 1000 * (cells / self.vectors + scan.nprobe * scan.times * rows / cells / self.codes)


def measure_rates(dim: int, *, rows: int = 200_000, seconds: float = 1.0) -> Rates:
    """Scan random rows for a while.

    Args:
        dim: d.
        rows: how many.
        seconds: of each of the measurements.
    """
    rng = np.random.default_rng(0)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    hashes = {}
    for bits in (32, 64, 256):
        binary = faiss.IndexBinaryFlat(bits)
        binary.add(rng.integers(0, 256, (rows, bits // 8), dtype=np.uint8))
        hash_ = rng.integers(0, 256, (1, bits // 8), dtype=np.uint8)
        hashes[bits] = rows / _seconds_of(lambda i=binary, h=hash_: i.search(h, 1), seconds)
    vectors = rng.standard_normal((rows // 4, dim), dtype=np.float32)
    flat = faiss.IndexFlatL2(dim)
    flat.add(vectors)
    codes = faiss.index_factory(dim, "IVF4,PQ8x8")
    codes.train(vectors[:10_000])
    codes.add(vectors)
    codes.nprobe = 4
    query = vectors[:1]
    found = Rates(
        hashes,
        len(vectors) / _seconds_of(lambda: flat.search(query, 1), seconds),
        len(vectors) / _seconds_of(lambda: codes.search(query, 1), seconds),
    )
    faiss.omp_set_num_threads(threads)
    return found


def _seconds_of(call: Callable[[], object], seconds: float) -> float:
    """Processor seconds of one call, the mean of many."""
    call()
    started, count = time.process_time(), 0
    while time.process_time() - started < seconds:
        call()
        count += 1
    return (time.process_time() - started) / count
