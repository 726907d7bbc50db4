"""Extractors with their batch norms folded into the convolutions before them."""

import copy
import operator
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

_LOOKS = {"__bool__", "__float__", "__int__", "__index__", "__len__", "item", "tolist", "numpy"}
"""Calls by which forward code can let its way depend on values."""

# parts of a traced script that are no tensor operations: sizes passed from one call to the next
_SCALAR_OPERATIONS: dict[str, Callable[..., Any]] = {
    "aten::__getitem__": operator.getitem,
    "aten::size": lambda tensor, *axis: tensor.size(*axis),
    "aten::Int": int,
    "aten::Float": float,
    "aten::ScalarImplicit": lambda value: value,
    "prim::NumToTensor": lambda value: value,
    "aten::floor_divide": operator.floordiv,
    "aten::floordiv": operator.floordiv,
}


def fold_batch_norms(module: nn.Module, pixels: Tensor) -> nn.Module:
    """A copy whose batch norms are part of the convolutions that feed them, the forward code unchanged.

    The pairs are found by watching one pass, in this thread alone: tracing would replace methods of `torch.nn.Module`
    for the whole process, under the feet of all other threads.

    Args:
        module: in evaluation mode; one whose control flow depends on values is copied unchanged.
        pixels: an input, 1×3×R×R.
    """
    folded = copy.deepcopy(module)
    with torch.no_grad(), _Readers(folded) as readers:
        folded(pixels)
    for convolution, norm in readers.pairs():
        fused = fuse_conv_bn_eval(folded.get_submodule(convolution), folded.get_submodule(norm))  # type: ignore[type-var, arg-type]
        folded.set_submodule(convolution, fused)
        folded.set_submodule(norm, nn.Identity())
    return folded


class _Readers(TorchFunctionMode):
    """Notes which calls of torch read the outputs of convolutions.

    Args:
        module: whose convolutions and batch norms are looked for, by their weights.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._names: dict[int, str] = {}
        for name, part in module.named_modules():
            if type(part) is nn.Conv2d:
                self._names[id(part.weight)] = name
            elif type(part) is nn.BatchNorm2d and part.running_mean is not None:
                self._names[id(part.running_mean)] = name
        self._calls: Counter[str] = Counter()
        self._made: dict[int, tuple[str, Tensor]] = {}  # holds the tensors, so that no number is used twice
        self._read_by: dict[str, list[str | None]] = {}
        self._looks_at_values = False

    def pairs(self) -> list[tuple[str, str]]:
        """Names of convolutions and of the batch norms that alone read them; each called once."""
        if self._looks_at_values:
            return []
        found = [(made, readers[0]) for made, readers in self._read_by.items() if len(readers) == 1]
        return [(made, norm) for made, norm in found if norm and self._calls[made] == self._calls[norm] == 1]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        self._looks_at_values |= name in _LOOKS
        if not any(isinstance(value, Tensor) for value in tree_leaves(result)):  # a size or a type
            return result
        # both calls give the input first, then what tells the module
        part = self._names.get(id(args[1])) if name in ("conv2d", "batch_norm") and len(args) > 1 else None
        for value in tree_leaves((args, kwargs)):
            made, _ = self._made.get(id(value), (None, None))
            if made is not None:
                self._read_by.setdefault(made, []).append(part if name == "batch_norm" else None)
        if part is not None:
            self._calls[part] += 1
            if name == "conv2d":
                self._made[id(result)] = (part, result)
        return result


def unscripted(script: torch.jit.ScriptModule) -> nn.Module | None:
    """The operations of a TorchScript module as a graph of eager calls, its batch norms folded.

    TorchScript's executor optimises while it runs, so that its first calls round otherwise than later ones;
    eager calls always do the same.

    Args:
        script: in evaluation mode, on the device where it will run.

    Returns:
        None if the script branches, loops, or uses what has no eager counterpart.
    """
    frozen = torch.jit.freeze(script) if hasattr(script, "training") else script
    values: dict[str, Any] = {}
    root, graph = nn.Module(), fx.Graph()
    _, *inputs = frozen.graph.inputs()
    if len(inputs) != 1:
        return None
    values[inputs[0].debugName()] = graph.placeholder("pixels")
    for node in frozen.graph.nodes():
        if node.outputsSize() != 1 or list(node.blocks()):
            return None
        arguments = [values.get(value.debugName()) for value in node.inputs()]
        try:
            result = _translate(node, arguments, root, graph)
        except (AttributeError, RuntimeError, NotImplementedError):
            return None
        values[node.output().debugName()] = result
    graph.output(values[next(frozen.graph.outputs()).debugName()])
    return fx.GraphModule(root, graph)


def _translate(node: Any, arguments: list[Any], root: nn.Module, graph: fx.Graph) -> Any:
    """One node of a script's graph: its constant value, or the call that makes it."""
    kind = node.kind()
    if kind == "prim::Constant":
        value = node.output().toIValue()
        if not isinstance(value, Tensor):
            return value
        name = f"constant_{len(list(root.buffers()))}"
        root.register_buffer(name, value.detach())
        return graph.get_attr(name)
    if kind in ("prim::ListConstruct", "prim::TupleConstruct"):
        return arguments
    if kind in _SCALAR_OPERATIONS:
        return graph.call_function(_SCALAR_OPERATIONS[kind], tuple(arguments))
    if not kind.startswith("aten::"):
        raise NotImplementedError(kind)
    if kind == "aten::_convolution" and not arguments[6]:
        # the call that autocast knows; 6: transposed, 8: groups
        return graph.call_function(torch.conv2d, (*arguments[:6], arguments[8]))
    schema = torch._C.parse_schema(node.schema())
    operation = getattr(getattr(torch.ops.aten, kind[6:]), schema.overload_name or "default")
    positional = [v for v, a in zip(arguments, schema.arguments, strict=True) if not a.kwarg_only]
    named = {a.name: v for v, a in zip(arguments, schema.arguments, strict=True) if a.kwarg_only}
    return graph.call_function(operation, tuple(positional), named)
