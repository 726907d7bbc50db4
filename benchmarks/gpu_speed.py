"""Speed, memory and profile of activation on one device, for gpu.py."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from activation import ResNet50GeM
from common import peak_mib, reset_peak
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.profiler import ProfilerActivity, profile

from aindex.activation.goals import GoalMaker
from aindex.activation.loop import activate_images, repeatable
from aindex.activation.presets import preset
from aindex.data.images import list_images, read_image
from aindex.descriptors.inference import FastExtractor, best_precision, fast_extractor
from aindex.descriptors.small import SmallExtractor
from aindex.index.factory import train_quantiser
from aindex.index.quantiser import Quantiser

LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")


@dataclass(frozen=True)
class Scale:
    """How large what is measured is.

    Attributes:
        name: for the results.
        batch_sizes: images per batch, three of them.
        sizes: extractor → side of its input.
        iterations: of the loop that are timed; images per second are for the settings' own number.
        rounds: measured rounds.
        evaluated: images whose copies are evaluated.
        is_whole: whether all batch sizes are measured with all extractors.
    """

    name: str
    batch_sizes: tuple[int, int, int]
    sizes: dict[str, int]
    iterations: int
    rounds: int
    evaluated: int
    is_whole: bool


GPU = Scale("gpu", (16, 64, 256), {"small": 160, "resnet50": 288, "vit_small_patch16": 288}, 6, 3, 100, True)
CPU = Scale("cpu", (1, 2, 3), {"small": 48, "resnet50": 64, "vit_small_patch16": 64}, 1, 1, 1, False)


def make_network(name: str, size: int) -> nn.Module:
    """Random weights: nothing is fetched, and speed does not depend on them."""
    torch.manual_seed(0)
    if name == "small":
        network: nn.Module = SmallExtractor()
    elif name == "resnet50":
        network = ResNet50GeM()
    else:
        import timm

        network = timm.create_model(f"{name}_224", pretrained=False, num_classes=0, img_size=size)
    network.input_size = size  # type: ignore[assignment]
    network.dim = {"small": 256, "resnet50": 512}.get(name, 384)  # type: ignore[assignment]
    return network.eval()


class Subject:
    """One extractor, batch size and set of settings, on a device.

    Args:
        pictures: folder.
        extractor: `small`, `resnet50` or `vit_small_patch16`.
        batch: images.
        effort: settings.
        scale: of the measurement.
        device: cuda or cpu.
        form: `eager`, `compiled` (torch.compile of the extractor), `graphs` (CUDA graphs of its two passes).
    """

    def __init__(
        self,
        pictures: Path,
        extractor: str,
        batch: int,
        effort: str,
        scale: Scale,
        device: str,
        form: str = "eager",
    ) -> None:
        self.device, self.batch, self.scale = torch.device(device), batch, scale
        how = preset(effort)  # type: ignore[arg-type]
        self.planned = how.settings.iterations
        self.settings = replace(how.settings, iterations=scale.iterations)
        self.optimizer, self.scheduler = how.optimizer, how.scheduler
        self.rows = batch * (1 + self.settings.views)
        network = make_network(extractor, scale.sizes[extractor])
        fast = fast_extractor(network, device=self.device, precision=best_precision(self.device))  # type: ignore[arg-type]
        self.fast = FORMS[form](fast, self.rows)
        paths = list_images(pictures)
        self.images = [
            torch.from_numpy(np.array(read_image(paths[i % len(paths)])))
            .permute(2, 0, 1)
            .contiguous()
            .to(self.device)
            for i in range(batch)
        ]
        directions = torch.randn(1000 + batch, fast.dim, generator=torch.Generator().manual_seed(0))
        self.descriptors = nn.functional.normalize(directions)
        quantiser = Quantiser(train_quantiser(self.descriptors.numpy(), "IVF16,Flat", "L2", seed=0))
        self.make_goal = GoalMaker(
            quantiser, loss_f=self.settings.loss_f, target="ivf_cluster", device=self.device
        )
        self.pixels = sample(fast, self.rows)

    def wait(self) -> float:
        """The time when the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def activate(
        self, before: Callable[[], Any] = lambda: None, after: Callable[[], Any] = lambda: None
    ) -> tuple[float, float]:
        """Activate the batch: seconds in all, and of the loop alone, which waits for nothing on its way.

        Args:
            before: called before the first iteration.
            after: called after the last step.
        """
        times: list[float] = []

        def stepping(optimizer: Optimizer) -> Callable[[], None]:
            left = iter(range(self.scale.iterations - 1, -1, -1))
            times.append(self.wait())
            before()

            def step() -> None:
                optimizer.step()
                if next(left) == 0:
                    times.append(self.wait())
                    after()

            return step

        started = self.wait()
        activate_images(
            self.images,
            self.make_goal([row[None] for row in self.descriptors[: self.batch]]),
            self.fast,
            self.settings,
            seeds=range(self.batch),
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            stepping=stepping,
        ).released()
        return self.wait() - started, times[1] - times[0]

    def limit(self) -> float:
        """Seconds of the extractor's forward and backward alone, as often as the loop's."""
        started = self.wait()
        for _ in range(self.scale.iterations):
            with repeatable():
                torch.autograd.grad(self.fast(self.pixels).sum(), self.pixels)
        return self.wait() - started


def sample(fast: FastExtractor, rows: int) -> Tensor:
    """A batch as the loop gives it to the extractor."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(rows, 3, fast.input_size, fast.input_size, generator=generator)
    return pixels.to(fast.device, fast.input_dtype, memory_format=torch.channels_last).requires_grad_()


def with_call(fast: FastExtractor, call: Callable[[Tensor], Tensor]) -> FastExtractor:
    """The same extractor by another way of calling it."""
    return FastExtractor(
        call, input_size=fast.input_size, dim=fast.dim, device=fast.device, precision=fast.precision
    )


def compiled(fast: FastExtractor, rows: int) -> FastExtractor:
    """By torch.compile; on a CPU without its slow code generation, to see that the step runs."""
    backend = "inductor" if fast.device.type == "cuda" else "aot_eager"
    return with_call(fast, torch.compile(fast._call, backend=backend, dynamic=False))


class Whole(nn.Module):
    """An extractor with its autocast, as a graph is made of."""

    def __init__(self, fast: FastExtractor) -> None:
        super().__init__()
        self.fast = fast

    def forward(self, pixels: Tensor) -> Tensor:
        """B×3×R×R → B×d."""
        return self.fast(pixels)


def graphed(fast: FastExtractor, rows: int) -> FastExtractor:
    """By CUDA graphs of forward and backward."""
    with repeatable():
        call = torch.cuda.make_graphed_callables(Whole(fast), (sample(fast, rows),))
    return with_call(fast, call)


FORMS: dict[str, Callable[[FastExtractor, int], FastExtractor]] = {
    "eager": lambda fast, rows: fast,
    "compiled": compiled,
    "graphs": graphed,
}


def speeds(subject: Subject) -> dict[str, Any]:
    """Images per second and the share of the limit; medians of rounds in turns, after one that is not measured."""
    before = reset_peak(subject.device)
    subject.activate()
    peak = peak_mib(subject.device) - before
    subject.limit()
    count, planned = subject.scale.iterations, subject.planned
    once, iteration, limit = [], [], []
    for _ in range(subject.scale.rounds):
        total, loop = subject.activate()
        once.append(total - loop)
        iteration.append(loop / count)
        limit.append(subject.limit() / count)
    pairs = list(zip(once, iteration, limit, strict=True))
    return {
        "precision": subject.fast.precision,
        "iterations": planned,
        "images_per_second": subject.batch / statistics.median(o + planned * i for o, i, _ in pairs),
        "limit_images_per_second": subject.batch / statistics.median(planned * c for *_, c in pairs),
        "a/c": statistics.median(planned * c / (o + planned * i) for o, i, c in pairs),
        "iterations a/c": statistics.median(c / i for _, i, c in pairs),
        "once_ms": 1000 * statistics.median(once),
        "iteration_ms": 1000 * statistics.median(iteration),
        "limit_ms": 1000 * statistics.median(limit),
        "peak_mib_added": peak,
    }


def profiled(subject: Subject, most: int = 20) -> dict[str, Any]:
    """Where the time of an iteration goes: the operators that take most of it, and how long the device is busy."""
    subject.activate()
    on_gpu = subject.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    watching = profile(activities=activities)
    _, loop = subject.activate(before=watching.start, after=watching.stop)
    count = subject.scale.iterations
    events = watching.key_averages()

    def device_us(event: Any) -> float:
        return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)

    kernels = [event for event in events if not on_gpu or event.device_type.name == "CUDA"]
    busy = sum(device_us(event) for event in kernels)
    by_operator = sorted(
        (e for e in events if e.key.startswith(("aten::", "autograd::"))), key=device_us, reverse=True
    )
    return {
        "iteration_ms": 1000 * loop / count,
        "busy_ms": busy / 1000 / count,
        "launches": sum(event.count for event in events if event.key in LAUNCHES) / count,
        "operators": [
            {
                "name": event.key,
                "calls": event.count / count,
                "device_ms": device_us(event) / 1000 / count,
                "cpu_ms": event.self_cpu_time_total / 1000 / count,
            }
            for event in by_operator[:most]
        ],
    }
