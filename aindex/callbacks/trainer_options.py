"""Options of Lightning's trainer that this loop cannot honour: refused before anything is done."""

from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.trainer.states import TrainerFn

from aindex.errors import ConfigError

_ONE_PASS = "every image is treated once, in one pass, by an optimiser of its own"
_FEWER = "to treat fewer images list them in a text file and give it as data.data_dir"
_NO_LOOP = "there is no such loop"

# Values as text, because limit_train_batches 1 means one batch and 1.0 all of them. The first two set others.
_HONOURED: dict[str, tuple[tuple[str, ...], str]] = {
    "fast_dev_run": (("False", "0"), _FEWER),
    "overfit_batches": (("0.0", "0"), _FEWER),
    "max_epochs": (("1",), _ONE_PASS),
    "min_epochs": (("None", "0", "1"), _ONE_PASS),
    "max_steps": (("-1",), _FEWER),
    "min_steps": (("None",), _ONE_PASS),
    "max_time": (("None",), "interrupt the run, the same command goes on"),
    "limit_train_batches": (("None", "1.0"), _FEWER),
    "limit_val_batches": (("None", "1.0", "0", "0.0"), f"0 evaluates nothing; {_FEWER}"),
    "limit_test_batches": (("None", "1.0"), _NO_LOOP),
    "limit_predict_batches": (("None", "1.0"), _NO_LOOP),
    "val_check_interval": (("None", "1.0"), "what is released is evaluated at the end"),
    "check_val_every_n_epoch": (("1",), "what is released is evaluated at the end"),
    "num_sanity_val_steps": (("0", "None"), "nothing is released yet that could be evaluated"),
    "accumulate_grad_batches": (("1",), _ONE_PASS),
    "gradient_clip_val": (("None",), _ONE_PASS),
    "gradient_clip_algorithm": (("None",), _ONE_PASS),
    "enable_checkpointing": (("False", "None"), "no network is trained; the run goes on from its released images"),
    "use_distributed_sampler": (("False",), "the processes deal the images among themselves"),
    "reload_dataloaders_every_n_epochs": (("0",), _ONE_PASS),
    "sync_batchnorm": (("False",), "no network is trained"),
    "barebones": (("False",), "it would leave out what makes the index and the tables"),
    "inference_mode": (("True",), "it is for loops that this command has not"),
    "model_registry": (("None",), "no network is trained"),
}  # fmt: skip


def refuse_counts(given: Mapping[str, Any]) -> None:
    """Raise where a whole number of batches is asked for, which the parser takes for a share: 1 for 1.0, all of them.

    `given` are values as they were written, by dotted names.
    """
    for name, value in given.items():
        group, _, option = name.partition(".")
        if group == "trainer" and option.startswith("limit_") and str(value).strip() == "1":
            raise ConfigError(f"trainer.{option} 1: expected 1.0; {_FEWER}; leave it out")


def refuse_options(trainer: Mapping[str, Any]) -> None:
    """Raise for the first option that would be ignored, or would make results about other images than were named.

    Raises:
        ConfigError: which, what is possible, and why.
    """
    for name, (honoured, why) in _HONOURED.items():
        value = trainer.get(name, honoured[0])
        if str(value) not in honoured:
            expected = next((text for text in honoured if text != "None"), "null")
            raise ConfigError(f"trainer.{name} {value}: expected {expected}; {why}; give {expected}")
    if isinstance(trainer.get("log_every_n_steps"), int) and trainer["log_every_n_steps"] < 0:
        raise ConfigError(f"trainer.log_every_n_steps {trainer['log_every_n_steps']}: expected 0 or more")


def refuse_trainer(trainer: Trainer) -> None:
    """The same for a trainer that would see some of the images only, or see them again."""
    names = ["fast_dev_run", "overfit_batches", "limit_val_batches"]
    if trainer.state.fn == TrainerFn.FITTING:
        names += ["max_epochs", "limit_train_batches", "max_steps"]
    refuse_options({name: getattr(trainer, name) for name in names})
