"""The extractor in the form the activation loop wants: fast forward, fast backward to its input only."""

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

Precision = Literal["fp32", "bf16"]


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
    """Prepare an extractor once, before all loops.

    Args:
        extractor: a module with input_size and dim; returned as it is if prepared already.
        device: where to run; default: where the extractor's weights lie.
        precision: default best_precision(device).
    """
    if isinstance(extractor, FastExtractor):
        return extractor
    if device is None:
        parameters = extractor.parameters() if isinstance(extractor, nn.Module) else iter(())
        device = next((p.device for p in parameters), torch.device("cpu"))
    device = torch.device(device)
    return FastExtractor(
        extractor,
        input_size=extractor.input_size,
        dim=extractor.dim,
        device=device,
        precision=precision or best_precision(device),
    )
