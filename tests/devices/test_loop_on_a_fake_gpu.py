"""The activation's loop as it would run on a GPU: devices, waits, types; no GPU is needed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, get_args

import pytest
import timm
import torch
from timm.scheduler import CosineLRScheduler
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError
from torch.optim import Optimizer
from torchvision.models import resnet50

from aindex.activation.goals import AssignmentGoal, Goal, TargetGoal
from aindex.activation.loop import Activation, activate_images
from aindex.activation.presets import Effort, preset
from aindex.activation.settings import ActivationSettings
from aindex.descriptors import resizing
from aindex.descriptors.inference import FastExtractor, Precision, fast_extractor
from aindex.descriptors.preprocess import resize
from aindex.descriptors.small import SmallExtractor
from aindex.edits.differentiable import EditSettings, Family
from aindex.index.choices import Choices
from tests.conftest import TINY_DIM, TinyNet
from tests.devices.networks import fast_net
from tests.devices.watching import Watch, fake_gpu, on_gpu, walk_back

SIZES = [(40, 48), (37, 52), (64, 33)]


def goal(loss_f: str, count: int, *, additive: bool = False, nprobe: int = 1) -> Goal:
    targets = on_gpu(count, TINY_DIM)
    if loss_f != "assignment":
        return TargetGoal(targets[:, None], loss_f)  # type: ignore[arg-type]
    parts = 2 if additive else 1
    columns = torch.arange(TINY_DIM, device="cuda").expand(parts, -1)
    choices = Choices("cell", (), columns, on_gpu(parts, 8, TINY_DIM), additive=additive)
    right = on_gpu(count, parts, 1, dtype=torch.int64)
    return AssignmentGoal(choices, right, targets[:, None], targets[:, None], anchor=1.0, nprobe=nprobe)


@dataclass
class Run:
    """What a run of the loop left: what was noted inside it, beside and after it, and its result."""

    inside: dict[str, Any]
    iterations: list[int]  # launches from the first iteration to the end of each
    activation: Activation


def run(
    watch: Watch,
    settings: ActivationSettings,
    *,
    precision: Precision = "bf16",
    with_measures: bool = False,
    a_goal: Goal | None = None,
    extractor: FastExtractor | None = None,
    sizes: list[tuple[int, int]] = SIZES,
    **factories: Any,
) -> Run:
    """Run the loop; what is noted from before its first iteration to the end of its last step is `inside`."""
    inside: dict[str, Any] = {}
    launches: list[int] = []

    def stepping(optimizer: Optimizer) -> Callable[[], None]:
        watch.forget()

        def step() -> None:
            optimizer.step()
            launches.append(watch.launches)
            inside.update({name: kept for name, kept in vars(watch).items() if not name.startswith("_")})
            inside.update({name: list(kept) for name, kept in inside.items() if isinstance(kept, list)})

        return step

    images = [on_gpu(3, *size, dtype=torch.uint8) for size in sizes]
    activation = activate_images(
        images,
        a_goal or goal(settings.loss_f, len(images)),
        extractor or fast_net(precision),
        settings,
        seeds=range(len(images)),
        batch_size=len(images) + 1,
        stepping=stepping,
        with_measures=with_measures,
        **factories,
    )
    return Run(inside, launches, activation)


def settings_of(effort: Effort, **changes: Any) -> tuple[ActivationSettings, dict[str, Any]]:
    chosen = preset(effort)
    return replace(chosen.settings, **changes), {"optimizer": chosen.optimizer, "scheduler": chosen.scheduler}


def is_undisturbed(found: Run) -> None:
    """From the first iteration to the last step nothing waits, is sent, runs on the CPU, or adds in any order."""
    assert found.inside["waits"] == []
    assert found.inside["sent"] == []
    assert found.inside["on_cpu"] == []
    assert found.inside["unordered"] == []
    assert found.inside["launches"] > 60 * len(found.iterations)  # it was watched


@pytest.mark.parametrize("precision", get_args(Precision))
@pytest.mark.parametrize("effort", get_args(Effort))
def test_nothing_in_the_loop_waits(effort: Effort, precision: Precision) -> None:
    settings, factories = settings_of(effort, iterations=3)
    with fake_gpu() as watch:
        is_undisturbed(run(watch, settings, precision=precision, with_measures=True, **factories))


@pytest.mark.parametrize("family", get_args(Family))
def test_no_family_of_edits_waits(family: Family) -> None:
    edits = EditSettings(families={family: 1}, composed=0)
    settings = ActivationSettings(iterations=2, views=2, edits=edits)
    with fake_gpu() as watch:
        is_undisturbed(run(watch, settings))


@pytest.mark.parametrize(
    "changes",
    [
        {"loss_f": "mse", "use_tanh": False},
        {"use_attenuation": False, "scale_channels": False},
        {"delta_size": "input", "min_psnr": 40.0},
        {"delta_size": 2, "min_psnr": 40.0, "views": 1},
        {"min_psnr": 42.0, "lambda_i": 0.5},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_no_setting_waits(changes: dict[str, Any]) -> None:
    with fake_gpu() as watch:
        is_undisturbed(run(watch, ActivationSettings(iterations=2, **changes)))


@pytest.mark.parametrize("options", [{"additive": True}, {"nprobe": 3}], ids=["additive", "nprobe"])
def test_no_kind_of_choice_waits(options: dict[str, Any]) -> None:
    settings = ActivationSettings(iterations=2, loss_f="assignment")
    with fake_gpu() as watch:
        is_undisturbed(run(watch, settings, a_goal=goal("assignment", len(SIZES), **options)))


def test_more_sizes_than_the_cache_of_weights_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    small = lru_cache(maxsize=2)(resizing._axis_weights.__wrapped__)
    monkeypatch.setattr(resizing, "_axis_weights", small)
    with fake_gpu() as watch:
        is_undisturbed(run(watch, ActivationSettings(iterations=2)))


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10),
        lambda optimizer: CosineLRScheduler(optimizer, t_initial=10, warmup_t=2),
    ],
    ids=["torch", "timm"],
)
def test_no_schedule_waits(scheduler: Any) -> None:
    with fake_gpu() as watch:
        is_undisturbed(run(watch, ActivationSettings(iterations=2), scheduler=scheduler))


@pytest.mark.parametrize("name", ["aindex_small", "torchvision/resnet50", "timm/vit_small_patch16_224"])
def test_no_extractor_waits(name: str) -> None:
    with fake_gpu() as watch, torch.device("cuda"):
        network = {
            "aindex_small": SmallExtractor,
            "torchvision/resnet50": lambda: resnet50(num_classes=256),
            "timm/vit_small_patch16_224": lambda: timm.create_model("vit_small_patch16_224", num_classes=256),
        }[name]()
        network.input_size, network.dim = (224 if "vit" in name else 64), 256
        fast = fast_extractor(network.eval(), device="cuda", precision="bf16")
        targets = TargetGoal(on_gpu(len(SIZES), 1, 256))
        is_undisturbed(run(watch, ActivationSettings(iterations=1), extractor=fast, a_goal=targets))


def test_results_are_of_the_cpu_s_types_and_on_the_device() -> None:
    settings, factories = settings_of("robust", iterations=1)
    with fake_gpu() as watch:
        found = run(watch, settings, with_measures=True, **factories)
        released, changes = found.activation.released(), found.activation.changes()
        assert [(one.shape, one.dtype, one.device.type) for one in released] == [
            ((*size, 3), torch.uint8, "cuda") for size in SIZES
        ]
        assert {(one.dtype, one.device.type) for one in changes} == {(torch.float32, "cuda")}
        curves = found.activation.curves
        assert curves is not None
        assert {(curve.dtype, curve.device.type) for curve in vars(curves).values()} == {
            (torch.float32, "cpu")
        }


def test_curves_and_failures_leave_the_device_after_the_loop_in_one_transfer_each() -> None:
    with fake_gpu() as watch:
        run(watch, ActivationSettings(iterations=3), with_measures=True)
        assert watch.waits == ["transfer {'cuda'} -> {'cpu'}"] * 2


def test_what_is_sent_before_the_loop_does_not_grow_with_it() -> None:
    def sent(iterations: int) -> int:
        with fake_gpu() as watch:
            counted: list[int] = []
            settings, factories = settings_of("robust", iterations=iterations)
            factories["optimizer"] = lambda deltas: (
                counted.append(len(watch.sent)) or torch.optim.Adam(deltas)  # type: ignore[func-returns-value]
            )
            run(watch, settings, **factories)
            return counted[0]

    assert sent(2) == sent(5)


@pytest.mark.parametrize(("effort", "most"), [("paper", 6), ("robust", 320), ("fast", 6)])
def test_launches_of_an_iteration_do_not_grow_with_the_images(effort: Effort, most: int) -> None:
    """Each takes the CPU some microseconds: at 64 pictures they decide how far the loop is from its limit.

    Of more pictures more families of edits are drawn at a time: `robust` grows by them, for each of its three views.
    """
    launches = []
    for count in (4, 16):
        settings, factories = settings_of(effort, iterations=3)
        with fake_gpu() as watch:
            found = run(watch, settings, sizes=(SIZES * count)[:count], **factories)
        launches.append(found.iterations[-1] - found.iterations[-2])
    assert launches[1] - launches[0] <= most * max(1, settings.views)


@pytest.mark.parametrize("family", get_args(Family))
def test_launches_of_an_edit_do_not_grow_with_the_images(family: Family) -> None:
    edits = EditSettings(families={family: 1}, composed=0)
    settings = ActivationSettings(iterations=2, views=1, edits=edits, delta_size="input")
    launches = []
    for count in (2, 8):
        with fake_gpu() as watch:
            found = run(watch, settings, sizes=(SIZES * count)[:count])
        launches.append(found.iterations[-1] - found.iterations[-2])
    assert launches[1] - launches[0] <= 6


def test_a_tensor_on_the_wrong_device_is_an_error() -> None:
    """The stand-in itself: what it would say if the loop made a mistake."""
    with fake_gpu() as watch:
        rows = on_gpu(4, 3)
        with pytest.raises(FakeTensorDeviceMismatchError):
            rows + torch.zeros(4, 3)
        watch.forget()
        assert rows.sum().item() == 1.0
        torch.linalg.inv(on_gpu(3, 3))
        rows[torch.tensor([0, 1])]
        rows[rows[:, 0] > 0]
        torch.tensor([1.0], device="cuda")
        rows.cpu()
        resize(on_gpu(3, 9, 9).requires_grad_(), 4).sum().backward()
        assert watch.unordered == ["aten._upsample_bilinear2d_aa_backward.default"]
    assert watch.waits == [
        "aten._local_scalar_dense.default", "aten._linalg_check_errors.default", "index from the CPU",
        "mask as an index", "transfer {'cpu'} -> {'cuda'}", "transfer {'cuda'} -> {'cpu'}",
    ]  # fmt: skip


def test_the_walk_back_gives_autograd_s_gradients() -> None:
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    net = TinyNet()

    def loss() -> Tensor:
        first, second = pixels.unbind()
        rows = torch.cat([torch.stack([first * 2, second]), pixels, pixels.square()])
        return (net(rows).square() * torch.arange(16.0)).sum()

    expected = torch.autograd.grad(loss(), pixels)[0]
    walk_back(loss())
    torch.testing.assert_close(pixels.grad, expected)
