"""The extractor in the form the activation loop wants: fast forward, fast backward to its input only."""

import copy
import threading
from collections.abc import Callable
from itertools import chain
from typing import Literal, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

from aindex.descriptors.extractor import Extractor
from aindex.descriptors.folding import fold_batch_norms, unscripted

Precision = Literal["fp32", "bf16"]

_CONVERTED = (torch.conv2d, torch.ops.aten.linear.default, torch.ops.aten.matmul.default)
"""Calls of an unscripted graph that autocast runs in bf16."""

_made: WeakKeyDictionary[Extractor, dict[tuple[torch.device, Precision], "FastExtractor"]] = (
    WeakKeyDictionary()
)
_lock = threading.Lock()


class ExtractorLike(Protocol):
    """What is needed of an extractor: B×3×R×R normalised → B×d, and its sizes."""

    input_size: int
    dim: int

    def __call__(self, batch: Tensor) -> Tensor:
        """B×3×R×R → B×d."""


def best_precision(device: torch.device | str) -> Precision:
    """The fastest precision that leaves the result as it is: bf16 where the hardware has it, else fp32.

    fp16 is never chosen: its range asks for a loss scaler, which drops steps, and ten are few.
    """
    if torch.device(device).type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if any(capabilities.get(k) for k in ("amx_bf16", "avx512_bf16", "bf16")) else "fp32"


class FastExtractor:
    """An extractor prepared for one device and precision; differentiable with respect to its input.

    Attributes:
        input_size: R.
        dim: d.
        device: where its weights lie.
        precision: of the arithmetic inside; descriptors come out float32.
        input_dtype: of pixels that it takes without converting them; others are converted.
    """

    def __init__(
        self,
        call: Callable[[Tensor], Tensor],
        *,
        input_size: int,
        dim: int,
        device: torch.device,
        precision: Precision,
    ) -> None:
        self._call = call
        self.input_size = input_size
        self.dim = dim
        self.device = device
        self.precision = precision
        self.input_dtype = torch.bfloat16 if precision == "bf16" else torch.float32

    def __call__(self, batch: Tensor) -> Tensor:
        """B×3×R×R, normalised → B×d float32."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self._call(batch).float()


def fast_extractor(
    extractor: ExtractorLike | FastExtractor,
    *,
    device: torch.device | str | None = None,
    precision: Precision | None = None,
) -> FastExtractor:
    """Prepare an extractor once, before all loops: norms folded, weights converted, channels last.

    An `Extractor`, whose weights do not change, is prepared once per device and precision. Safe from threads.

    Args:
        extractor: an Extractor, or any frozen module with input_size and dim, which stays as it is; returned
            as it is if prepared already.
        device: where to run; default: where the extractor's weights lie.
        precision: default best_precision(device).
    """
    if isinstance(extractor, FastExtractor):
        return extractor
    module = getattr(extractor, "module", extractor)
    tensors = chain(module.parameters(), module.buffers()) if isinstance(module, nn.Module) else iter(())
    device = torch.device(device or next((t.device for t in tensors), torch.device("cpu")))
    precision = precision or best_precision(device)
    if not isinstance(extractor, Extractor):
        return _fast(extractor, module, device, precision)
    with _lock:
        made = _made.setdefault(extractor, {})
        if (device, precision) not in made:
            made[device, precision] = _fast(extractor, module, device, precision)
        return made[device, precision]


def _fast(
    extractor: ExtractorLike, module: ExtractorLike | nn.Module, device: torch.device, precision: Precision
) -> FastExtractor:
    size = extractor.input_size
    return FastExtractor(
        _prepared(module, size, device, precision) if isinstance(module, nn.Module) else module,
        input_size=size,
        dim=extractor.dim,
        device=device,
        precision=precision,
    )


def _prepared(
    module: nn.Module, size: int, device: torch.device, precision: Precision
) -> Callable[[Tensor], Tensor]:
    module = copy.deepcopy(module).to(device)
    if isinstance(module, torch.jit.ScriptModule):
        graph = unscripted(module)
        if graph is None or not _runs(graph, torch.zeros(2, 3, size, size, device=device)):
            return _without_profiling(module)
        module = graph
    else:
        weight = next(module.parameters(), torch.empty(0, device=device))
        module = fold_batch_norms(module, weight.new_zeros(1, 3, size, size))
    if precision == "bf16":
        _convert_weights(module)
    module.requires_grad_(False)
    return module.to(memory_format=torch.channels_last)


@torch.no_grad()
def _runs(graph: nn.Module, pixels: Tensor) -> bool:
    """Whether eager calls can do what the script did: some take other arguments."""
    try:
        graph(pixels)
    except Exception:
        return False
    return True


def _convert_weights(module: nn.Module) -> None:
    """Convert once what autocast would convert at every call; the rest keeps its precision."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.to(torch.bfloat16)
    if not isinstance(module, fx.GraphModule):
        return
    for node in module.graph.nodes:
        constants = [use for use in node.users if node.op == "get_attr"]
        if constants and all(use.target in _CONVERTED for use in constants):
            setattr(module, node.target, module.get_buffer(node.target).to(torch.bfloat16))


def _without_profiling(script: torch.jit.ScriptModule) -> Callable[[Tensor], Tensor]:
    """Run a script as it stands: what its executor would optimise on the way changes the rounding."""

    def call(pixels: Tensor) -> Tensor:
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            descriptors: Tensor = script(pixels)
        return descriptors

    return call
