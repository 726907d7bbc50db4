"""What only a GPU can show. `AINDEX_TEST_DEVICE=cpu` runs the same lines on the CPU, to see that they are right."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from aindex.activation.goals import GoalMaker
from aindex.activation.loop import Activation, activate_images
from aindex.activation.perceptual import jnd_map
from aindex.activation.presets import Effort, preset
from aindex.cli import main
from aindex.descriptors.extraction import extract
from aindex.descriptors.inference import Precision, fast_extractor
from aindex.descriptors.preprocess import normalise, resize
from aindex.descriptors.registry import load_extractor
from aindex.descriptors.training import ExtractorTraining
from aindex.edits.differentiable import EditSettings, Family, draw, edited, sent
from aindex.evaluation.exhaustive import ExhaustiveSearch
from aindex.index.factory import train_quantiser
from aindex.index.quantiser import Quantiser

DEVICE = os.environ.get("AINDEX_TEST_DEVICE", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore:.*training descriptors"),
]
COUNT, STEPS = 6, 4


@pytest.fixture(scope="module")
def quantiser() -> Quantiser:
    rows = torch.nn.functional.normalize(torch.randn(500, 256, generator=torch.Generator().manual_seed(1)))
    return Quantiser(train_quantiser(rows.numpy(), "IVF8,PQ8x4", "L2", seed=0))


@pytest.fixture(scope="module")
def pictures() -> list[Tensor]:
    """Of several sizes, 3×H×W uint8."""
    generator = torch.Generator().manual_seed(2)
    coarse = [torch.rand(1, 3, 6, 6, generator=generator) for _ in range(COUNT)]
    sizes = [(200 + 10 * i, 240) for i in range(COUNT)]
    smooth = [
        torch.nn.functional.interpolate(one, size, mode="bicubic")[0].clamp(0, 1)
        for one, size in zip(coarse, sizes, strict=True)
    ]
    return [(255 * one).round().to(torch.uint8) for one in smooth]


def refuse_waiting(refused: bool) -> None:
    """On a GPU: whether an error is raised where the CPU would wait for it."""
    if DEVICE == "cuda":
        torch.cuda.set_sync_debug_mode("error" if refused else "default")


def activated(
    pictures: list[Tensor],
    quantiser: Quantiser,
    effort: Effort,
    device: str,
    precision: Precision = "fp32",
    **more: Any,
) -> Activation:
    extractor = load_extractor("aindex_small", device=device)
    fast = fast_extractor(extractor, precision=precision)
    how = preset(effort, iterations=STEPS)
    images = [picture.to(device) for picture in pictures]
    with torch.no_grad():
        seen = torch.stack([resize(normalise(image / 255), fast.input_size) for image in images])
        descriptors = fast(seen).cpu()
    goal = GoalMaker(quantiser, loss_f=how.settings.loss_f, target=how.target, device=device)(
        [row[None] for row in descriptors]
    )
    return activate_images(
        images, goal, fast, how.settings,
        seeds=range(len(images)), optimizer=how.optimizer, scheduler=how.scheduler, **more,
    )  # fmt: skip


def grey_levels(one: list[Tensor], other: list[Tensor]) -> tuple[float, float]:
    """Mean over all channel values of the absolute difference, and the largest."""
    differences = torch.cat(
        [(a.cpu().int() - b.cpu().int()).abs().flatten() for a, b in zip(one, other, strict=True)]
    )
    return float(differences.float().mean()), float(differences.max())


@pytest.mark.parametrize("effort", ["paper", "robust"])
def test_pixels_are_near_the_cpu_s(effort: Effort, pictures: list[Tensor], quantiser: Quantiser) -> None:
    """Within a quarter of the change itself, on average over the values.

    Adam's first steps have the size of its learning rate whatever the gradient's: where that is near zero, rounding
    decides the direction. On a CPU, rounding the extractor's input as TF32 does moves pixels by .06 (paper) and .12
    (robust) of the change, bf16 by .17 and .31.
    """
    there = activated(pictures, quantiser, effort, DEVICE)
    here = activated(pictures, quantiser, effort, "cpu")
    mean, _ = grey_levels(there.released(), here.released())
    change, _ = grey_levels(here.released(), [picture.permute(1, 2, 0) for picture in pictures])
    assert mean < 0.25 * change
    assert there.curves is not None
    assert here.curves is not None
    torch.testing.assert_close(there.curves.loss[0], here.curves.loss[0], atol=5e-3, rtol=5e-3)
    torch.testing.assert_close(there.curves.loss[-1], here.curves.loss[-1], atol=0.05, rtol=0.05)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("effort", ["paper", "robust", "fast"])
def test_two_runs_give_the_same_pixels(
    effort: Effort, precision: Precision, pictures: list[Tensor], quantiser: Quantiser
) -> None:
    first, second = (activated(pictures, quantiser, effort, DEVICE, precision).released() for _ in range(2))
    assert grey_levels(first, second) == (0.0, 0.0)


@pytest.mark.parametrize("effort", ["paper", "robust"])
def test_pixels_do_not_depend_on_company(
    effort: Effort, pictures: list[Tensor], quantiser: Quantiser
) -> None:
    together = activated(pictures, quantiser, effort, DEVICE, batch_size=COUNT).released()
    alone = activated(pictures[:1], quantiser, effort, DEVICE, batch_size=COUNT).released()
    assert grey_levels(alone, together[:1]) == (0.0, 0.0)


@pytest.mark.parametrize("effort", ["paper", "robust"])
def test_no_kernel_waits_inside_the_loop(
    effort: Effort, pictures: list[Tensor], quantiser: Quantiser
) -> None:
    def stepping(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        taken: list[int] = []
        refuse_waiting(True)

        def step() -> None:
            optimizer.step()
            taken.append(1)
            refuse_waiting(len(taken) < STEPS)

        return step

    try:
        activated(pictures, quantiser, effort, DEVICE, "bf16", stepping=stepping)
    finally:
        refuse_waiting(False)


@pytest.mark.parametrize("family", list(EditSettings().families))
def test_edits_are_the_cpu_s(family: Family, pictures: list[Tensor]) -> None:
    rng = random.Random(3)
    views = [draw(rng, 1.2, EditSettings(families={family: 1}, composed=0)) for _ in range(3)]
    squares = torch.stack([resize(picture / 255, 128) for picture in pictures[:3]])
    there, here = (edited(squares.to(d), sent([views], d)[0], 64).cpu() for d in (DEVICE, "cpu"))
    # JPEG rounds coefficients, and a patch has a hard edge
    share = ((there - here).abs() > 1e-3).float().mean()
    assert share < (0.02 if family in ("jpeg", "patch") else 1e-4)


def test_heatmaps_are_the_cpu_s(pictures: list[Tensor]) -> None:
    for picture in pictures:
        there, here = (jnd_map((picture / 255).to(device)).cpu() for device in (DEVICE, "cpu"))
        torch.testing.assert_close(there, here, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_extraction(precision: Precision, make_pictures: Callable[..., list[Path]]) -> None:
    paths = make_pictures("pictures", 11)
    options: dict[str, Any] = {"batch_size": 4, "precision": precision, "progress": False}
    extractor = load_extractor("aindex_small", device=DEVICE)
    found = [extract(paths, extractor, num_workers=n, **options).descriptors for n in (0, 2)]
    assert np.array_equal(*found)
    expected = extract(paths, load_extractor("aindex_small"), num_workers=0, progress=False).descriptors
    assert (found[0] * expected).sum(1).min() > 0.999


def test_the_exhaustive_search() -> None:
    rows = np.random.default_rng(0).standard_normal((3000, 64)).astype(np.float32)
    queries = rows[:200] + np.float32(0.8) * rows[200:400]
    there, here = (
        ExhaustiveSearch([rows], device=device).ranks(queries, np.arange(200)) for device in (DEVICE, "cpu")
    )
    assert (np.abs(there - here) <= 2).all()


def test_the_extractor_s_training_step() -> None:
    losses = {}
    for device in (DEVICE, "cpu"):
        torch.manual_seed(0)
        training = ExtractorTraining(channels=(8, 8, 16, 16), layers=(1, 1, 1, 1), stem_width=8, dim=32).to(
            device
        )
        training.log_dict = lambda values, **options: None  # type: ignore[method-assign, assignment]
        optimizer = torch.optim.SGD(training.parameters(), lr=0.002)  # larger steps magnify rounding
        generator = torch.Generator().manual_seed(4)
        views = torch.randint(0, 256, (2, 8, 3, 64, 64), dtype=torch.uint8, generator=generator).to(device)
        batch = (views[0], views[1], torch.arange(8, device=device))
        noted = []
        for _ in range(3):
            loss = training.training_step(batch, 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            noted.append(loss.item())
        losses[device] = noted
    assert losses[DEVICE] == pytest.approx(losses["cpu"], rel=0.02)


def arguments(folder: Path, pictures: Path, *more: str) -> list[str]:
    """A run of `fit` with two edits, on the index that ships."""
    accelerator = "gpu" if DEVICE == "cuda" else "cpu"
    return [
        "fit", f"--output_dir={folder}", f"--data.data_dir={pictures}", "--data.num_workers=2", "--index.path=shipped",
        "--model.iterations=3", f"--trainer.accelerator={accelerator}", "--trainer.devices=1", "--trainer.logger=false",
        "--trainer.enable_progress_bar=false", "--report.html=false", "--report.examples=0", *more,
    ]  # fmt: skip


def test_a_run_with_evaluation_in_a_group_of_one_process(
    make_pictures: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """`ddp_independent`, which makes an NCCL group on a GPU, releases what a run without it does."""
    folder = make_pictures("pictures", 5)[0].parent
    main(arguments(tmp_path / "alone", folder))
    main(arguments(tmp_path / "group", folder, "--trainer.strategy=ddp_independent"))
    for path in sorted((tmp_path / "alone" / "imgs").iterdir()):
        one, other = (
            np.asarray(Image.open(tmp_path / run / "imgs" / path.name)) for run in ("alone", "group")
        )
        np.testing.assert_array_equal(one, other)
    tables = [pd.read_csv(tmp_path / run / "retr_df.csv") for run in ("alone", "group")]
    pd.testing.assert_frame_equal(*tables)
    assert len(tables[0]) == 5 * 15
