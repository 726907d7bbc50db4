"""A tiny run's inputs, shared by all tests here, and its results in one process."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import launching
import pytest


@dataclass(frozen=True)
class Workshop:
    """Command lines over the tiny data, with everything evaluated that can be."""

    data: Path
    folder: Path
    extractor: Path

    def args(self, command: str, output: Path, *options: str) -> list[str]:
        return [
            command,
            f"--output_dir={output}",
            f"--model.extractor={self.extractor}",
            "--model.resize_size=32",
            "--model.iterations=3",
            f"--data.data_dir={self.data / 'originals'}",
            f"--data.query_nonmatch_dir={self.data / 'train'}",
            "--data.batch_size=2",
            "--data.batch_size_eval=2",
            "--data.num_workers=0",
            "--index.idx_factory=IVF4,PQ4x4",
            f"--index.idx_dir={self.folder / 'indexes'}",
            f"--index.fts_training_path={self.data / 'train'}",
            f"--index.fts_reference_path={self.data / 'references'}",
            "--index.kneighbors=10",
            "--report.examples=2",
            "--trainer.accelerator=cpu",
            "--trainer.enable_progress_bar=false",
            *options,
        ]

    def extract_args(self, output: Path) -> list[str]:
        options = {
            "data_dir": self.data / "train",
            "output_dir": output,
            "extractor": self.extractor,
            "resize_size": 32,
            "batch_size": 8,
            "num_workers": 0,
            "device": "cpu",
            "precision": "fp32",
            "progress": "false",
        }
        return ["extract", *(f"--{name}={value}" for name, value in options.items())]


@pytest.fixture(autouse=True)
def nothing_goes_on() -> Iterator[None]:
    """End what a test started and left."""
    yield
    while launching.STARTED:
        launching.STARTED.pop().kill()


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, tiny_script: Path) -> Workshop:
    return Workshop(tiny_data, tmp_path_factory.mktemp("workshop"), tiny_script)


@pytest.fixture(scope="session")
def whole_fit(workshop: Workshop) -> dict[str, bytes]:
    """The results of `fit`, in one process, never interrupted."""
    output = workshop.folder / "whole_fit"
    launching.run(workshop.args("fit", output), workshop.folder / "logs")
    return launching.results(output)


@pytest.fixture(scope="session")
def whole_evaluate(workshop: Workshop, whole_fit: dict[str, bytes]) -> Callable[[], dict[str, bytes]]:
    """The results of `evaluate` over what `fit` released."""
    output = workshop.folder / "whole_evaluate"
    released = f"--retrieval.released_dir={workshop.folder / 'whole_fit' / 'imgs'}"
    launching.run(workshop.args("evaluate", output, released), workshop.folder / "logs")
    return launching.results(output)
