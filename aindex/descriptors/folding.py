"""Extractors with their batch norms folded into the convolutions before them."""

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# parts of a traced script that are no tensor operations: sizes passed from one call to the next
_SCALAR_OPERATIONS: dict[str, Callable[..., Any]] = {
    "aten::size": lambda tensor, *axis: tensor.size(*axis),
    "aten::Int": int,
    "aten::Float": float,
    "aten::ScalarImplicit": lambda value: value,
    "prim::NumToTensor": lambda value: value,
    "aten::floor_divide": operator.floordiv,
    "aten::floordiv": operator.floordiv,
}


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """A copy whose batch norms are part of the convolutions that feed them, the forward code unchanged.

    Tracing only finds the pairs; where a module cannot be traced its children are tried one by one, and a
    batch norm that follows no convolution stays.

    Args:
        module: in evaluation mode.
    """
    folded = copy.deepcopy(module)
    _fold_in_place(folded)
    return folded


def _fold_in_place(module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        return
    try:
        graph = fx.Tracer().trace(module)
    except Exception:  # foreign forward code: tracing can fail in any way
        for child in module.children():
            _fold_in_place(child)
        return
    modules = dict(module.named_modules())
    calls = [node.target for node in graph.nodes if node.op == "call_module"]
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(modules[node.target], nn.BatchNorm2d):
            continue
        source = node.args[0]
        if source.op != "call_module" or not isinstance(modules[source.target], nn.Conv2d):
            continue
        if len(source.users) == 1 and calls.count(source.target) == calls.count(node.target) == 1:
            _replace(module, source.target, fuse_conv_bn_eval(modules[source.target], modules[node.target]))
            _replace(module, node.target, nn.Identity())


def _replace(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)


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
    nodes = list(frozen.graph.nodes())
    values: dict[str, Any] = {}
    root, graph = nn.Module(), fx.Graph()
    _, *inputs = frozen.graph.inputs()
    if len(inputs) != 1:
        return None
    values[inputs[0].debugName()] = graph.placeholder("pixels")
    for node in nodes:
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
