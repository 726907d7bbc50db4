import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import timm.optim
import torch
from torch import Tensor

from aindex.activation import kernels
from aindex.activation import problem as problem_module
from aindex.activation.distortion import ActivationSettings
from aindex.activation.optimizer import PerImageOptimizer, SweepingAdam, make_optimizer
from aindex.activation.perceptual import psnr_db
from aindex.activation.pixels import CpuPixels, GpuPixels
from aindex.activation.problem import ActivationProblem
from aindex.descriptors.extractor import Extractor
from aindex.descriptors.inference import FastExtractor, fast_extractor
from aindex.descriptors.preprocess import normalise, resize

SIZES = [(40, 48), (37, 52), (64, 33), (40, 48), (31, 30), (50, 71), (1, 20)]


def load_plain_loop() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "plain_loop.py"
    spec = importlib.util.spec_from_file_location("plain_loop", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


oracle = load_plain_loop()


def smooth_picture(seed: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 5, 5, generator=generator)
    picture = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")[0]
    noisy = picture + 0.02 * torch.randn(3, height, width, generator=generator)
    return (noisy.clamp(0, 1) * 255).round() / 255


PICTURES = [smooth_picture(i, *size) for i, size in enumerate(SIZES)]
SEEDS = [100 + i for i in range(len(SIZES))]


@pytest.fixture(scope="module")
def targets(tiny_extractor: Extractor) -> Tensor:
    batch = torch.stack([resize(normalise(p), tiny_extractor.input_size) for p in PICTURES])
    noise = torch.randn(len(PICTURES), tiny_extractor.dim, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        return tiny_extractor(batch) + 0.15 * noise


def adam(parameters: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1.0)


def activate(
    chosen: Sequence[int],
    targets: Tensor,
    extractor: Extractor | FastExtractor,
    *,
    batch_size: int = 4,
    settings: ActivationSettings | None = None,
    factory: Callable[[list[Tensor]], torch.optim.Optimizer] = adam,
) -> dict[int, Tensor]:
    settings = settings or ActivationSettings(iterations=4)
    released = {}
    for start in range(0, len(chosen), batch_size):
        batch = list(chosen[start : start + batch_size])
        problem = ActivationProblem(
            [PICTURES[i] for i in batch],
            targets[batch],
            extractor,
            settings,
            seeds=[SEEDS[i] for i in batch],
            batch_size=batch_size,
        )
        optimizer = problem.optimizer(factory)
        for _ in range(settings.iterations):
            optimizer.zero_grad()
            problem.loss_and_grad(with_image_loss=False)
            optimizer.step()
        released.update(zip(batch, problem.render(), strict=True))
    return released


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss_f": "mse", "lambda_i": 3.0},
        {"use_tanh": False},
        {"scale_channels": False, "scaling": 1.0},
        {"use_attenuation": False, "lambda_f": 0.5},
    ],
)
def test_losses_and_gradients_equal_autograd(
    options: dict[str, object], tiny_extractor: Extractor, targets: Tensor
) -> None:
    chosen = [0, 1, 2]
    settings = ActivationSettings(**options)  # type: ignore[arg-type]
    fast = fast_extractor(tiny_extractor, precision="fp32")
    problem = ActivationProblem(PICTURES[:3], targets[:3], fast, settings, seeds=SEEDS[:3], batch_size=3)
    optimizer = torch.optim.Adam(problem.parameters, lr=0.1)
    records = []

    def compare(record: dict[str, object]) -> None:
        terms = problem.loss_and_grad()
        for measured, expected in zip(problem.parameters, record["gradients"], strict=True):  # type: ignore[call-overload]
            tolerance = 1e-3 * float(expected.abs().max())
            torch.testing.assert_close(measured.grad.permute(1, 0, 2), expected, rtol=1e-3, atol=tolerance)
        np.testing.assert_allclose(terms.feature_loss, record["feature_loss"], atol=1e-5)
        np.testing.assert_allclose(terms.image_loss, record["image_loss"], atol=1e-5)
        np.testing.assert_allclose(terms.loss.sum(), record["loss"], atol=1e-4)
        records.append(record["iteration"])
        optimizer.step()

    expected = oracle.plain_loop(
        PICTURES[:3], targets[:3], tiny_extractor, input_size=tiny_extractor.input_size, seeds=SEEDS[:3],
        iterations=3, learning_rate=0.1, on_iteration=compare, **options,
    )  # fmt: skip
    assert records == chosen
    for measured, wanted in zip(problem.render(), expected, strict=True):
        assert (measured.int() - wanted.int()).abs().max() <= 1


@pytest.mark.parametrize(
    "options", [{}, {"use_tanh": False, "scale_channels": False}, {"delta_size": "input"}]
)
def test_the_form_for_gpus_computes_the_same(
    options: dict[str, object], tiny_extractor: Extractor, targets: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> tuple[list[Tensor], list[Tensor]]:
        settings = ActivationSettings(lambda_i=1.0, **options)  # type: ignore[arg-type]
        problem = ActivationProblem(PICTURES, targets, fast, settings, seeds=SEEDS, batch_size=8)
        problem.delta.detach().uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
        terms = problem.loss_and_grad()
        return [parameter.grad.clone() for parameter in problem.parameters], list(terms)

    fast = fast_extractor(tiny_extractor, precision="fp32")
    expected = run()
    monkeypatch.setattr(problem_module, "pixels_for", GpuPixels)
    for measured, wanted in zip(run(), expected, strict=True):
        for a, b in zip(measured, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("delta_size", ["image", "input"])
def test_steps_within_the_pass_are_those_of_torch(
    delta_size: str, tiny_extractor: Extractor, targets: Tensor
) -> None:
    deltas, losses = [], []
    for foreach in (None, True):  # a form that was chosen is kept
        settings = ActivationSettings(delta_size=delta_size)  # type: ignore[arg-type]
        problem = ActivationProblem(PICTURES, targets, tiny_extractor, settings, seeds=SEEDS, batch_size=7)
        optimizer = problem.optimizer(partial(torch.optim.Adam, lr=0.3, betas=(0.7, 0.9), foreach=foreach))
        assert isinstance(optimizer, SweepingAdam) == (foreach is None)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
        terms = []
        for _ in range(4):
            terms.append(problem.loss_and_grad())
            optimizer.step()
            scheduler.step()
        deltas.append(problem.delta.detach())
        losses.append(torch.stack([value for term in terms for value in term]))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-4)
    assert (deltas[0] - deltas[1]).abs().mean() < 1e-3
    assert deltas[0].abs().max() > 0.3


def test_losses_may_be_looked_at_before_there_is_an_optimiser(
    tiny_extractor: Extractor, targets: Tensor
) -> None:
    def steps(optimizers: Sequence[Callable[[list[Tensor]], torch.optim.Optimizer]]) -> Tensor:
        problem = ActivationProblem(
            PICTURES[:2], targets[:2], tiny_extractor, ActivationSettings(), seeds=SEEDS[:2], batch_size=2
        )
        for factory in optimizers:
            problem.loss_and_grad()
            before = problem.delta.detach().clone()
            optimizer = problem.optimizer(factory)
            problem.loss_and_grad()
            optimizer.step()
            assert problem.delta.isfinite().all()
            assert not torch.equal(problem.delta, before)
        return problem.delta.detach()

    assert torch.equal(steps([adam]), steps([adam]))
    steps([adam, sgd, adam])


def test_changes_of_delta_by_hand_are_seen(tiny_extractor: Extractor, targets: Tensor) -> None:
    problem = ActivationProblem(
        PICTURES[:2], targets[:2], tiny_extractor, ActivationSettings(), seeds=SEEDS[:2], batch_size=2
    )
    optimizer = problem.optimizer(adam)
    before = problem.loss_and_grad()
    optimizer.step()
    moved = problem.loss_and_grad()
    assert not torch.equal(moved.loss, before.loss)
    with torch.no_grad():
        for parameter in problem.parameters:
            parameter.zero_()
    torch.testing.assert_close(problem.loss_and_grad().loss, before.loss, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("use_tanh", [True, False])
def test_a_flat_heatmap_does_not_depend_on_company(
    use_tanh: bool, tiny_extractor: Extractor, targets: Tensor
) -> None:
    settings = ActivationSettings(use_attenuation=False, use_tanh=use_tanh)

    def heatmaps(chosen: Sequence[int]) -> list[Tensor]:
        return ActivationProblem(
            [smooth_picture(i, 200, 300) for i in chosen], targets[list(chosen)], tiny_extractor, settings,
            seeds=list(chosen), batch_size=4,
        ).heatmaps  # fmt: skip

    together = heatmaps([0, 1, 2, 3])
    assert all(torch.equal(heatmaps([i])[0], together[i]) for i in range(4))


@pytest.mark.parametrize("size", [(700, 300), (300, 700), (90, 2000), (1, 40000), (40000, 1), (161, 159)])
def test_bands_of_a_picture_add_up(size: tuple[int, int]) -> None:
    """More pixels than one thread treats at a time: what bands share is neither lost nor counted twice."""
    heat = torch.rand(size, generator=torch.Generator().manual_seed(0))
    base = torch.rand(2, 48, 48, 3, generator=torch.Generator().manual_seed(1))
    pull = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(2))
    found = []
    for form in (CpuPixels, GpuPixels):
        pixels = form([heat], base, ActivationSettings(lambda_i=10.0))
        pixels.delta.detach().uniform_(-1, 1, generator=torch.Generator().manual_seed(3))
        rows = pixels.forward().clone()
        pixels.backward(pull)
        found.append((rows, pixels.image_losses(), pixels.parameters[0].grad))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_pixels_do_not_depend_on_the_number_of_threads(tiny_extractor: Extractor, targets: Tensor) -> None:
    heat = torch.rand((300, 400), generator=torch.Generator().manual_seed(0))
    base, threads = torch.zeros(1, 48, 48, 3), torch.get_num_threads()
    deltas = []
    for count in (1, 3):
        torch.set_num_threads(count)
        try:
            pixels = CpuPixels([heat], base, ActivationSettings())
            optimizer = pixels.optimizer(adam)
            for _ in range(3):
                pixels.forward()
                pixels.backward(torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(1)) - 0.5)
                optimizer.step()
        finally:
            torch.set_num_threads(threads)
        deltas.append(pixels.delta.detach())
    assert torch.equal(*deltas)


def test_tanh_is_that_of_torch() -> None:
    x = torch.linspace(-12, 12, 20001)
    measured = torch.tensor([float(kernels.tanh(np.float32(value))) for value in x])
    torch.testing.assert_close(measured, torch.tanh(x), rtol=0, atol=5e-7)


def test_pixels_do_not_depend_on_company_order_or_fill(tiny_extractor: Extractor, targets: Tensor) -> None:
    first = activate(range(7), targets, tiny_extractor)
    for chosen in (range(7), [6, 3, 0, 5, 2, 4, 1], [2], [5, 1, 2]):
        for image, pixels in activate(chosen, targets, tiny_extractor).items():
            assert torch.equal(pixels, first[image]), f"image {image} in {list(chosen)}"


def test_batch_sizes_agree_up_to_rounding(tiny_extractor: Extractor, targets: Tensor) -> None:
    fast = fast_extractor(tiny_extractor)
    by_size = {size: activate(range(6), targets, fast, batch_size=size) for size in (1, 3, 16)}

    def psnr(pixels: Tensor, image: int) -> float:
        return float(psnr_db(pixels, PICTURES[image].permute(1, 2, 0)))

    def describe(pixels: Tensor) -> Tensor:
        return tiny_extractor(
            resize(normalise(pixels.permute(2, 0, 1) / 255), tiny_extractor.input_size)[None]
        )

    for size in (3, 16):
        for image, pixels in by_size[size].items():
            other = by_size[1][image]
            assert psnr(pixels, image) == pytest.approx(psnr(other, image), abs=0.1)
            assert torch.cosine_similarity(describe(pixels), describe(other)) > 0.99


def lamb(parameters: list[Tensor]) -> torch.optim.Optimizer:
    return timm.optim.create_optimizer_v2(parameters, opt="lamb", lr=0.1)


def sgd(parameters: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e4, momentum=0.9)


@pytest.mark.parametrize("factory", [lamb, sgd])
def test_any_optimizer_keeps_images_apart(
    factory: Callable[[list[Tensor]], torch.optim.Optimizer], tiny_extractor: Extractor, targets: Tensor
) -> None:
    together = activate([0, 1, 2, 3], targets, tiny_extractor, factory=factory)
    alone = activate([2], targets, tiny_extractor, factory=factory)
    assert torch.equal(together[2], alone[2])
    assert not torch.equal(together[2], (PICTURES[2] * 255).round().to(torch.uint8).permute(1, 2, 0))


def test_a_scheduler_acts_on_every_member() -> None:
    parameters = [torch.zeros(2, requires_grad=True) for _ in range(3)]
    optimizer = make_optimizer(lamb, parameters)
    assert isinstance(optimizer, PerImageOptimizer)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for member in optimizer.members for group in member.param_groups] == [0.05] * 3


def test_adam_is_fused_and_keeps_its_options() -> None:
    optimizer = make_optimizer(
        lambda p: torch.optim.AdamW(p, lr=0.3, betas=(0.5, 0.9), weight_decay=0.1), [torch.zeros(2)]
    )
    assert isinstance(optimizer, torch.optim.AdamW)
    group = optimizer.param_groups[0]
    assert (group["fused"], group["lr"], group["betas"], group["weight_decay"]) == (
        True,
        0.3,
        (0.5, 0.9),
        0.1,
    )


def test_options_of_a_parameter_group_stay_and_a_chosen_form_too() -> None:
    grouped = make_optimizer(lambda p: torch.optim.Adam([{"params": p, "lr": 0.7}]), [torch.zeros(2)])
    assert (grouped.param_groups[0]["lr"], grouped.param_groups[0]["fused"]) == (0.7, True)
    plain = make_optimizer(lambda p: torch.optim.Adam(p, foreach=False), [torch.zeros(2)])
    assert not plain.param_groups[0]["fused"]


def test_delta_is_one_flat_leaf_over_the_images(tiny_extractor: Extractor, targets: Tensor) -> None:
    problem = ActivationProblem(
        PICTURES[:2], targets[:2], tiny_extractor, ActivationSettings(), seeds=SEEDS[:2], batch_size=2
    )
    problem.loss_and_grad()
    assert problem.delta.is_leaf
    assert problem.delta.requires_grad
    assert problem.delta.grad is not None
    assert sum(p.numel() for p in problem.parameters) <= problem.delta.numel()
    problem.parameters[0].grad.zero_()  # type: ignore[union-attr]
    assert not problem.delta.grad[: PICTURES[0].numel()].any()
    assert problem.delta.grad[PICTURES[0].numel() :].any()


def test_no_steps_leave_the_pixels_as_they_were(tiny_extractor: Extractor, targets: Tensor) -> None:
    for delta_size in ("image", "input"):
        settings = ActivationSettings(iterations=0, delta_size=delta_size)
        for image, pixels in activate(range(7), targets, tiny_extractor, settings=settings).items():
            assert torch.equal(pixels, (PICTURES[image] * 255).round().to(torch.uint8).permute(1, 2, 0))


def test_eight_bit_images_do_as_well(tiny_extractor: Extractor, targets: Tensor) -> None:
    rendered = []
    for images in (PICTURES[:2], [(p * 255).round().to(torch.uint8) for p in PICTURES[:2]]):
        problem = ActivationProblem(
            images, targets[:2], tiny_extractor, ActivationSettings(), seeds=SEEDS[:2], batch_size=2
        )
        problem.loss_and_grad()
        problem.optimizer(adam).step()
        rendered.append(problem.render())
    assert all(torch.equal(a, b) for a, b in zip(*rendered, strict=True))


@pytest.mark.parametrize("delta_size", ["image", "input"])
def test_the_descriptor_comes_closer_to_its_target(
    delta_size: str, tiny_extractor: Extractor, targets: Tensor
) -> None:
    settings = ActivationSettings(iterations=6, delta_size=delta_size)  # type: ignore[arg-type]
    for image, pixels in activate(range(7), targets, tiny_extractor, settings=settings).items():
        before = resize(normalise(PICTURES[image]), 32)
        after = resize(normalise(pixels.permute(2, 0, 1) / 255), 32)
        similarity = torch.cosine_similarity(
            tiny_extractor(torch.stack([before, after])), targets[image][None]
        )
        assert similarity[1] > similarity[0]


def test_counts_must_agree(tiny_extractor: Extractor, targets: Tensor) -> None:
    with pytest.raises(ValueError, match="2 images, 3 targets"):
        ActivationProblem(
            PICTURES[:2], targets[:3], tiny_extractor, ActivationSettings(), seeds=[0, 1], batch_size=2
        )
