"""A tiny index folder, and pictures to go with it."""

import shutil
from pathlib import Path

import pytest

from aindex.collection.building import build_index
from aindex.collection.equipment import describing
from aindex.descriptors.extract import ExtractionSettings
from tests.conftest import write_pictures

TINY_FACTORY = "IVF4,PQ4x4"


@pytest.fixture(scope="session")
def quiet() -> ExtractionSettings:
    """Everything in this process, on the CPU, without bars."""
    return describing(device="cpu", precision="fp32", batch_size=4, num_workers=0, progress=False)


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory, tiny_script: Path, quiet: ExtractionSettings) -> Path:
    folder = tmp_path_factory.mktemp("template")
    write_pictures(folder / "train", 40, seed=1, prefix="T")
    write_pictures(folder / "references", 12, seed=2, prefix="R")
    build_index(
        folder / "index",
        train=folder / "train",
        references=folder / "references",
        idx_factory=TINY_FACTORY,
        extractor=tiny_script,
        resize_size=32,
        settings=quiet,
    )
    return folder


@pytest.fixture
def tiny_index(tmp_path: Path, _template: Path) -> Path:
    """An index folder of 12 pictures in `references`, its quantiser trained on 40 others in `train`."""
    shutil.copytree(_template, tmp_path, dirs_exist_ok=True)
    return tmp_path / "index"
