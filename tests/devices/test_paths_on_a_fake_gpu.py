"""Describing, extraction, training and evaluation as they would run on a GPU; no GPU is needed."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aindex.activation.datamodule import Picture
from aindex.activation.goals import GoalMaker
from aindex.activation.module import ActivationModule
from aindex.activation.run import Run
from aindex.data.source_image import SourceImage
from aindex.descriptors.extraction import extract
from aindex.descriptors.extractor import Extractor
from aindex.descriptors.folding import unscripted
from aindex.descriptors.training import ExtractorTraining
from aindex.evaluation.exhaustive import ExhaustiveSearch
from aindex.index.factory import train_quantiser
from aindex.index.quantiser import Quantiser
from tests.conftest import TINY_DIM, TINY_INPUT_SIZE, TinyNet
from tests.devices.networks import Net, fast_net
from tests.devices.watching import fake_gpu, on_gpu

TO_CPU, TO_GPU = "transfer {'cuda'} -> {'cpu'}", "transfer {'cpu'} -> {'cuda'}"
FACTORIES = [
    "IVF8,PQ4x4", "OPQ4_16,IVF8,PQ4x4", "PCA8,LSH", "L2norm,IVF8,SQ8", "LSQ2x4", "RaBitQ", "IMI2x3,PQ4x4",
]  # fmt: skip


def unit_rows(count: int) -> np.ndarray:
    rows = np.random.default_rng(0).standard_normal((count, TINY_DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def quantiser() -> Callable[[str], Quantiser]:
    return lambda factory: Quantiser(train_quantiser(unit_rows(300), factory, "L2", seed=0))


@pytest.mark.filterwarnings("ignore:.*training descriptors")
@pytest.mark.parametrize("idx_factory", FACTORIES)
def test_goals_lie_on_the_device_and_do_not_wait(
    quantiser: Callable[[str], Quantiser], idx_factory: str
) -> None:
    made = quantiser(idx_factory)
    with fake_gpu() as watch:
        goal = GoalMaker(made, loss_f="assignment", device="cuda")([torch.zeros(1, TINY_DIM)] * 2)
        descriptors = on_gpu(3, 2, TINY_DIM).requires_grad_()
        watch.forget()
        loss = goal(descriptors)
        loss.sum().backward()
        assert (loss.shape, loss.dtype, loss.device.type) == ((2,), torch.float32, "cuda")
        assert descriptors.grad is not None
    assert watch.waits == []
    assert watch.on_cpu == []


def module_on_gpu(
    count: int, made: Quantiser, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> ActivationModule:
    """The Lightning module as its trainer would leave it before the first batch; Lightning's own steps are left out."""
    module = ActivationModule(**options)
    module._device = torch.device("cuda", 0)
    module._extractor = fast_net()  # type: ignore[assignment]
    module._trainer = SimpleNamespace(  # type: ignore[assignment]
        optimizers=[],
        loggers=[],
        precision="32-true",
        strategy=SimpleNamespace(root_device=module._device),
    )
    monkeypatch.setattr(module, "_counted", lambda optimizer: optimizer.step)
    index = SimpleNamespace(quantiser=made, nprobe=1)
    module.run = Run(
        folder=Path(), images=sources(count), descriptors=unit_rows(count), index=index, batch_size=count
    )  # type: ignore[arg-type]
    return module


def sources(count: int) -> list[SourceImage]:
    return [
        SourceImage(name=f"{i}", path=Path(f"{i}"), index_id=i, released=f"{i}.png") for i in range(count)
    ]


@pytest.mark.filterwarnings("ignore:.*training descriptors")
@pytest.mark.parametrize(
    "options",
    [{}, {"loss_f": "assignment", "views": 1, "delta_size": "input", "min_psnr": 41}, {"active": False}],
)
def test_a_batch_is_activated(
    options: dict[str, Any], quantiser: Callable[[str], Quantiser], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = quantiser("IVF8,PQ4x4")
    with fake_gpu() as watch:
        module = module_on_gpu(3, made, monkeypatch, iterations=2, **options)
        batch = [
            Picture(i, image, torch.zeros(3, 40, 50 + i, dtype=torch.uint8), module.run.goal_of(i))
            for i, image in enumerate(sources(3))
        ]
        module._make_goal = module.goal_maker()  # once for all batches
        watch.forget()
        result = module.training_step(batch, 0)
        assert result is not None
        assert watch.sent[:3] == [True] * 3  # the pictures, from pinned memory
        for i, one in enumerate(result["released"]):
            assert (one.pixels.shape, one.pixels.dtype) == ((40, 50 + i, 3), torch.uint8)
            assert one.pixels.device.type == one.original.device.type == "cpu"
    # all released pixels at once, the curves, and what failed; measures come as numbers, two for each picture
    waits = Counter(watch.waits)
    assert waits[TO_CPU] == (1 if options.get("active") is False else 3)
    assert waits["aten._local_scalar_dense.default"] == 2 * 3
    assert set(waits) <= {TO_CPU, TO_GPU, "aten._local_scalar_dense.default", "aten.nonzero.default"}


@pytest.mark.parametrize(("rows", "calls"), [([16, 15], 1), ([64, 1], 2), ([100, 60, 40], 4)])
def test_copies_are_described(
    rows: list[int], calls: int, quantiser: Callable[[str], Quantiser], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = quantiser("IVF8,PQ4x4")
    with fake_gpu() as watch:
        module = module_on_gpu(2, made, monkeypatch)
        size = (3, TINY_INPUT_SIZE, TINY_INPUT_SIZE)
        batch = [SimpleNamespace(inputs=torch.zeros(count, *size)) for count in rows]
        watch.forget()
        found = module.validation_step(batch, 0)
        assert (found.shape, found.dtype, found.device.type) == ((sum(rows), TINY_DIM), torch.float32, "cpu")
    assert watch.waits == [TO_CPU] * calls
    assert watch.sent == [True] * calls


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
def test_pictures_are_extracted(make_pictures: Callable[..., list[Path]]) -> None:
    paths = make_pictures("pictures", 7)
    with fake_gpu() as watch:
        with torch.device("cuda"):
            extractor = Extractor(Net(), name="net", input_size=TINY_INPUT_SIZE, weights_hash="0")
        assert extractor.device.type == "cuda"
        watch.forget()
        found = extract(paths, extractor, batch_size=4, num_workers=0, precision="bf16", progress=False)
    assert (found.descriptors.shape, found.descriptors.dtype) == ((7, TINY_DIM), np.float32)
    assert watch.waits == [TO_CPU] * 2
    assert watch.sent == [True] * 2


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_extractor_s_training_step_does_not_wait(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_gpu() as watch:
        with torch.device("cuda"):
            training = ExtractorTraining(
                channels=(8, 8, 16, 16), layers=(1, 1, 1, 1), stem_width=8, dim=TINY_DIM
            )
        monkeypatch.setattr(training, "log_dict", lambda values, **options: None)
        optimizer = torch.optim.AdamW(training.parameters(), lr=1e-3)
        views = on_gpu(4, 3, 64, 64, dtype=torch.uint8)
        batch = (views, views.clone(), torch.arange(4, device="cuda"))
        training.training_step(batch, 0).backward()  # constants are sent once
        watch.forget()
        for _ in range(2):
            with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16-mixed"):
                loss = training.training_step(batch, 0)
            assert (loss.dtype, loss.device.type) == (torch.float32, "cuda")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert watch.waits == []
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in training.parameters())


@pytest.mark.parametrize(("free", "has_room"), [(1 << 40, True), (1000, False)])
def test_the_exhaustive_search_keeps_references_where_there_is_room(
    free: int, has_room: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free, 1 << 41))
    with fake_gpu() as watch:
        search = ExhaustiveSearch([unit_rows(300), unit_rows(100)], device="cuda", chunk_rows=128)
        search.ranks(unit_rows(5), np.arange(5))
        watch.forget()
        ranks = search.ranks(unit_rows(5), np.arange(5))
    assert (ranks.shape, ranks.dtype) == ((5,), np.int64)
    # queries, their true answers' ids and rows; without room the four pieces too
    assert len(watch.sent) == 3 + (0 if has_room else 4)
    assert watch.waits.count(TO_CPU) == 1


def test_a_script_s_graph_moves_as_a_whole() -> None:
    """TorchScript runs on no fake tensors; its graph of eager calls does on tensors without memory."""
    pixels = torch.zeros(1, 3, TINY_INPUT_SIZE, TINY_INPUT_SIZE)
    graph = unscripted(torch.jit.trace(TinyNet(), pixels))  # type: ignore[no-untyped-call]
    assert graph is not None
    found: Tensor = graph.to("meta")(torch.zeros(2, 3, TINY_INPUT_SIZE, TINY_INPUT_SIZE, device="meta"))
    assert (found.shape, found.dtype, found.device.type) == ((2, TINY_DIM), torch.float32, "meta")
