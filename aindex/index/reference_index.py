"""The index of reference descriptors: rows with names, searched, saved to and opened from a folder."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

import aindex
from aindex.errors import ExtractorError, FaissIndexError
from aindex.index import devices
from aindex.index import folder as folders
from aindex.index.backend import FaissIndex, Ids, Rows, faiss_errors, import_faiss
from aindex.index.default_factory import DEFAULT_FACTORY
from aindex.index.description import Description, ExtractorIdentity, NamedExtractor
from aindex.index.devices import Device
from aindex.index.factory import Metric, get_nprobe, set_nprobe, train_quantiser
from aindex.index.lists import remove_rows
from aindex.index.names import RowNames
from aindex.index.neighbours import Found, Order, larger_is_closer, nearest, with_whole_ties
from aindex.index.owners import Owners
from aindex.index.quantiser import Quantiser
from aindex.index.rows import Descriptors, as_rows, check_k, check_names, own_blocks
from aindex.index.structure import empty_clone


class ReferenceIndex:
    """A FAISS index whose rows have names; ids are positions.

    Safe from threads: searching, adding, saving and setting `nprobe` wait for each other.

    Args:
        index: a trained FAISS index.
        idx_factory: FAISS's factory string it was made with.
        metric: ``L2`` (squared Euclidean) or ``IP`` (inner product).
        nprobe: coarse cells that a search visits.
        extractor: what makes the descriptors; None if that is not known.
        names: one name per picture that the index has already.
        owners: which picture each row belongs to; None where every picture has one row.

    Attributes:
        names: of the pictures, by id.
        owners: which picture each row belongs to.
        quantiser: what is trained.
        dim: d.
        larger_is_closer: whether searches return similarities (metric IP) rather than distances.
        calibration: the threshold of a match and how it was found; None before.
        cache_key: hash of everything that decided a cached index.

    Raises:
        FaissIndexError: not trained, or names, owners and rows do not match.
        ExtractorError: the extractor's dimension is not the index's.
    """

    def __init__(
        self,
        index: FaissIndex,
        *,
        idx_factory: str,
        metric: Metric = "L2",
        nprobe: int = 1,
        extractor: NamedExtractor | None = None,
        names: RowNames | Sequence[str] = (),
        owners: Owners | None = None,
    ) -> None:
        self.faiss_index = index
        self.idx_factory = idx_factory
        self.metric: Metric = metric
        self.extractor = None if extractor is None else ExtractorIdentity.of(extractor)
        self.quantiser = Quantiser(index)
        self.dim = self.quantiser.dim
        self.larger_is_closer = larger_is_closer(index)
        self.calibration: dict[str, float | int | str] | None = None
        self.cache_key: str | None = None
        self.names = names if isinstance(names, RowNames) else RowNames()
        if names is not self.names:
            self.names.extend(names)
        self.owners = owners or Owners(len(self.names))
        self._lock = threading.RLock()
        self._origin: folders.FolderState | None = None
        self._unsaved = True
        self._fixed: str | None = None
        self._gpu: int | None = None
        self._gpu_copy: FaissIndex | None = None
        set_nprobe(index, nprobe)
        if (len(self.names), self.ntotal) != (self.owners.pictures, self.owners.rows):
            raise FaissIndexError(_names_and_rows(self.names, self.owners, self.ntotal))
        dim = getattr(extractor, "dim", self.dim)
        if dim != self.dim:
            raise ExtractorError(
                f"extractor {getattr(extractor, 'name', '')!r} gives dimension {dim}, the index holds {self.dim}: take "
                "the extractor that the index was made with"
            )

    @classmethod
    def train(
        cls,
        descriptors: npt.NDArray[np.float32],
        *,
        idx_factory: str = DEFAULT_FACTORY,
        metric: Metric = "L2",
        nprobe: int = 1,
        seed: int = 0,
        extractor: NamedExtractor | None = None,
        device: Device = "cpu",
    ) -> Self:
        """An empty index with a quantiser trained on these descriptors.

        Args:
            descriptors: n×d, possibly a file mapped into memory; never those of the references.
            idx_factory, metric, nprobe, extractor: of the index, see above.
            seed: of the training.
            device: where the coarse cells are trained.

        Raises:
            FaissIndexError: the factory is not possible, or needs more descriptors.
            DescriptorError: the descriptors are no finite matrix.
        """
        index = train_quantiser(descriptors, idx_factory, metric, seed=seed, device=device)
        return cls(index, idx_factory=idx_factory, metric=metric, nprobe=nprobe, extractor=extractor)

    @classmethod
    def open(
        cls,
        folder: Path | str,
        extractor: NamedExtractor | None = None,
        *,
        read_only: bool = False,
        verify: bool = True,
    ) -> Self:
        """The index of a folder.

        Args:
            folder: what :meth:`save` wrote.
            extractor: the one in use; another one than the index was made with is an error.
            read_only: map the inverted lists into memory, shared between processes; adding is then an error.
            verify: compare the files with their hashes, which reads them once more.

        Raises:
            FaissIndexError: no index, a damaged one, or one of a newer format.
            ExtractorError: another extractor or input size.
        """
        # absolute, so that it is the same after a change of the working directory
        folder = Path(folder).absolute()
        state, index, names, counts = folders.read_files(folder, verify=verify, mapped=read_only)
        description = state.description
        where = f"index {str(folder)!r}"
        if extractor is not None and description.extractor is not None:
            description.extractor.check(extractor, where)
        rows = RowNames(names)
        owners = Owners(len(rows), counts)
        if owners.rows != description.rows:
            raise FaissIndexError(f"{where} has {_names_and_rows(rows, owners, description.rows)}")
        opened = cls(
            index,
            idx_factory=description.idx_factory,
            metric=description.metric,
            nprobe=description.nprobe,
            extractor=extractor if description.extractor is None else description.extractor,
            names=rows,
            owners=owners,
        )
        opened.calibration = description.calibration
        opened.cache_key = description.cache_key
        opened._origin = state
        opened._unsaved = False
        if "lists" in description.files:
            opened._fixed = "its inverted lists stay on the disk; add to it with extend_on_disk"
        elif read_only:
            opened._fixed = "it was opened read-only; open it with read_only=False"
        return opened

    @property
    def ntotal(self) -> int:
        """Number of rows."""
        return int(self.faiss_index.ntotal)

    @property
    def pictures(self) -> int:
        """Number of pictures; each has a row or several."""
        return self.owners.pictures

    @property
    def is_on_disk(self) -> bool:
        """Whether it was opened from a folder whose inverted lists stay on the disk."""
        return self._origin is not None and "lists" in self._origin.description.files

    @property
    def yaml_hash(self) -> str | None:
        """Of the folder's description as this index was read from it or written to it; None where it was not."""
        return None if self._origin is None else self._origin.yaml_hash

    @property
    def nprobe(self) -> int:
        """Coarse cells that a search visits."""
        with self._lock:
            return get_nprobe(self.faiss_index)

    @nprobe.setter
    def nprobe(self, value: int) -> None:
        with self._lock:
            set_nprobe(self.faiss_index, value)

    def add(self, descriptors: Descriptors, names: Sequence[str], counts: Sequence[int] | None = None) -> Ids:
        """Append pictures, all or (after bad input) none.

        Args:
            descriptors: rows m×d; a file mapped into memory is read in blocks.
            names: n names of pictures.
            counts: rows of each picture, which follow each other; None: each has one.

        Returns:
            The n new pictures' ids.

        Raises:
            DescriptorError: wrong dimension, NaN, or another number of names.
            FaissIndexError: the index cannot be added to.
        """
        if self._fixed is not None:
            raise FaissIndexError(f"the index cannot be added to: {self._fixed}")
        rows = as_rows(descriptors, self.dim, "the descriptors to add")
        check_names(names, len(rows), counts)
        faiss = import_faiss()
        with self._lock:
            first = self.pictures
            blocks = list(own_blocks(self.ntotal, len(rows)))
            if isinstance(faiss.downcast_index(self.faiss_index), faiss.IndexNSG):
                blocks = [(0, len(rows))]  # this graph is built once, from everything
            self._unsaved = True
            self._gpu_copy = None
            for begin, end in blocks:
                with faiss_errors(
                    "the descriptors cannot be added", "take another idx_factory, or fewer rows"
                ):
                    self.faiss_index.add(rows[begin:end])
            self.names.extend(names)
            self.owners = self.owners.extended(len(names), counts)
        return np.arange(first, first + len(names), dtype=np.int64)

    def remove(self, pictures: Ids) -> None:
        """Take out pictures, by their ids, with all their rows; those after them move up, so that ids stay positions.

        Raises:
            FaissIndexError: no such picture, or a kind of index that cannot lose rows.
        """
        pictures = np.unique(np.asarray(pictures, np.int64))
        if len(pictures) and not 0 <= pictures[0] <= pictures[-1] < self.pictures:
            raise FaissIndexError(
                f"pictures {pictures[0]} to {pictures[-1]} of an index of {self.pictures}: expected 0 to "
                f"{self.pictures - 1}"
            )
        if self._fixed is not None:
            raise FaissIndexError(f"pictures cannot be removed from the index: {self._fixed}")
        if not len(pictures):
            return
        with self._lock:
            remove_rows(self.faiss_index, np.concatenate(self.owners.rows_of(pictures)))
            self._unsaved = True
            self._gpu_copy = None
            self.names = self.names.without(pictures)
            self.owners = self.owners.without(pictures)

    def stored_rows(self, pictures: Ids) -> list[Rows]:
        """What the index stores for each row of some pictures, decoded: r×d each.

        Raises:
            FaissIndexError: the index cannot decode.
        """
        index, ivf = self.faiss_index, self.quantiser.ivf
        with self._lock, faiss_errors("the index cannot decode its rows", "take another idx_factory"):
            if ivf is not None:
                ivf.make_direct_map(True)
            try:
                return [
                    np.stack([index.reconstruct(int(row)) for row in rows])
                    for rows in self.owners.rows_of(np.asarray(pictures, np.int64))
                ]
            finally:
                if ivf is not None:
                    ivf.make_direct_map(False)

    def search(self, descriptors: Descriptors, k: int, nprobe: int | None = None) -> Found:
        """The k nearest pictures of each query, closest first, equally close ones by their id.

        A picture is as near as its nearest row, and is found once. A query's result depends on the query and the rows
        alone (on the CPU), not on the other queries. Where the visited cells hold fewer than k pictures, the rest is
        id −1.

        Args:
            descriptors: queries nq×d.
            k: pictures per query.
            nprobe: coarse cells to visit; None for the index's own number.

        Returns:
            Distances nq×k float32 and ids nq×k int64. Distances are squared Euclidean for L2, similarities
            (larger is closer) for IP, and numbers of differing bits for LSH.

        Raises:
            FaissIndexError: k is larger than the index; nprobe is not possible.
            DescriptorError: wrong dimension or NaN.
        """
        queries = as_rows(descriptors, self.dim, "the queries")
        with self.probing(nprobe):
            check_k(k, self.pictures)
            if not len(queries):
                return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
            # among so many rows there are k pictures
            depth = min(self.ntotal, k * self.owners.most)
            order = partial(self.owners.nearest_pictures, k=k, larger_is_closer=self.larger_is_closer)
            return self._nearest_rows(queries, depth, order)

    @contextmanager
    def probing(self, nprobe: int | None) -> Iterator[None]:
        """While open, searches visit so many coarse cells, and other threads wait; None: as many as usual."""
        with self._lock:
            usual = self.nprobe
            if nprobe is not None:
                self.nprobe = nprobe
            try:
                yield
            finally:
                self.nprobe = usual

    def check_search(self, k: int, nprobe: int | None = None) -> None:
        """Raise the FaissIndexErrors of a search, before there are queries."""
        with self.probing(nprobe):
            check_k(k, self.pictures)

    def _nearest_rows(self, queries: Rows, k: int, order: Order) -> Found:
        copy = self._on_gpu()
        if copy is None:
            return nearest(self.faiss_index, queries, k, order)
        if k > devices.GPU_MAX_K:
            rows = self.owners.most
            raise FaissIndexError(
                f"k {k // rows} on a GPU: expected at most {devices.GPU_MAX_K // rows}; search on the CPU"
            )
        limit = min(self.ntotal, devices.GPU_MAX_K)
        with faiss_errors("the search on the GPU failed", "search on the CPU: index.device cpu"):
            return with_whole_ties(
                lambda which, depth: copy.search(queries[which], depth), k, limit=limit, order=order
            )

    def use_device(self, device: Device, number: int = 0) -> None:
        """Search on a GPU, or on the CPU again; an index without a GPU form stays on the CPU and says so.

        Raises:
            FaissIndexError: no faiss-gpu, or no such GPU.
        """
        if device == "gpu":
            devices.check_gpu(number)
        with self._lock:
            self._gpu = number if device == "gpu" else None
            self._gpu_copy = None

    def empty_copy(self) -> "ReferenceIndex":
        """The same trained quantiser without rows."""
        with self._lock:
            index = empty_clone(self.faiss_index)
        return ReferenceIndex(
            index,
            idx_factory=self.idx_factory,
            metric=self.metric,
            nprobe=self.nprobe,
            extractor=self.extractor,
        )

    def save(self, folder: Path | str, *, overwrite: bool = False) -> None:
        """Write the index to a folder; a crash at any moment leaves the folder's old index or the new one.

        Args:
            folder: made if it is missing; otherwise empty, or the folder this index came from.
            overwrite: replace another index that is there.

        Raises:
            OutputError: the folder cannot be written, holds other things or another index, or its index was
                changed by another process in the meantime.
        """
        with self._lock:
            self._save(Path(folder).absolute(), overwrite=overwrite)

    def _save(self, folder: Path, *, overwrite: bool) -> None:
        known = self._origin if self._origin is not None and self._origin.folder == folder else None
        kept = known.description.files if known is not None and not self._unsaved else {}
        if self._fixed is not None and not kept:
            raise FaissIndexError(
                f"the index cannot be written to another folder ({self._fixed}): copy the folder"
            )
        write = partial(folders.write_index, self.faiss_index)
        self._origin = folders.write_files(
            folder,
            self.describe(),
            {} if kept else {"index": write, **row_files(self.names, self.owners)},
            kept=kept,
            expected=None if known is None else known.yaml_hash,
            overwrite=overwrite,
        )
        self._unsaved = False

    def describe(self) -> Description:
        """What the folder's YAML says, apart from its files."""
        return Description(
            idx_factory=self.idx_factory,
            metric=self.metric,
            nprobe=self.nprobe,
            dim=self.dim,
            rows=self.ntotal,
            extractor=self.extractor,
            versions={"aindex": aindex.__version__, "faiss": str(import_faiss().__version__)},
            calibration=self.calibration,
            cache_key=self.cache_key,
        )

    def info(self) -> dict[str, Any]:
        """The description as plain values, with the number of cells and the files' sizes in bytes."""
        files = {} if self._origin is None or self._unsaved else self._origin.description.files
        description = asdict(self.describe())
        del description["files"]
        return {
            **description,
            "pictures": self.pictures,
            "cells": self.quantiser.cell_count,
            "bytes": {role: file.size for role, file in files.items()},
            "bytes_per_picture": self.owners.bytes_per_picture(self.quantiser.row_bytes),
        }

    def _on_gpu(self) -> FaissIndex | None:
        if self._gpu is None:
            return None
        if self._gpu_copy is None:
            self._gpu_copy = devices.copy_to_gpu(self.faiss_index, self._gpu)
            if self._gpu_copy is None:
                self._gpu = None
                return None
        if self.quantiser.cell_count is not None:
            if self.nprobe > devices.GPU_MAX_K:
                raise FaissIndexError(
                    f"nprobe {self.nprobe} on a GPU: expected at most {devices.GPU_MAX_K}; search on the CPU"
                )
            devices.set_gpu_nprobe(self._gpu_copy, self.nprobe)
        return self._gpu_copy


def _names_and_rows(names: RowNames, owners: Owners, rows: int) -> str:
    of = "" if owners.is_one_to_one else f" of {owners.rows} rows"
    return f"{len(names)} names{of} for {rows} rows: expected one name per picture; build it again"


def row_files(names: RowNames, owners: Owners) -> dict[str, bytes]:
    """By role, the contents of the files that say whose the rows are."""
    files = {"names": names.to_bytes()}
    counts = owners.to_bytes()
    return files if counts is None else {**files, "owners": counts}
