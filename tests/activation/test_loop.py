import importlib.util
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm.optim
import torch
from torch import Tensor

from aindex.activation import apart, canvases
from aindex.activation.canvas import Canvas
from aindex.activation.goals import TargetGoal
from aindex.activation.loop import activate_images
from aindex.activation.optimizer import PerImageOptimizer, make_optimizer, make_scheduler
from aindex.activation.outcome import failures
from aindex.activation.perceptual import psnr_db
from aindex.activation.settings import ActivationSettings
from aindex.descriptors.extractor import Extractor
from aindex.descriptors.inference import FastExtractor, fast_extractor
from aindex.descriptors.preprocess import normalise, resize
from aindex.edits.differentiable import EditSettings
from aindex.errors import ConfigError

SIZES = [(40, 48), (37, 52), (64, 33), (40, 48), (31, 30), (50, 71), (1, 20)]
VIEWS = ActivationSettings(iterations=4, views=2, delta_size=2)


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


def eight_bits(picture: Tensor) -> Tensor:
    return (picture * 255).round().to(torch.uint8).permute(1, 2, 0)


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
    released = {}
    for start in range(0, len(chosen), batch_size):
        batch = list(chosen[start : start + batch_size])
        activation = activate_images(
            [PICTURES[i] for i in batch],
            TargetGoal(targets[batch, None]),
            extractor,
            settings or ActivationSettings(iterations=4),
            seeds=[SEEDS[i] for i in batch],
            batch_size=batch_size,
            optimizer=factory,
        )
        released.update(zip(batch, activation.released(), strict=True))
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
def test_the_loop_is_the_published_one(
    options: dict[str, Any], tiny_extractor: Extractor, targets: Tensor
) -> None:
    records: list[dict[str, Any]] = []
    expected = oracle.plain_loop(
        PICTURES[:3], targets[:3], tiny_extractor, input_size=tiny_extractor.input_size, seeds=SEEDS[:3],
        iterations=5, learning_rate=0.1, on_iteration=records.append, **options,
    )  # fmt: skip
    gradients: list[list[Tensor]] = []

    def noting(optimizer: torch.optim.Optimizer) -> Callable[[], Any]:
        def step() -> None:
            deltas = optimizer.param_groups[0]["params"]
            gradients.append([delta.grad.clone() for delta in deltas])
            optimizer.step()

        return step

    activation = activate_images(
        PICTURES[:3],
        TargetGoal(targets[:3, None], options.get("loss_f", "cossim")),
        fast_extractor(tiny_extractor, precision="fp32"),
        ActivationSettings(iterations=5, **options),
        seeds=SEEDS[:3],
        optimizer=partial(torch.optim.Adam, lr=0.1),
        stepping=noting,
        with_measures=True,
    )
    curves = activation.curves
    assert curves is not None
    for i, record in enumerate(records):
        for measured, wanted in zip(gradients[i], record["gradients"], strict=True):
            tolerance = 1e-3 * float(wanted.abs().max())
            torch.testing.assert_close(measured, wanted, rtol=1e-3, atol=tolerance)
        assert curves.loss[i].sum() == pytest.approx(record["loss"], abs=1e-4)
        for name in ("feature_loss", "image_loss"):
            assert getattr(curves, name)[i].tolist() == pytest.approx(record[name], abs=1e-4)
        for measured, wanted in zip(curves.psnr_db[i], record["psnr_db"], strict=True):  # type: ignore[index]
            # of changes that are large beside the rounding to 8 bits, which is here alone
            assert wanted > 45 or measured == pytest.approx(wanted, abs=0.3)
    for one, other in zip(activation.released(), expected, strict=True):
        assert (one.int() - other.int()).abs().max() <= 1


@pytest.mark.parametrize("settings", [ActivationSettings(iterations=4), VIEWS], ids=["published", "views"])
def test_pixels_do_not_depend_on_company_order_or_fill(
    settings: ActivationSettings, tiny_extractor: Extractor, targets: Tensor
) -> None:
    first = activate(range(7), targets, tiny_extractor, settings=settings)
    for chosen in (range(7), [6, 3, 0, 5, 2, 4, 1], [2], [5, 1, 2]):
        for image, pixels in activate(chosen, targets, tiny_extractor, settings=settings).items():
            assert torch.equal(pixels, first[image]), f"image {image} in {list(chosen)}"


@pytest.mark.parametrize(
    "changes",
    [{}, {"min_psnr": 42.0}, {"views": 1, "faithful": True}, {"delta_size": 2, "min_psnr": 42.0, "views": 1}],
    ids=str,
)
def test_images_treated_at_once_as_on_a_gpu_give_what_each_gives(
    changes: dict[str, Any], tiny_extractor: Extractor, targets: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ActivationSettings(iterations=3, edits=EditSettings(families={"crop": 1}), **changes)
    chosen = [0, 1, 5, 3, 6, 2]
    pictures = [PICTURES[i] for i in chosen]
    pictures[1] = pictures[1].mean(0, keepdim=True).expand(3, -1, -1)

    def run() -> tuple[list[Tensor], Tensor, list[Tensor]]:
        found = activate_images(
            pictures, TargetGoal(targets[chosen, None]), tiny_extractor, settings, seeds=[SEEDS[i] for i in chosen],
            optimizer=partial(torch.optim.SGD, lr=100.0), with_measures=True,
        )  # fmt: skip
        assert found.curves is not None
        assert found.failures == [None] * len(chosen)
        return found.changes(), torch.stack(list(vars(found.curves).values())), found.released()  # type: ignore[return-value]

    changes_apart, curves_apart, released_apart = run()
    monkeypatch.setattr(canvases, "together", lambda images: [[0, 2, 3], [5, 1, 4]])
    changes_together, curves_together, released_together = run()
    torch.testing.assert_close(changes_together, changes_apart, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(curves_together, curves_apart, rtol=1e-3, atol=1e-3)
    for one, other in zip(released_together, released_apart, strict=True):
        assert (one.int() - other.int()).abs().max() <= 1


@pytest.mark.parametrize("in_cache", [0, 1 << 20])
@pytest.mark.parametrize("settings", [ActivationSettings(iterations=4), VIEWS], ids=["published", "views"])
def test_pixels_do_not_depend_on_the_number_of_threads(
    settings: ActivationSettings,
    in_cache: int,
    tiny_extractor: Extractor,
    targets: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(apart, "_IN_CACHE", in_cache)
    threads, large = torch.get_num_threads(), smooth_picture(50, 300, 400)
    found = []
    for count in (1, 3):
        torch.set_num_threads(count)
        try:
            activation = activate_images(
                [large], TargetGoal(targets[:1, None]), tiny_extractor, settings, seeds=[1], optimizer=adam
            )
        finally:
            torch.set_num_threads(threads)
        found.append(activation.released()[0])
    assert torch.equal(*found)


@pytest.mark.parametrize("settings", [ActivationSettings(iterations=3), VIEWS], ids=["published", "views"])
def test_what_a_thread_treats_by_itself_gets_the_same_pixels(
    settings: ActivationSettings, tiny_extractor: Extractor, targets: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [0, 3, 5, 6]
    sizes = sorted(PICTURES[i].numel() for i in chosen)
    treated: list[tuple[int, bool]] = []
    seen = Canvas.on_base

    def noting(one: Canvas, change: Tensor) -> Tensor:
        treated.append((math.prod(one.shapes[0]), threading.current_thread() is threading.main_thread()))
        return seen(one, change)

    monkeypatch.setattr(Canvas, "on_base", noting)
    found = []
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for in_cache in (0, sizes[1], sizes[-1]):  # none, some, all
            monkeypatch.setattr(apart, "_IN_CACHE", in_cache)
            treated.clear()
            found.append(activate(chosen, targets, tiny_extractor, settings=settings))
            assert {is_main == (size > in_cache) for size, is_main in treated} == {True}
    finally:
        torch.set_num_threads(threads)
    for some in found[1:]:
        assert all(torch.equal(some[i], found[0][i]) for i in chosen)


def test_a_change_beyond_all_numbers_fails() -> None:
    """Clamped to 8 bits it would be a picture all the same."""
    fine, large = torch.ones(3, 4, 4), torch.full((3, 4, 4), 1e25)
    assert [why is None for why in failures([fine, large], [])] == [True, False]


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
    assert not torch.equal(together[2], eight_bits(PICTURES[2]))


def test_a_scheduler_acts_on_every_member() -> None:
    parameters = [torch.zeros(2, requires_grad=True) for _ in range(3)]
    optimizer = make_optimizer(lamb, parameters)
    assert isinstance(optimizer, PerImageOptimizer)
    advance = make_scheduler(lambda o: torch.optim.lr_scheduler.StepLR(o, 1, gamma=0.5), optimizer)
    optimizer.step()
    advance(0)
    assert [group["lr"] for member in optimizer.members for group in member.param_groups] == [0.05] * 3


def test_a_schedule_that_watches_the_loss_is_refused() -> None:
    optimizer = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=1.0)
    with pytest.raises(ConfigError, match=r"ReduceLROnPlateau.*watches no loss"):
        make_scheduler(torch.optim.lr_scheduler.ReduceLROnPlateau, optimizer)  # type: ignore[arg-type]


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


@pytest.mark.parametrize("delta_size", ["image", "input", 2])
def test_no_steps_leave_the_pixels_as_they_were(
    delta_size: Any, tiny_extractor: Extractor, targets: Tensor
) -> None:
    settings = ActivationSettings(iterations=0, delta_size=delta_size)
    for image, pixels in activate(range(7), targets, tiny_extractor, settings=settings).items():
        assert torch.equal(pixels, eight_bits(PICTURES[image]))


def test_eight_bit_images_do_as_well(tiny_extractor: Extractor, targets: Tensor) -> None:
    stored = [eight_bits(picture).permute(2, 0, 1) for picture in PICTURES[:2]]
    released = [
        activate_images(images, TargetGoal(targets[:2, None]), tiny_extractor, seeds=SEEDS[:2]).released()
        for images in (PICTURES[:2], stored)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*released, strict=True))


@pytest.mark.parametrize("delta_size", ["image", "input", 2])
@pytest.mark.parametrize("views", [0, 1])
def test_the_descriptor_comes_closer_to_its_target(
    delta_size: Any, views: int, tiny_extractor: Extractor, targets: Tensor
) -> None:
    settings = ActivationSettings(iterations=6, delta_size=delta_size, views=views)
    for image, pixels in activate(range(6), targets, tiny_extractor, settings=settings).items():
        before = resize(normalise(PICTURES[image]), 32)
        after = resize(normalise(pixels.permute(2, 0, 1) / 255), 32)
        similarity = torch.cosine_similarity(
            tiny_extractor(torch.stack([before, after])), targets[image][None]
        )
        assert similarity[1] > similarity[0]


@pytest.mark.parametrize("delta_size", ["image", 2])
def test_a_budget_is_kept_while_the_loop_runs(
    delta_size: Any, tiny_extractor: Extractor, targets: Tensor
) -> None:
    pictures = [smooth_picture(60 + i, 90, 120) for i in range(3)]
    settings = ActivationSettings(iterations=8, delta_size=delta_size, scaling=8.0, min_psnr=42.0)
    activation = activate_images(
        pictures, TargetGoal(targets[:3, None]), tiny_extractor, settings, seeds=[1, 2, 3], with_measures=True
    )
    assert activation.curves is not None
    assert activation.curves.psnr_db is not None
    assert activation.curves.psnr_db.min() > 41.7  # δ's own size only estimates that of the image
    assert activation.curves.psnr_db[-1].max() < 43
    free = activate_images(
        pictures, TargetGoal(targets[:3, None]), tiny_extractor,
        ActivationSettings(iterations=8, delta_size=delta_size, scaling=8.0), seeds=[1, 2, 3], with_measures=True,
    )  # fmt: skip
    assert free.curves.psnr_db[-1].max() < 40  # type: ignore[union-attr, index]


def test_views_of_an_image_are_those_of_its_seed(
    tiny_extractor: Extractor, targets: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(seed: int) -> Tensor:
        return activate_images(
            PICTURES[:1], TargetGoal(targets[:1, None]), tiny_extractor, VIEWS, seeds=[seed], batch_size=2
        ).changes()[0]

    assert torch.equal(run(5), run(5))
    assert (run(5) - run(6)).abs().max() > 1e-2
    calm = ActivationSettings(
        iterations=4, views=2, delta_size=2, edits=EditSettings(families={"brightness": 1}, composed=0)
    )
    other = activate_images(
        PICTURES[:1], TargetGoal(targets[:1, None]), tiny_extractor, calm, seeds=[5], batch_size=2
    )
    assert (other.changes()[0] - run(5)).abs().max() > 1e-2


def test_a_large_image_is_optimised_at_the_size_of_delta() -> None:
    large = Canvas([smooth_picture(1, 400, 600)], 32, ActivationSettings(delta_size=2))
    assert large.shapes == [(3, 64, 64)]
    deltas = large.start([0])
    assert deltas[0].shape == (3, 64, 64)
    assert large.input(large.change(deltas)).shape == (1, 3, 32, 32)
    assert large.full_changes(deltas)[0].shape == (3, 400, 600)


def test_counts_must_agree(tiny_extractor: Extractor, targets: Tensor) -> None:
    with pytest.raises(ValueError, match="2 images, 3 seeds"):
        activate_images(PICTURES[:2], TargetGoal(targets[:2, None]), tiny_extractor, seeds=[0, 1, 2])
    with pytest.raises(ValueError, match="batch size 1"):
        activate_images(
            PICTURES[:2], TargetGoal(targets[:2, None]), tiny_extractor, seeds=[0, 1], batch_size=1
        )


@dataclass(frozen=True)
class Spoiling:
    """A goal that spoils one image: its loss, or its gradient alone, is no number."""

    goal: TargetGoal
    image: int
    loss: bool

    @property
    def targets(self) -> Tensor:
        return self.goal.targets

    def __call__(self, descriptors: Tensor) -> Tensor:
        losses = list(self.goal(descriptors))
        good = losses[self.image]
        # the root is 0, and its gradient is no number
        losses[self.image] = good * torch.nan if self.loss else good + (good - good).sqrt()
        return torch.stack(losses)


@pytest.mark.parametrize("loss", [False, True])
@pytest.mark.parametrize("settings", [ActivationSettings(iterations=3), VIEWS, replace(VIEWS, min_psnr=40)])
@pytest.mark.parametrize("factory", [adam, partial(timm.optim.Lamb, lr=0.5)])
def test_an_image_that_fails_is_told_and_leaves_the_others_alone(
    tiny_extractor: Extractor, targets: Tensor, settings: ActivationSettings, factory: Any, loss: bool
) -> None:
    chosen = [0, 3, 2]
    arguments: dict[str, Any] = {
        "images": [PICTURES[i] for i in chosen],
        "extractor": tiny_extractor,
        "settings": settings,
        "seeds": [SEEDS[i] for i in chosen],
        "optimizer": factory,
    }
    goal = TargetGoal(targets[chosen, None])
    good = activate_images(goal=goal, **arguments)
    assert good.failures == [None, None, None]
    spoiled = activate_images(goal=Spoiling(goal, 1, loss), with_measures=True, **arguments)
    assert [why is None for why in spoiled.failures] == [True, False, True]
    assert "activation failed" in str(spoiled.failures[1])
    for found, expected in ((spoiled.released(), good.released()), (spoiled.changes(), good.changes())):
        assert found[1] is None
        for i in (0, 2):
            assert torch.equal(found[i], expected[i])


@pytest.mark.parametrize("use_tanh", [True, False])
def test_a_change_that_grows_without_bounds_is_not_released(
    tiny_extractor: Extractor, targets: Tensor, use_tanh: bool
) -> None:
    activation = activate_images(
        PICTURES[:2],
        TargetGoal(targets[:2, None]),
        tiny_extractor,
        ActivationSettings(iterations=3, use_tanh=use_tanh),
        seeds=SEEDS[:2],
        optimizer=partial(torch.optim.SGD, lr=float("inf")),
    )
    assert activation.released() == [None, None]


@pytest.mark.parametrize("shape", [(3, 0, 5), (1, 4, 4), (3, 4)])
def test_what_is_no_image_is_refused(
    shape: tuple[int, ...], tiny_extractor: Extractor, targets: Tensor
) -> None:
    with pytest.raises(ValueError, match=r"expected 3×H×W, with a pixel or more"):
        activate_images([torch.zeros(shape)], TargetGoal(targets[:1, None]), tiny_extractor, seeds=[0])
