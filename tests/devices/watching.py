"""A GPU that is none: what would happen there, operator by operator, without a driver."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.function import BackwardCFunction
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from aindex.descriptors import preprocess, resizing
from aindex.edits import differentiable

aten = torch.ops.aten

WAITING = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten._unique2.default,
    aten.unique_dim.default, aten.repeat_interleave.Tensor, aten._linalg_check_errors.default, aten.equal.default,
}  # fmt: skip
"""Operators whose result the CPU must have before it goes on."""

UNORDERED = {
    aten.grid_sampler_2d_backward, aten.reflection_pad2d_backward, aten.replication_pad2d_backward,
    aten.upsample_bilinear2d_backward, aten._upsample_bilinear2d_aa_backward, aten._adaptive_avg_pool2d_backward,
    aten.index_add, aten.index_add_, aten.index_copy, aten.scatter_add, aten.scatter_add_, aten.put_,
    aten.bincount, aten.embedding_dense_backward,
}  # fmt: skip
"""Operators that a GPU adds in any order (from the documentation of torch.use_deterministic_algorithms), which
matters unless the numbers are whole."""

HITS = 3
"""Elements that a made-up answer says are not zero."""


class Watch(TorchDispatchMode):
    """Notes where the CPU would wait for the GPU, and goes on with an answer that it makes up.

    Attributes:
        waits: what it would wait for, in order: an operator, or a transfer.
        sent: per transfer to the GPU, whether the CPU goes on at once (`non_blocking`).
        unordered: operators that add in any order.
        on_cpu: operators without any tensor on the GPU.
        launches: operators that compute something on the GPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.waits: list[str] = []
        self.sent: list[bool] = []
        self.unordered: list[str] = []
        self.on_cpu: list[str] = []
        self.launches = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is torch.ops.prim.device.default:
            return function(*args, **kwargs)
        before = _devices((args, kwargs))
        if function is aten.index.Tensor:
            args = (args[0], [self._index(args[0], index) for index in args[1]])
        result = self._made_up(function, args)
        result = function(*args, **kwargs) if result is None else result
        is_floating = not (args and isinstance(args[0], Tensor)) or args[0].is_floating_point()
        self._note(function, before, _devices(result), bool(kwargs.get("non_blocking")), is_floating)
        return result

    def _note(
        self, function: Any, before: set[str], after: set[str], at_once: bool, is_floating: bool
    ) -> None:
        if "cuda" not in before | after:
            self.on_cpu += [str(function)] * bool(before | after)
            return
        self.launches += not function.is_view
        if function in WAITING:
            self.waits.append(str(function))
        if function.overloadpacket in UNORDERED and is_floating:
            self.unordered.append(str(function))
        if function is aten._to_copy.default and before != after:
            if "cuda" in after:
                self.sent.append(at_once)
            if not at_once:
                self.waits.append(f"transfer {before} -> {after}")
        if function is aten.copy_.default and len(before) > 1:
            self.waits.append("copy_ between devices")

    def _index(self, rows: Tensor, index: Tensor | None) -> Tensor | None:
        """An index as the GPU wants it; a mask must be counted and CPU's numbers must be sent first."""
        if index is None or rows.device.type != "cuda":
            return index
        if index.dtype == torch.bool:
            assert index.ndim == rows.ndim == 1 or index.ndim == 1, "masks of one axis only"
            self.waits.append("mask as an index")
            return torch.zeros(HITS, dtype=torch.int64, device=rows.device)
        if index.device.type == "cpu":
            self.waits.append("index from the CPU")
        return index

    @staticmethod
    def _made_up(function: Any, args: tuple[Any, ...]) -> Any:
        if function is aten._local_scalar_dense.default:
            return {torch.bool: True}.get(args[0].dtype, 1.0 if args[0].is_floating_point() else 1)
        if function is aten.nonzero.default:
            return torch.zeros(HITS, args[0].ndim, dtype=torch.int64, device=args[0].device)
        return None


def _devices(values: Any) -> set[str]:
    """Kinds of devices of all tensors in it; a number on the CPU goes along with any kernel."""
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
    kinds = {tensor.device.type for tensor in tensors if tensor.ndim or tensor.device.type != "cpu"}
    return kinds or {tensor.device.type for tensor in tensors}


@contextmanager
def fake_gpu() -> Iterator[Watch]:
    """All tensors made inside are fake, those on `cuda` too; no driver is needed.

    A tensor on the wrong device raises, as it would there. What the code keeps for a device is forgotten before and
    after, since fake constants are of no use to anybody else.
    """
    caches = (
        preprocess._sent, resizing._axis_weights, resizing._backwards, differentiable._jpeg_constants,
    )  # fmt: skip
    for cache in caches:
        cache.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        # autocast asks for a driver before it lets itself be switched on
        patch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
        patch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: True)
        patch.setattr(torch.autograd, "backward", walk_back)
        patch.setattr(nn.Module, "_apply", _applied)
        patch.setattr(FakeTensor, "__deepcopy__", _copied, raising=False)
        patch.setattr(FakeTensor, "numpy", _as_array)
        with FakeTensorMode(allow_non_fake_inputs=True), Watch() as watch:
            yield watch
    for cache in caches:
        cache.cache_clear()


@torch.no_grad()
def walk_back(loss: Tensor, *_: object, **__: object) -> None:
    """`torch.autograd.backward`, node by node: its engine asks the driver for streams before it begins."""
    root = loss.grad_fn
    waiting, stack = {root: 0}, [root]
    while stack:
        for parent, _ in stack.pop().next_functions:
            if parent is not None and parent not in waiting:
                stack.append(parent)
            if parent is not None:
                waiting[parent] = waiting.get(parent, 0) + 1
    gradients: dict[Any, list[Tensor | None]] = {root: [torch.ones_like(loss)]}
    ready = [root]
    while ready:
        node = ready.pop()
        incoming = gradients.pop(node)
        if hasattr(node, "variable"):
            leaf = node.variable
            leaf.grad = incoming[0] if leaf.grad is None else leaf.grad + incoming[0]
            continue
        outgoing = (node.apply if isinstance(node, BackwardCFunction) else node)(*incoming)
        outgoing = outgoing if isinstance(outgoing, tuple) else (outgoing,)
        # a function of aindex's own has arguments, after its tensors, that have no gradient
        outgoing = outgoing[: len(node.next_functions)]
        for gradient, (parent, place) in zip(outgoing, node.next_functions, strict=True):
            if parent is None:
                continue
            form = parent._input_metadata
            sums = gradients.setdefault(parent, [None] * len(form))
            before = sums[place]
            if gradient is not None and tuple(gradient.shape) != tuple(form[place].shape):
                gradient = gradient.sum_to_size(form[place].shape)
            if gradient is not None:
                gradient = gradient.to(form[place].dtype)
            sums[place] = gradient if before is None or gradient is None else before + gradient
            waiting[parent] -= 1
            if not waiting[parent]:
                ready.append(parent)


def _applied(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """What `Module.to` does, without its exchange of memory, which fake tensors refuse."""
    for child in module.children() if recurse else ():
        child._apply(change)
    for name, value in module._parameters.items():
        if value is not None:
            module._parameters[name] = nn.Parameter(change(value.detach()), value.requires_grad)
    for name, buffer in module._buffers.items():
        module._buffers[name] = None if buffer is None else change(buffer)
    return module


def _copied(value: Tensor, memo: dict[int, Any]) -> Tensor:
    """What `deepcopy` does, without memory, of which a fake tensor has none."""
    copy = value.detach().clone()
    return nn.Parameter(copy, value.requires_grad) if isinstance(value, nn.Parameter) else copy


def _as_array(value: Tensor) -> Any:
    """Zeros, from the CPU only: an array of what lies on a GPU is an error there too."""
    if value.device.type != "cpu":
        raise TypeError(f"can't convert a tensor on {value.device} to an array: copy it to the CPU first")
    return np.zeros(tuple(value.shape), dtype=str(value.dtype).removeprefix("torch."))


def on_gpu(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A fake tensor of this shape."""
    return torch.zeros(shape, dtype=dtype, device="cuda")
