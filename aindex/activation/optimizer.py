"""One optimiser for a batch whose images must not feel each other."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from aindex.activation.kernels import AdamStep
from aindex.errors import ConfigError

_ELEMENTWISE = (
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.Adamax,
    torch.optim.Adagrad,
    torch.optim.Adadelta,
    torch.optim.RMSprop,
    torch.optim.Rprop,
    torch.optim.ASGD,
    torch.optim.SGD,
)
"""Each element's step depends on that element alone, so one optimiser may hold all images."""

_FORMS = ("fused", "foreach", "capturable", "differentiable")

OptimizerFactory = Callable[[list[Tensor]], Optimizer]


class PerImageOptimizer(Optimizer):
    """One optimiser per image behind the face of one; for those that take norms or estimates over all.

    Its param_groups are the members' own, so a scheduler acts on every member.
    """

    def __init__(self, members: Sequence[Optimizer]) -> None:
        self.members = list(members)
        super().__init__([p for m in self.members for g in m.param_groups for p in g["params"]], {})
        self.param_groups = [group for member in self.members for group in member.param_groups]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step every member; the closure is called once, before."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for member in self.members:
            member.step()
        return loss


class SweepingAdam(Adam):
    """Adam whose step is part of the pass that computes the gradient, which is never written out.

    Args:
        delta: all of δ.
        options: of Adam: lr, betas, eps; read anew at each step, so that a scheduler acts on it.
        advance: makes the pass.
    """

    def __init__(self, delta: Tensor, options: dict[str, Any], advance: Callable[[AdamStep], None]) -> None:
        super().__init__([delta], **{key: options[key] for key in ("lr", "betas", "eps")})
        self._advance = advance
        self._count = 0

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every element; the closure is called once, before."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._count += 1
        group = self.param_groups[0]
        beta1, beta2 = map(float, group["betas"])
        self._advance(
            AdamStep(
                mean_share=np.float32(1 - beta1),
                square_share=np.float32(1 - beta2),
                size=np.float32(float(group["lr"]) / (1 - beta1**self._count)),
                root=np.float32((1 - beta2**self._count) ** -0.5),
                eps=np.float32(group["eps"]),
            )
        )
        return loss


def is_plain_adam(optimizer: Optimizer) -> bool:
    """Whether it is Adam with lr, betas and eps alone, its form left to us."""
    if type(optimizer) is not Adam or len(optimizer.param_groups) > 1:
        return False
    options = optimizer.param_groups[0]
    ours = ("params", "lr", "betas", "eps")
    return all(
        options[key] == parameter.default
        for key, parameter in inspect.signature(Adam).parameters.items()
        if key in options and key not in ours
    )


def make_optimizer(
    factory: OptimizerFactory, parameters: list[Tensor], flat: Tensor | None = None
) -> Optimizer:
    """The optimiser that `factory` names, such that no image's step depends on another image.

    Elementwise optimisers of torch hold all images and are fused where torch can; any other (norm-based ones
    like LAMB, timm's with their clipping of the global norm) becomes one optimiser per image.

    Args:
        factory: parameters → optimiser, for example ``lambda p: Adam(p, lr=1.0)``.
        parameters: δ per image.
        flat: the same memory as one tensor, if there is such, for optimisers with a fused step: it costs less
            than many, and gives the same numbers where images start at whole lines of the cache.

    Raises:
        ConfigError: the optimiser evaluates the loss several times a step (LBFGS).
    """
    optimizer = factory(parameters)
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ConfigError("optimizer LBFGS: expected one that steps once per gradient; take Adam or SGD")
    if type(optimizer) not in _ELEMENTWISE:
        return PerImageOptimizer([factory([parameter]) for parameter in parameters])
    return _fused(optimizer, parameters if flat is None else [flat])


def _fused(optimizer: Optimizer, parameters: list[Tensor]) -> Optimizer:
    """The same optimiser with its one-kernel step, unless its maker chose a form or it has none."""
    defaults = inspect.signature(type(optimizer)).parameters
    options = optimizer.param_groups[0]
    chose_form = any(k in options and options[k] != defaults[k].default for k in _FORMS if k in defaults)
    if "fused" not in options or len(optimizer.param_groups) > 1 or chose_form:
        return optimizer
    chosen = {
        key: value for key, value in options.items() if key in defaults and key not in ("params", "fused")
    }
    return type(optimizer)(parameters, **chosen, fused=True)  # type: ignore[call-arg]
