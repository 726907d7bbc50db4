"""`aindex train`: train a small extractor on a folder of pictures."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.loggers import TensorBoardLogger

from aindex.commands.lightning_options import OptionsCLI
from aindex.descriptors.training import ExportExtractor, ExtractorTraining
from aindex.descriptors.training_data import TrainingPictures
from aindex.errors import DataError, OutputError


class TrainingCLI(OptionsCLI):
    """Options of the training command beside those of trainer, model and data."""

    titles: Mapping[str, str] = {
        "data": "the pictures",
        "model": "the network and how it is trained",
        "": "the run",
        "trainer": "Lightning's trainer: epochs, devices, precision, logging",
    }

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


def main(args: Sequence[str]) -> None:
    """Train, validate, keep the best checkpoint, export it to `<output_dir>/<name>.safetensors`."""
    cli = TrainingCLI(
        "train",
        list(args),
        ExtractorTraining,
        TrainingPictures,
        usage="[--config FILE …] --data.data_dir PICTURES [options]",
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
