"""One form for every extractor: a frozen module with name, dimension, input size and fingerprint."""

import hashlib
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from aindex.data.images import one_line
from aindex.errors import ExtractorError


class Extractor(nn.Module):
    """Normalised pixels B×3×R×R to descriptors B×d, as the wrapped module returns them.

    The module is put in evaluation mode and its parameters are frozen; gradients still flow to the pixels. It
    is held outside module registration (a script module neither pickles nor lists its parts as others do),
    but moves along with ``.to(…)``.

    Args:
        module: B×3×R×R → B×d; a TorchScript module or any other.
        name: for people and tables.
        input_size: R, pixels.
        weights_hash: hex digest that stands for the weights and the architecture; taken from the state dict
            if None.

    Raises:
        ExtractorError: the module does not map B×3×R×R to finite floats B×d, for 1 and 2 pictures.
    """

    def __init__(
        self, module: nn.Module, *, name: str, input_size: int, weights_hash: str | None = None
    ) -> None:
        super().__init__()
        if input_size < 1:
            raise ExtractorError(f"input size {input_size} of extractor {name!r}: expected at least 1 pixel")
        module.eval()
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        self._held = (module,)
        self.name = name
        self.input_size = int(input_size)
        self.dim = _probe(module, name, input_size)
        weights = weights_hash or hash_state(module)
        self.fingerprint = hashlib.sha256(f"{weights} {input_size}".encode()).hexdigest()

    @property
    def module(self) -> nn.Module:
        """The wrapped module."""
        return self._held[0]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        tensors = [*self.module.parameters(), *self.module.buffers()]
        return tensors[0].device if tensors else torch.device("cpu")

    def forward(self, pixels: Tensor) -> Tensor:
        """B×3×R×R, normalised, to B×d."""
        descriptors: Tensor = self.module(pixels)
        return descriptors

    def train(self, mode: bool = True) -> Self:
        """An extractor stays in evaluation mode, whatever its owner's mode is."""
        return super().train(False)

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> Self:
        self.module._apply(fn)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def extra_repr(self) -> str:
        """Name and sizes, for ``print``."""
        return f"{self.name!r}, input_size={self.input_size}, dim={self.dim}, {self.fingerprint[:12]}"


def hash_state(module: nn.Module) -> str:
    """SHA-256, hex, over the names, types, shapes and bytes of a state dict and the module's class."""
    digest = hashlib.sha256(type(module).__qualname__.encode())
    for key, value in module.state_dict().items():
        digest.update(f"{key} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@torch.no_grad()
def _probe(module: nn.Module, name: str, input_size: int) -> int:
    weight = next(module.parameters(), torch.empty(0))
    side = torch.linspace(-1, 1, input_size, dtype=weight.dtype, device=weight.device)
    pixels = (side[:, None] * side).expand(1, 3, -1, -1).contiguous()
    # a copy: a module may change what it is given
    output = _output(module, name, pixels.clone(), "one picture", "give the resize_size it was made for")
    if not output.isfinite().all():
        raise ExtractorError(f"extractor {name!r} returns NaN or infinite values: its weights are damaged")
    free = "export it with a batch size that is free (no view or reshape to a fixed number of pictures)"
    both = _output(module, name, torch.cat([pixels, pixels]), "two pictures at once", free)
    if both.shape[1] != output.shape[1]:
        raise ExtractorError(
            f"extractor {name!r} returned {both.shape[1]} numbers for each of two pictures and {output.shape[1]} for "
            f"one: expected as many; {free}"
        )
    return output.shape[1]


def _output(module: nn.Module, name: str, pixels: Tensor, words: str, remedy: str) -> Tensor:
    try:
        output: Tensor = module(pixels)
    # a foreign module can fail in any way
    except Exception as error:
        size = f"{pixels.shape[-1]}×{pixels.shape[-1]} pixels"
        raise ExtractorError(
            f"extractor {name!r} fails on {words} of {size} ({remedy}): {one_line(error)[-300:]}"
        ) from error
    shape = tuple(output.shape) if isinstance(output, Tensor) else ()
    if len(shape) != 2 or shape[0] != len(pixels) or not output.is_floating_point():
        got = f"shape {shape}" if shape else type(output).__name__
        raise ExtractorError(
            f"extractor {name!r} returned {got} for {words}: expected floats {len(pixels)}×d; {remedy}"
        )
    return output


def check_gradient(extractor: Callable[[Tensor], Tensor], name: str, input_size: int) -> None:
    """See that an extractor's descriptors, B×3×R×R → B×d, can be differentiated, as activation does.

    Raises:
        ExtractorError: they cannot.
    """
    device = getattr(extractor, "device", "cpu")
    pixels = torch.linspace(-1, 1, 3 * input_size**2, device=device).view(1, 3, input_size, input_size)
    pixels.requires_grad_(True)
    try:
        with torch.enable_grad():
            extractor(pixels * 1.0)[:, 0].sum().backward()  # type: ignore[no-untyped-call]
    # a foreign module can fail in any way
    except Exception as error:
        raise ExtractorError(
            f"extractor {name!r} cannot be differentiated, so no picture can be activated for it (does it change in "
            f"place what it has computed, or leave torch?): {one_line(error)[:200]}"
        ) from error
    if pixels.grad is None:
        raise ExtractorError(
            f"extractor {name!r} gives its pixels no gradient, so no picture can be activated for it: expected one "
            "without detach and no_grad"
        )
