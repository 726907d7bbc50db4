"""`aindex train`: train a small extractor on a folder of pictures."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger

from aindex.cli import COMMANDS
from aindex.commands.config_files import resolve_config_arguments
from aindex.commands.parsing import CONFIG_HELP, OneLineErrors, quieten_lightning
from aindex.commands.pipeline_help import EXAMPLES
from aindex.descriptors.training import ExportExtractor, ExtractorTraining
from aindex.descriptors.training_data import TrainingPictures
from aindex.errors import DataError, OutputError

TITLES = {
    "data": "the pictures",
    "model": "the network and how it is trained",
    "": "the run",
    "trainer": "Lightning's trainer: epochs, devices, precision, logging",
}


class TrainingParser(OneLineErrors, LightningArgumentParser):
    """Lightning's parser with errors of one line."""


class TrainingCLI(LightningCLI):
    """Options of the training command beside those of trainer, model and data."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Lightning's parser; a configuration that comes with aindex is found by its name."""
        parser = TrainingParser(**kwargs)
        parser.examples = EXAMPLES["train"]
        parser.add_argument("-c", "--config", action=ActionConfigFile, help=CONFIG_HELP)
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse without Lightning's warning about arguments that are given from within Python."""
        assert isinstance(parser, TrainingParser)
        parser.sort_groups(TITLES)
        parser.answer(list(args or ()))
        self.config = parser.parse_args(args)  # type: ignore[arg-type]

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Where the result goes, what it is called, and whether to go on from a checkpoint."""
        parser.add_argument(
            "--output_dir",
            type=Path,
            default=Path("runs/extractor"),
            help="Run folder (default: %(default)s).",
        )
        parser.add_argument(
            "--name",
            type=str,
            default="my_extractor",
            help="What the extractor is called (default: %(default)s).",
        )
        parser.add_argument(
            "--resume",
            type=bool,
            default=False,
            help="Go on from the run folder's last checkpoint (default: false).",
        )


def train_main(args: Sequence[str]) -> None:
    """Train, validate, keep the best checkpoint, export it to `<output_dir>/<name>.safetensors`."""
    quieten_lightning()
    cli = TrainingCLI(
        ExtractorTraining,
        TrainingPictures,
        run=False,
        args=resolve_config_arguments(list(args)),
        seed_everything_default=0,
        save_config_callback=None,
        auto_configure_optimizers=False,
        parser_kwargs={
            "prog": "aindex train",
            "allow_abbrev": False,
            "usage": "aindex train [--config FILE …] --data.data_dir PICTURES [options]",
            "description": COMMANDS["train"].summary,
        },
        trainer_defaults={
            "use_distributed_sampler": False,
            "num_sanity_val_steps": 0,
            "logger": False,
            "enable_checkpointing": False,  # it would add one to the checkpoints that are kept below
        },
    )
    output: Path = cli.config.output_dir
    last = output / "checkpoints" / "last.ckpt"
    if last.exists() and not cli.config.resume:
        raise OutputError(f"{output} holds a training run; give --resume true or another --output_dir")
    folder = output / "checkpoints"
    best = ModelCheckpoint(folder, filename="best", monitor="val/recall@1", mode="max")
    latest = ModelCheckpoint(
        folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    export = ExportExtractor(output / f"{cli.config.name}.safetensors", cli.config.name)
    trainer: Any = cli.trainer  # its callbacks are set by a helper that type checkers do not follow
    trainer.callbacks[:0] = [export, LearningRateMonitor()]
    trainer.callbacks += [best, latest]
    trainer.logger = TensorBoardLogger(output, name="", version="")
    output.mkdir(parents=True, exist_ok=True)
    (output / "config.yaml").write_text(cli.parser.dump(cli.config, skip_none=False))
    resume = str(last) if cli.config.resume and last.exists() else None
    try:
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=resume, weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"checkpoint {resume!r} holds more than numbers, which is never unpickled: expected one that aindex train "
            "wrote; train anew in another --output_dir"
        ) from error
