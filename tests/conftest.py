"""Shared fixtures: tiny seeded pictures, tiny random extractors, the photographs where they are at hand."""

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from aindex.descriptors.extractor import Extractor
from aindex.descriptors.registry import FETCHED

TINY_INPUT_SIZE = 32
TINY_DIM = 16
CACHED = "sscd_disc_mixup"


def draw_picture(seed: int, width: int = 48, height: int = 40) -> Image.Image:
    """A smooth RGB picture with some texture, so that edits and descriptors have something to hold on to."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    noisy = smooth + rng.integers(-6, 7, smooth.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def write_pictures(folder: Path, count: int, *, seed: int = 0, prefix: str = "P") -> list[Path]:
    """``count`` PNG pictures of different sizes, P000000.png and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{prefix}{i:06d}.png" for i in range(count)]
    for i, path in enumerate(paths):
        draw_picture(1000 * seed + i, width=40 + 4 * (i % 5), height=36 + 4 * (i % 3)).save(path)
    return paths


class TinyNet(nn.Module):
    """A random convolutional descriptor, with batch norm statistics that are not the identity, unit norm."""

    def __init__(self, seed: int = 0, dim: int = TINY_DIM) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(3),
            nn.Flatten(),
        )
        self.head = nn.Linear(16 * 9, dim)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                fan_in = max(1, parameter[0].numel())
                parameter.normal_(0, fan_in**-0.5, generator=generator)
            self.features[1].weight.uniform_(0.5, 1.5, generator=generator)
            self.features[1].running_mean.normal_(0, 0.1, generator=generator)
            self.features[1].running_var.uniform_(0.5, 1.5, generator=generator)
        self.eval()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.head(self.features(pixels)), dim=1)


class Holed(nn.Module):
    """A descriptor that is finite everywhere, and whose gradient is no number where a picture is flat."""

    def __init__(self) -> None:
        super().__init__()
        self.net = TinyNet()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        plane = pixels[:, 0].flatten(1)
        gap = plane.amax(1) - plane.amin(1)
        root = torch.where(gap < 0.1, gap - gap, gap).sqrt()
        return nn.functional.normalize(
            torch.cat([self.net(pixels)[:, 1:], 0.1 * root.unsqueeze(1)], 1), dim=1
        )


def save_script(module: nn.Module, path: Path) -> Path:
    torch.jit.save(torch.jit.script(module), str(path))
    return path


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio of two colours, #rrggbb."""
    low, high = sorted(_luminance(colour) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.fixture
def make_picture() -> Callable[..., Image.Image]:
    """``make_picture(seed, width=48, height=40)``."""
    return draw_picture


@pytest.fixture
def make_pictures(tmp_path: Path) -> Callable[..., list[Path]]:
    """``make_pictures("name", count, seed=0, prefix="P")`` writes a folder below tmp_path."""

    def make(name: str, count: int, *, seed: int = 0, prefix: str = "P") -> list[Path]:
        return write_pictures(tmp_path / name, count, seed=seed, prefix=prefix)

    return make


@pytest.fixture(scope="session")
def tiny_module() -> nn.Module:
    """B×3×32×32 → B×16."""
    return TinyNet()


@pytest.fixture(scope="session")
def tiny_extractor(tiny_module: nn.Module) -> Extractor:
    """The tiny module as an Extractor, not scripted."""
    return Extractor(tiny_module, name="tiny", input_size=TINY_INPUT_SIZE)


@pytest.fixture(scope="session")
def tiny_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny module as a TorchScript file."""
    return save_script(TinyNet(), tmp_path_factory.mktemp("extractor") / "tiny.torchscript.pt")


@pytest.fixture(scope="session")
def torch_home(tmp_path_factory: pytest.TempPathFactory, tiny_script: Path) -> Path:
    """A folder for TORCH_HOME in which the tiny module is the cached file of `CACHED`, a name that an index may say."""
    folder = tmp_path_factory.mktemp("torch")
    cached = folder / "hub" / "checkpoints" / FETCHED[CACHED].rsplit("/", 1)[-1]
    cached.parent.mkdir(parents=True)
    cached.write_bytes(tiny_script.read_bytes())
    return folder


@pytest.fixture(scope="session")
def photographs() -> Path:
    """The folder that AINDEX_TEST_DATA names: real photographs in disc21/; tests skip without it."""
    folder = os.environ.get("AINDEX_TEST_DATA")
    if not folder or not (Path(folder) / "disc21").is_dir():
        pytest.skip("set AINDEX_TEST_DATA to a folder that holds disc21/ with photographs")
    return Path(folder)


@dataclass(frozen=True)
class TinyPipeline:
    """Tiny data for ``fit`` and ``evaluate``, and their command line."""

    folder: Path
    extractor: Path

    def args(self, *options: str, output: str = "run") -> list[str]:
        """Options for seven originals, twelve references and forty training pictures."""
        return [
            f"--output_dir={self.folder / output}",
            f"--model.extractor={self.extractor}",
            f"--model.resize_size={TINY_INPUT_SIZE}",
            f"--data.data_dir={self.folder / 'originals'}",
            "--data.batch_size=3",
            "--data.batch_size_eval=2",
            "--data.num_workers=0",
            "--index.idx_factory=IVF4,PQ4x4",
            f"--index.idx_dir={self.folder / 'indexes'}",
            f"--index.fts_training_path={self.folder / 'train'}",
            f"--index.fts_reference_path={self.folder / 'references'}",
            "--index.kneighbors=10",
            "--trainer.accelerator=cpu",
            "--trainer.enable_progress_bar=false",
            # the page takes longer than all the rest of a tiny run
            "--report.html=false",
            "--report.examples=0",
            *options,
        ]

    def run(self, command: str, *options: str, output: str = "run") -> Path:
        """Run a command in this process; the run's folder."""
        from aindex.cli import main

        main([command, *self.args(*options, output=output)])
        return self.folder / output


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with originals/, references/ and train/; read only."""
    folder = tmp_path_factory.mktemp("tiny")
    for number, (name, count) in enumerate({"originals": 7, "references": 12, "train": 40}.items()):
        write_pictures(folder / name, count, seed=number + 1, prefix=name[0].upper())
    return folder


@pytest.fixture(scope="session")
def new_pipeline(tiny_data: Path, tiny_script: Path) -> Callable[[Path], TinyPipeline]:
    """``new_pipeline(folder)`` for an empty folder."""

    def make(folder: Path) -> TinyPipeline:
        for name in ("originals", "references", "train"):
            (folder / name).symlink_to(tiny_data / name)
        return TinyPipeline(folder, tiny_script)

    return make


@pytest.fixture
def tiny_pipeline(tmp_path: Path, new_pipeline: Callable[[Path], TinyPipeline]) -> TinyPipeline:
    """``tiny_pipeline.run("fit", "--model.iterations=2")`` below tmp_path."""
    return new_pipeline(tmp_path)


@pytest.fixture(scope="session")
def finished_fit(
    tmp_path_factory: pytest.TempPathFactory, new_pipeline: Callable[[Path], TinyPipeline]
) -> Path:
    """The folder of a finished ``tiny_pipeline.run("fit")``; read only."""
    return new_pipeline(tmp_path_factory.mktemp("finished")).run("fit")


@pytest.fixture
def browse(tmp_path: Path) -> Callable[[Path, int], tuple[str, list[str]]]:
    """``browse(page, width)``: the document as it is after loading, and the console's lines; skips without chromium."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip(
            "no chromium: install it (Debian: apt-get install chromium) to see the pages in a browser"
        )

    def open_page(page: Path, width: int) -> tuple[str, list[str]]:
        done = subprocess.run(
            [
                browser,
                *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
                f"--user-data-dir={tmp_path / 'profile'}",
                f"--window-size={width},900",
                *("--enable-logging=stderr", "--dump-dom", page.as_uri()),
            ],
            capture_output=True,
            text=True,
            timeout=180,
            check=True,
        )
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return open_page
