"""A tiny index folder, and pictures to go with it."""

import shutil
from pathlib import Path

import pytest

from aindex.collection.building import build_index
from aindex.collection.equipment import describing
from aindex.descriptors.extraction import ExtractionSettings
from tests.conftest import CACHED, write_pictures

TINY_FACTORY = "IVF4,PQ4x4"


@pytest.fixture(scope="session")
def quiet() -> ExtractionSettings:
    """Everything in this process, on the CPU, without bars."""
    return describing(device="cpu", precision="fp32", batch_size=4, num_workers=0, progress=False)


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory, torch_home: Path, quiet: ExtractionSettings) -> Path:
    folder = tmp_path_factory.mktemp("template")
    write_pictures(folder / "train", 40, seed=1, prefix="T")
    write_pictures(folder / "references", 12, seed=2, prefix="R")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(torch_home))
        build_index(
            folder / "index",
            train=folder / "train",
            references=folder / "references",
            idx_factory=TINY_FACTORY,
            extractor=CACHED,
            resize_size=32,
            settings=quiet,
        )
    return folder


@pytest.fixture
def tiny_index(tmp_path: Path, _template: Path, torch_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index folder of 12 pictures in `references`, its quantiser trained on 40 others in `train`."""
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    shutil.copytree(_template, tmp_path, dirs_exist_ok=True)
    return tmp_path / "index"
