"""A tiny index folder made by the command, and pictures to go with it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from aindex.collection.building import build_index
from aindex.collection.equipment import describing
from aindex.descriptors.extract import ExtractionSettings

TINY_FACTORY = "IVF4,PQ4x4"


@pytest.fixture(scope="session")
def quiet() -> ExtractionSettings:
    """Everything in this process, on the CPU, without bars."""
    return describing(device="cpu", precision="fp32", batch_size=4, num_workers=0, progress=False)


@pytest.fixture
def tiny_index(
    tmp_path: Path, make_pictures: Callable[..., list[Path]], tiny_script: Path, quiet: ExtractionSettings
) -> Path:
    """An index folder of 12 pictures, its quantiser trained on 40 others."""
    make_pictures("train", 40, seed=1, prefix="T")
    make_pictures("references", 12, seed=2, prefix="R")
    build_index(
        tmp_path / "index",
        train=tmp_path / "train",
        references=tmp_path / "references",
        idx_factory=TINY_FACTORY,
        extractor=tiny_script,
        resize_size=32,
        settings=quiet,
    )
    return tmp_path / "index"
