"""What the code does where there is a GPU, each branch with the smallest stand-in that says something."""

import ast
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric.plugins.environments import LightningEnvironment
from pytorch_lightning.accelerators import CUDAAccelerator
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import aindex
from aindex.activation.datamodule import Picture, decoded
from aindex.activation.goals import TargetGoal
from aindex.activation.loop import activate_images, repeatable
from aindex.activation.run import Run
from aindex.activation.settings import ActivationSettings
from aindex.callbacks.build_index import _gpu_of
from aindex.collection.equipment import choose_device
from aindex.commands import pipeline
from aindex.data.loading import Failure, _tensor
from aindex.data.source_image import SourceImage
from aindex.descriptors.inference import FastExtractor, best_precision
from aindex.distributed import IndependentDDP
from tests.conftest import TINY_DIM, TINY_INPUT_SIZE, TinyNet
from tests.devices.networks import fast_net
from tests.devices.watching import fake_gpu, on_gpu


@pytest.fixture
def present(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch says that there is a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 0), "fp32"), ((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")]
)
def test_the_precision_is_the_hardware_s(
    capability: tuple[int, int], expected: str, present: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    major, minor = capability
    properties = SimpleNamespace(major=major, minor=minor)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert best_precision("cuda") == best_precision(torch.device("cuda", 0)) == expected
    # the trainer's, where no precision is given
    for accelerator in ("auto", "gpu"):
        found = pipeline._precision(None, accelerator)
        assert found == {"fp32": "32-true", "bf16": "bf16-mixed"}[expected]


def test_auto_takes_the_gpu(present: None) -> None:
    assert choose_device("auto").type == "cuda"
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    assert choose_device("cpu").type == "cpu"


def picture_of(path: Path) -> Picture | Failure:
    image = SourceImage(name=path.name, path=path, index_id=0, released="a.png")
    descriptors = np.zeros((1, 2), np.float32)
    return decoded(Run(folder=Path(), images=[image], descriptors=descriptors, index=None), 0)  # type: ignore[arg-type]


def test_pictures_wait_in_pinned_memory(
    present: None, make_pictures: Callable[..., list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned: list[int] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: (pinned.append(self.data_ptr()), self)[1])
    picture = picture_of(make_pictures("pictures", 1)[0])
    assert isinstance(picture, Picture)
    assert pinned == [picture.pixels.data_ptr()]
    assert isinstance(picture_of(Path("nowhere")), Failure)
    assert _tensor(np.zeros(3)).data_ptr() == pinned[1]


def test_without_a_gpu_nothing_is_pinned(make_pictures: Callable[..., list[Path]]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    picture = picture_of(make_pictures("pictures", 1)[0])
    assert isinstance(picture, Picture)
    assert not picture.pixels.is_pinned()
    assert not _tensor(np.zeros(3)).is_pinned()


class Noting(nn.Module):
    """Notes cuDNN's settings while it runs forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.net = TinyNet()
        self.found: list[tuple[bool, bool]] = []

    def note(self, *_: Any) -> None:
        self.found.append((torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic))

    def forward(self, pixels: Tensor) -> Tensor:
        """B×3×R×R → B×d."""
        self.note()
        if pixels.requires_grad:
            pixels.register_hook(self.note)
        return self.net(pixels)


def test_the_extractor_runs_with_repeatable_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    noting = Noting()
    fast = FastExtractor(
        noting, input_size=TINY_INPUT_SIZE, dim=TINY_DIM, device=torch.device("cpu"), precision="fp32"
    )
    settings = ActivationSettings(iterations=2, views=1)
    goal = TargetGoal(torch.ones(1, 1, TINY_DIM))
    activate_images([torch.zeros(3, 20, 20)], goal, fast, settings, seeds=[0])
    assert noting.found == [(False, True)] * 4  # forward and backward of two iterations
    assert torch.backends.cudnn.benchmark
    with repeatable():
        assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.deterministic


class Types(TorchDispatchMode):
    """Notes of which types the operators of a kind were."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = self.found.setdefault(function.overloadpacket.__name__, set())
        found.update(leaf.dtype for leaf in tree_leaves(args) if isinstance(leaf, Tensor))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("precision", "inside"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_autocast_reaches_the_extractor_alone(precision: Any, inside: torch.dtype) -> None:
    settings = ActivationSettings(iterations=1, views=1, min_psnr=40)
    with fake_gpu():
        fast = fast_net(precision)
        with Types() as types:
            activate_images(
                [on_gpu(3, 40, 50)], TargetGoal(on_gpu(1, 1, TINY_DIM)), fast, settings, seeds=[0]
            )
    assert types.found["convolution"] == types.found["convolution_backward"] == {inside}
    # resize, change and step
    assert types.found["_embedding_bag_forward_only"] <= {torch.int64, torch.float32}
    assert types.found["tanh_backward"] == types.found["_fused_adam_"] == {torch.float32}


class Cluster(LightningEnvironment):
    """Process 1 of 2 on this machine."""

    def __init__(self) -> None:
        super().__init__()
        self._local = 1

    def local_rank(self) -> int:
        return self._local


@pytest.fixture
def second_of_two(monkeypatch: pytest.MonkeyPatch) -> IndependentDDP:
    # the strategy tells all of Lightning that this process is the second: afterwards it is the only one again
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    devices = [torch.device("cuda", 0), torch.device("cuda", 1)]
    return IndependentDDP(
        accelerator=CUDAAccelerator(), parallel_devices=devices, cluster_environment=Cluster()
    )


def test_a_process_takes_its_own_gpu_before_the_group_is_made(
    second_of_two: IndependentDDP, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Any] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: done.append(str(device)))
    monkeypatch.setattr(
        "pytorch_lightning.strategies.ddp._init_dist_connection",
        lambda environment, backend, **options: done.append((backend, str(options["device_id"]))),
    )
    second_of_two.setup_environment()
    # objects that NCCL gathers travel by the current device: another process's if it is set later
    assert done == ["cuda:1", ("nccl", "cuda:1")]
    trainer = SimpleNamespace(strategy=second_of_two, local_rank=1)
    assert _gpu_of(trainer) == 1  # type: ignore[arg-type]


def test_on_cpus_the_group_is_gloo_s() -> None:
    strategy = IndependentDDP(parallel_devices=[torch.device("cpu")], cluster_environment=Cluster())
    strategy.cluster_environment._local = 0  # type: ignore[union-attr]
    assert strategy._get_process_group_backend() == "gloo"


def test_faiss_on_a_gpu_beside_an_extractor_on_the_cpu_takes_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aindex.callbacks.build_index.gpu_count", lambda: 4)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    assert [_gpu_of(SimpleNamespace(strategy=strategy, local_rank=rank)) for rank in (0, 3, 5)] == [0, 3, 1]  # type: ignore[arg-type]


def test_processes_exchange_objects_never_tensors() -> None:
    """Then gloo and NCCL do the same: a tensor would have to lie on the CPU for one, on a GPU for the other."""
    harmless = {"get_rank", "get_world_size", "is_initialized"}
    used = {
        (path.name, node.attr)
        for path in Path(aindex.__file__).parent.rglob("*.py")
        if "torch.distributed" in (text := path.read_text(encoding="utf-8"))
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "dist"
    }
    assert {name for name, _ in used} == {"distributed.py"}
    assert {call for _, call in used if call[0].islower()} - harmless - {"distributed_c10d"} == {
        "all_gather_object",
        "broadcast_object_list",
        "barrier",
    }
