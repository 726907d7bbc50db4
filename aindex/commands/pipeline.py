"""`aindex fit` and `aindex evaluate`: the Lightning pipeline and its options."""

import os
import shlex
import sys
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import timm.optim
import timm.scheduler
import torch
import yaml  # type: ignore[import-untyped]
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar as Bar
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]
from timm.scheduler.scheduler import Scheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from aindex.activation.datamodule import ImageData
from aindex.activation.module import PRECISIONS, ActivationModule
from aindex.callbacks.build_index import BuildIndex
from aindex.callbacks.curves import LogCurves, LogPictures
from aindex.callbacks.evaluate import Evaluate
from aindex.callbacks.index_building import settled
from aindex.callbacks.progress import ProgressBar
from aindex.callbacks.report import Report
from aindex.callbacks.run_folder import RunFolder
from aindex.callbacks.trainer_options import refuse_counts, refuse_options
from aindex.callbacks.write_images import WriteImages
from aindex.collection.equipment import choose_device
from aindex.commands.config_files import as_written
from aindex.commands.lightning_options import OptionsCLI, OptionsParser
from aindex.commands.pipeline_help import TITLES, short_help
from aindex.descriptors.inference import best_precision
from aindex.distributed import STRATEGY_NAME, IndependentDDP, UsualSignals, register_strategy
from aindex.errors import ConfigError
from aindex.terminal import bars_are_off

_TRAINER_DEFAULTS = {
    "max_epochs": 1,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "log_every_n_steps": 100,
}
_PRECISION_ALIASES = {"bf16": "bf16-mixed", "32": "32-true"}
_OPTION_HELP = {
    "trainer.precision": (
        "Arithmetic of the extractor: bf16-mixed or 32-true. Default: bf16-mixed where the hardware has bf16, which is "
        "faster at the same quality, else 32-true."
    ),
    "trainer.strategy": (
        f"With several devices: {STRATEGY_NAME}, each process treats its own images (chosen by itself)."
    ),
    "trainer.log_every_n_steps": (
        "Statistics of a batch's images are computed and logged where it holds such a gradient step (default: 100)."
    ),
}


class PipelineParser(OptionsParser):
    """A parser with a help of what matters beside that of everything."""

    full_help = "--help_all"

    def answer(self, args: Sequence[str]) -> None:
        """Print what is asked about the options: those that matter, or with `--help_all` every one."""
        super().answer(args)
        if "--help_all" in args:
            self.print_help()
            raise SystemExit(0)
        if "-h" in args or "--help" in args:
            texts = {
                name: str(action.help or "").replace("%%", "%") for name, action in self.actions().items()
            }
            # without the remarks on type and default
            helps = {name: text.partition(" (type:")[0] for name, text in texts.items()}
            print(short_help(self.prog, helps, self.examples), end="")
            raise SystemExit(0)


class SignalsEnd(Callback):
    """Lets signals end a run in a single process; `IndependentDDP` does so between ranks."""

    def __init__(self) -> None:
        self._signals = UsualSignals()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take back what Lightning has just set."""
        self._signals.take_back()

    on_validation_start = on_train_start


class PipelineCLI(OptionsCLI):
    """Options in Lightning's groups, and those of index, images and retrieval beside them."""

    titles = TITLES
    parser_type = PipelineParser

    def __init__(self, command: str, args: list[str]) -> None:
        self.command_line = shlex.join(["aindex", command, *args])
        self.module_class, self.given = chosen_module(args)
        register_strategy()
        super().__init__(
            command,
            self.given,
            self.module_class,
            ImageData,
            usage="[--config FILE …] [options]",
            trainer_defaults=dict(_TRAINER_DEFAULTS),
            load_from_checkpoint_support=False,
        )

    def init_parser(self, **kwargs: Any) -> OptionsParser:
        """A parser that knows the classes that options take."""
        parser = super().init_parser(**kwargs)
        parser.short_names = {
            "model.optimizer": _class_names(Optimizer, torch.optim, timm.optim),
            "model.scheduler": _class_names(
                (LRScheduler, Scheduler), torch.optim.lr_scheduler, timm.scheduler
            ),
        }
        parser.add_argument("--help_all", action="store_true", help="List every option.")
        return parser

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The seed: a number, so that a run can be repeated."""
        parser.add_argument(
            "--seed_everything",
            type=int,
            default=0,
            help="Seed of all random numbers, 0 or more (default: 0).",
        )
        parser.add_argument(
            "--output_dir",
            type=str,
            default=f"runs/{parser.prog.split()[-1]}",
            help="Folder of the run: configuration, tables, images, logs. An interrupted run in it is continued.",
        )
        parser.add_argument(
            "--overwrite",
            type=bool,
            default=False,
            help="Replace a run that is in output_dir (default: false).",
        )
        parser.add_argument(
            "--model_class",
            type=str | None,
            default=None,
            help="What --model my_module.MyActivation named, a subclass of ActivationModule; give that option.",
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The callbacks' groups, and what is given once for several of them."""
        parser.add_lightning_class_args(BuildIndex, "index")
        parser.add_lightning_class_args(WriteImages, "images")
        parser.add_lightning_class_args(Evaluate, "retrieval")
        parser.add_lightning_class_args(Report, "report")
        parser.link_arguments("output_dir", "trainer.default_root_dir")
        for group in ("model", "retrieval", "index"):
            parser.link_arguments("seed_everything", f"{group}.seed")
        assert isinstance(parser, OptionsParser)
        for name, action in parser.actions().items():
            action.help = _OPTION_HELP.get(name, action.help)

    def before_parsing(self) -> None:
        """Refuse a configuration of another class, before the parser finds options that this one has not."""
        stored, named = as_written(self.given).get("model_class"), self._named_class()
        if stored not in (None, named):
            raise ConfigError(
                f"model_class {stored!r} of a configuration: give --model {stored}, which loads it"
            )

    def _named_class(self) -> str | None:
        chosen = self.module_class
        return None if chosen is ActivationModule else f"{chosen.__module__}.{chosen.__qualname__}"

    def before_instantiate_classes(self) -> None:
        """Refuse what would have no effect, and settle what is left open, so that the stored configuration says it."""
        if self.config.seed_everything < 0:
            raise ConfigError(f"seed_everything {self.config.seed_everything}: expected 0 or more")
        self.config.model_class = self._named_class()
        trainer = self.config.trainer
        refuse_counts(as_written(self.given))
        refuse_options(trainer.as_dict())
        index = self.config.index
        names = ("path", "idx_factory", "quant", "nprobe", "fts_training_path", "fts_reference_path")
        for name, value in settled(*(index[name] for name in names)).items():
            index[name] = value
        if self.command == "fit" and self.config.retrieval.released_dir is not None:
            raise ConfigError(
                "retrieval.released_dir is for evaluate: fit evaluates what it releases; leave it out"
            )
        trainer.precision = _precision(trainer.precision, trainer.accelerator)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer with this pipeline's callbacks: the run's folder is claimed first, then the index is built."""
        settings = {**self.config_init.trainer.as_dict(), **kwargs}
        given = settings["callbacks"] or []
        given = given if isinstance(given, list) else [given]
        if bars_are_off(settings["enable_progress_bar"] is not False):
            settings["enable_progress_bar"] = False
        elif not any(isinstance(one, Bar) for one in given):
            given = [*given, ProgressBar()]
        configuration = yaml.safe_load(self.parser.dump(self.config, skip_link_targets=True, format="yaml"))
        tensorboard = settings["logger"] in (None, True)
        settings["logger"] = False if tensorboard else settings["logger"]
        first = RunFolder(
            configuration,
            overwrite=self.config_init.overwrite,
            command=self.command_line,
            tensorboard=tensorboard,
        )
        own = [self.config_init[key] for key in self.parser.callback_keys]
        settings["callbacks"] = [first, *own, LogCurves(), LogPictures(), SignalsEnd(), *given]
        try:
            trainer = Trainer(**settings)
            if isinstance(trainer.strategy, DDPStrategy) and not isinstance(trainer.strategy, IndependentDDP):
                trainer = Trainer(**{**settings, "strategy": STRATEGY_NAME})
        except (
            MisconfigurationException,
            ValueError,
            TypeError,
            RuntimeError,
            ImportError,
            KeyError,
        ) as error:
            raise ConfigError(f"trainer: {error}") from error
        return trainer


def _precision(given: Any, accelerator: Any) -> str:
    """Lightning's name of what is given, or of what suits the hardware."""
    name = _PRECISION_ALIASES.get(str(given), given)
    # Lightning would turn 16-mixed on a CPU into something else
    if name not in (None, *PRECISIONS):
        raise ConfigError(f"trainer.precision {name}: expected one of {', '.join(PRECISIONS)}")
    if name is not None:
        return str(name)
    best = best_precision(choose_device("auto" if accelerator in ("auto", "gpu", "cuda") else "cpu"))
    return next(name for name, precision in PRECISIONS.items() if precision == best)


def _class_names(base: type | tuple[type, ...], *modules: ModuleType) -> list[str]:
    """The classes of a kind that modules offer, by short name where that is enough."""
    found = {
        (module.__name__, name)
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, base)
        and not name.startswith("_")
        and value not in (Optimizer, LRScheduler, Scheduler)
        and value.__module__.split(".")[0] == module.__name__.split(".")[0]
    }
    times = Counter(name for _, name in found)
    return sorted(name if times[name] == 1 else f"{module}.{name}" for module, name in found)


def chosen_module(args: Sequence[str]) -> tuple[type[ActivationModule], list[str]]:
    """The class that `--model my_module.MyActivation` names, and the arguments without that.

    Modules are looked for in the working directory, too, as Python does for a script that lies there.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model", nargs="?", const="")
    found, others = parser.parse_known_args(args)
    return ActivationModule if found.model is None else _class_named(found.model), others


def _class_named(name: str) -> type[ActivationModule]:
    expected = "expected --model my_module.MyActivation, a subclass of aindex.ActivationModule"
    module, _, attribute = name.rpartition(".")
    if not module:
        raise ConfigError(f"model {name!r}: {expected}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"model {name!r}: {error}; {expected}") from error
    if not isinstance(found, type) or not issubclass(found, ActivationModule):
        raise ConfigError(f"model {name!r} is {found!r}: {expected}")
    return found


def fit(args: list[str]) -> None:
    """Activate, release, evaluate."""
    cli = PipelineCLI("fit", args)
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)


def evaluate(args: list[str]) -> None:
    """Evaluate images that exist."""
    cli = PipelineCLI("evaluate", args)
    cli.trainer.validate(cli.model, datamodule=cli.datamodule, verbose=False)
