"""Settings of the loop that go together, by name: the model's part of the configurations that ship."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml  # type: ignore[import-untyped]
from jsonargparse import ArgumentParser

from aindex.activation.module import ActivationModule
from aindex.activation.optimizer import OptimizerFactory, SchedulerFactory
from aindex.activation.settings import ActivationSettings
from aindex.errors import ConfigError
from aindex.index.quantiser import Target
from aindex.shipped import resolve_config

Effort = Literal["paper", "fast", "robust"]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """All that the loop needs to know beside the images and the index; `model` is what its configuration holds."""

    settings: ActivationSettings
    target: Target
    optimizer: OptimizerFactory
    scheduler: SchedulerFactory | None
    model: dict[str, Any]


def preset(
    effort: Effort = "robust",
    *,
    target: Target | None = None,
    **changes: Any,
) -> Preset:
    """The settings that go by a name, some of them replaced; None keeps the preset's own.

    Args:
        effort: `paper` are the published settings, the others those of configs/robust.yaml and configs/fast.yaml.
        target: where the descriptor is drawn.
        **changes: of `ActivationSettings`.

    Raises:
        ConfigError: the settings are not possible, or go with another loss.
    """
    model: dict[str, Any] = {}
    if effort != "paper":
        model = yaml.safe_load(Path(resolve_config(f"configs/{effort}.yaml")).read_text())["model"]
    parser = ArgumentParser()
    parser.add_class_arguments(ActivationModule, "model")
    module: ActivationModule = parser.instantiate(parser.parse_object({"model": model})).model
    if target is not None and module.settings.loss_f == "assignment":
        raise ConfigError(
            f"target {target!r} with effort {effort}, which draws copies to their cells, not to a target: leave it "
            "out, or take effort paper"
        )
    given = {name: value for name, value in changes.items() if value is not None}
    return Preset(
        settings=replace(module.settings, **given),
        target=target or module.target,
        optimizer=module.make_optimizer,
        scheduler=module.make_scheduler,
        model=model,
    )
