"""What the work on a collection needs: an index, the extractor it was made with, a device and a precision."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

import aindex.index
from aindex.descriptors.extraction import ExtractionSettings
from aindex.descriptors.extractor import Extractor
from aindex.descriptors.inference import FastExtractor, best_precision, fast_extractor
from aindex.descriptors.registry import load_extractor, may_be_named_by_others
from aindex.errors import ConfigError, ExtractorError
from aindex.index.reference_index import ReferenceIndex
from aindex.paths import possible_path

SHIPPED = "shipped"
"""Name of the index that comes with aindex."""

Arithmetic = Literal["auto", "fp32", "bf16"]

Visits = int | Literal["auto"]
"""Coarse cells that a search visits."""

SCANNED_ROWS = 20_000
"""Rows that a search may compare a picture with where it chooses its cells by itself: a millisecond or so."""


@dataclass(frozen=True)
class Equipment:
    """An index and the extractor that describes pictures for it, on its device."""

    index: ReferenceIndex
    extractor: Extractor
    settings: ExtractionSettings

    @property
    def fast(self) -> FastExtractor:
        """The extractor as it is prepared for this device and precision."""
        return fast_extractor(self.extractor, device=self.settings.device, precision=self.settings.precision)

    @torch.no_grad()
    def describe(self, inputs: Sequence[Tensor]) -> Tensor:
        """Descriptors B×d, on the CPU, of at most `batch_size` prepared pictures, 3×R×R each.

        The batch is filled up, so that none depends on B.
        """
        size = self.extractor.input_size
        rows = torch.zeros(self.settings.batch_size, 3, size, size)
        for row, pixels in enumerate(inputs):
            rows[row] = pixels
        return self.fast(rows.to(self.fast.device))[: len(inputs)].cpu()


def index_folder(name: Path | str) -> Path:
    """The folder of an index: a path, or `shipped` for the one that comes with aindex (`./shipped` for a folder)."""
    if str(name) == SHIPPED:
        return Path(aindex.index.__file__).parent / SHIPPED
    return possible_path(name)


def open_equipment(
    index: ReferenceIndex | Path | str,
    extractor: Extractor | Path | str | None = None,
    *,
    resize_size: int | None = None,
    settings: ExtractionSettings | None = None,
    read_only: bool = True,
) -> Equipment:
    """An index with its extractor.

    Args:
        index: an open index, a folder, or `shipped`.
        extractor: one in use, a name or a path; None takes the one that the index names, if it is a registered name
            or a `.safetensors` file: TorchScript files are loaded only if they are given here.
        resize_size: side of the extractor's input, pixels; None takes the index's.
        settings: device, precision and batch size; None for `describing()`.
        read_only: open a folder for searching alone, shared with other processes.

    Raises:
        FaissIndexError: no index there, or a damaged one.
        ExtractorError: the extractor cannot be loaded, or the index was made with another one or input size.
    """
    settings = settings or describing()
    if isinstance(index, ReferenceIndex):
        opened, where = index, "the index"
    else:
        opened, where = ReferenceIndex.open(index_folder(index), read_only=read_only), f"index {str(index)!r}"
    loaded = _extractor_of(opened, extractor, resize_size, settings)
    if opened.extractor is not None:
        opened.extractor.check(loaded, where)
    if loaded.dim != opened.dim:
        raise ExtractorError(
            f"extractor {loaded.name!r} gives dimension {loaded.dim}, the index holds {opened.dim}: take the extractor "
            "that the index was made with"
        )
    return Equipment(opened, loaded, settings)


def loaded(
    extractor: Extractor | Path | str, resize_size: int | None, settings: ExtractionSettings
) -> Extractor:
    """An extractor that is in use, or the one of this name or path, on the settings' device.

    Raises:
        ExtractorError: it cannot be loaded.
    """
    if isinstance(extractor, Extractor):
        return extractor
    return load_extractor(extractor, resize_size=resize_size, device=settings.device or "cpu")


def _extractor_of(
    index: ReferenceIndex,
    extractor: Extractor | Path | str | None,
    resize_size: int | None,
    settings: ExtractionSettings,
) -> Extractor:
    stored = index.extractor
    if stored is not None and resize_size is None:
        resize_size = stored.input_size
    if extractor is not None:
        return loaded(extractor, resize_size, settings)
    if stored is None:
        raise ConfigError("the index does not say which extractor made it: give extractor")
    if not may_be_named_by_others(stored.name):
        raise ExtractorError(
            f"the index names the extractor {stored.name!r}, a TorchScript file, which could do anything on this "
            "machine: give it as extractor if you trust it"
        )
    try:
        return loaded(stored.name, resize_size, settings)
    except ExtractorError as error:
        raise ExtractorError(
            f"the extractor that the index names cannot be loaded, give extractor: {error}"
        ) from error


def visited_cells(index: ReferenceIndex, nprobe: Visits | None) -> int | None:
    """How many cells a search visits; None for an index without.

    Args:
        index: the index.
        nprobe: a number; `auto` for the one that the index was calibrated with, else as many as hold about SCANNED_ROWS
            rows, but no fewer than the index's own; None for the index's own.
    """
    cells = index.quantiser.cell_count
    if nprobe != "auto" or cells is None:
        return None if nprobe == "auto" else nprobe
    calibrated = (index.calibration or {}).get("nprobe")
    if isinstance(calibrated, int):
        return calibrated
    return min(cells, max(index.nprobe, SCANNED_ROWS * cells // max(1, index.ntotal)))


def describing(
    *,
    batch_size: int = 16,
    num_workers: int = 2,
    device: str = "auto",
    precision: Arithmetic = "auto",
    progress: bool = True,
) -> ExtractionSettings:
    """Settings with a device and a precision in place of `auto`.

    Args:
        batch_size: images per call of the extractor.
        num_workers: threads that decode images, and encode released ones; 0 does each when its turn comes.
        device: cpu, cuda, cuda:<number>; auto takes the GPU where there is one.
        precision: arithmetic of the extractor; auto takes bf16 where the hardware has it, which is faster, and rounds.
            What an index is to hold is described in fp32.
        progress: show bars.

    Raises:
        ConfigError: no such device, a batch without images.
    """
    place = choose_device(device)
    if batch_size < 1 or num_workers < 0:
        raise ConfigError(
            f"batch_size {batch_size}, num_workers {num_workers}: expected at least 1 and 0; leave them out for the "
            "defaults"
        )
    arithmetic = best_precision(place) if precision == "auto" else precision
    return ExtractionSettings(batch_size, num_workers, place, arithmetic, progress)


def choose_device(name: str) -> torch.device:
    """The device of this name; `auto` is the GPU where there is one.

    Raises:
        ConfigError: no device of this name here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r}: expected auto, cpu, cuda or cuda:<number>") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name!r}: there is no GPU that torch can use; expected cpu or auto")
    return device
