"""One optimiser for a batch whose images must not feel each other."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.scheduler.scheduler import Scheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

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
SchedulerFactory = Callable[[Optimizer], LRScheduler | Scheduler]


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
        with torch.enable_grad():
            loss = closure() if closure else None
        for member in self.members:
            member.step()
        return loss


def make_optimizer(factory: OptimizerFactory, deltas: list[Tensor]) -> Optimizer:
    """The optimiser that `factory` names, such that no image's step depends on another image.

    Elementwise optimisers of torch hold all images and are fused where torch can; any other (norm-based ones
    like LAMB, timm's with their clipping of the global norm) becomes one optimiser per image.

    Args:
        factory: parameters → optimiser, for example ``lambda p: Adam(p, lr=1.0)``.
        deltas: δ per image.

    Raises:
        ConfigError: an option is not possible, or the optimiser evaluates the loss several times a step (LBFGS).
    """
    try:
        optimizer = factory(deltas)
    except ValueError as error:
        raise ConfigError(f"model.optimizer: {error}; leave it out for Adam with lr 1.0") from error
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ConfigError("optimizer LBFGS: expected one that steps once per gradient; take Adam or SGD")
    if type(optimizer) not in _ELEMENTWISE:
        return PerImageOptimizer([factory([delta]) for delta in deltas])
    return _fused(optimizer, deltas)


def make_scheduler(factory: SchedulerFactory | None, optimizer: Optimizer) -> Callable[[int], None]:
    """What to call after each iteration, with its number from 0.

    Raises:
        ConfigError: the schedule watches the loss, which would tie the images of a batch to each other.
    """
    scheduler = factory(optimizer) if factory else None
    if isinstance(scheduler, ReduceLROnPlateau):
        raise ConfigError("model.scheduler ReduceLROnPlateau: expected a schedule that watches no loss")

    def advance(iteration: int) -> None:
        if isinstance(scheduler, LRScheduler):
            scheduler.step()
        elif scheduler is not None:
            # timm: whether a schedule counts epochs or updates is its own setting; the other call does nothing
            scheduler.step(iteration + 1)
            scheduler.step_update(iteration + 1)

    return advance


def _fused(optimizer: Optimizer, deltas: list[Tensor]) -> Optimizer:
    """The same optimiser with its one-kernel step, unless its maker chose a form or it has none."""
    defaults = inspect.signature(type(optimizer)).parameters
    options = optimizer.param_groups[0]
    chose_form = any(k in options and options[k] != defaults[k].default for k in _FORMS if k in defaults)
    if "fused" not in options or len(optimizer.param_groups) > 1 or chose_form:
        return optimizer
    chosen = {
        key: value for key, value in options.items() if key in defaults and key not in ("params", "fused")
    }
    return type(optimizer)(deltas, **chosen, fused=True)  # type: ignore[call-arg]
