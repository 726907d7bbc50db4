"""The run's folder: claimed by one configuration, continued by the same one, never overwritten unasked."""

import json
import re
import secrets
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml  # type: ignore[import-untyped]
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from aindex import distributed
from aindex.callbacks.run_lock import LOCK_FILE, RunLock
from aindex.callbacks.trainer_options import refuse_trainer
from aindex.data.atomic import remove_leftovers, remove_leftovers_of, remove_tree, replace_when_done
from aindex.data.parts import PartFiles
from aindex.data.tables import name_table
from aindex.errors import ConfigError, OutputError
from aindex.evaluation.run_files import (
    ASSETS_FOLDER,
    CONFIG_FILE,
    REPORT_FILE,
    TABLES,
    passive_file,
    provenance_text,
)
from aindex.nested import flat
from aindex.terminal import note

SUMMARY_FILE = "summary.json"
IMAGES_FOLDER = "imgs"
SKIPPED_FILE = "skipped.csv"
INDEX_FOLDER = "index"
LANCE_FOLDER = "index.lance"
ORIGINALS_FOLDER = "originals"
PROGRESS_FOLDER = "progress"
TENSORBOARD_FOLDER = "tensorboard"
_OWN = (
    CONFIG_FILE,
    SUMMARY_FILE,
    *TABLES,
    *map(passive_file, TABLES),
    SKIPPED_FILE,
    REPORT_FILE,
    ASSETS_FOLDER,
    IMAGES_FOLDER,
    INDEX_FOLDER,
    LANCE_FOLDER,
    ORIGINALS_FOLDER,
    PROGRESS_FOLDER,
    TENSORBOARD_FOLDER,
)
_HEADER = "# Configuration of an aindex run; the same command continues it.\n"

# What may differ when a run is continued: where and how fast it works, never what comes out.
_TRAINER_KEYS_THAT_DECIDE = ("precision", "limit_val_batches")
_FREE = (
    "output_dir",
    "overwrite",
    "config",
    "data.num_workers",
    "index.idx_dir",
    "report.html",
    "report.examples",
)


def decisive(configuration: dict[str, Any]) -> dict[str, Any]:
    """The options that decide a run's results, flat, dotted names."""
    return {
        key: value
        for key, value in flat(configuration)
        if key not in _FREE
        and (not key.startswith("trainer.") or key.split(".")[1] in _TRAINER_KEYS_THAT_DECIDE)
    }


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """``key: old → new`` for every option in which two configurations would give other results."""
    before, after = decisive(old), decisive(new)
    return [
        f"{key}: {before.get(key)} → {after.get(key)}"
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
    ]


def claim(
    folder: Path,
    configuration: dict[str, Any],
    *,
    overwrite: bool,
    command: str = "",
    ignored: Collection[str] = (),
) -> Literal["new", "continued"]:
    """Make the folder this run's, or find that an interrupted run of the same configuration can go on in it.

    A new run's configuration begins with the command and the time. Without a configuration nothing is continued.

    Raises:
        OutputError: it holds a finished run, or files of something else, or cannot be written.
        ConfigError: it holds an interrupted run of another configuration.
    """
    way_out = "choose another --output_dir, or pass --overwrite true to replace it"
    try:
        stored = folder / CONFIG_FILE
        is_run = _holds_run(folder, ignored)
        if is_run and overwrite:
            _remove_results(folder)
            is_run = False
        if not is_run:
            with replace_when_done(stored) as temporary:
                text = yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True)
                started = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
                head = _HEADER + provenance_text(command, started)
                temporary.write_text(head + text, encoding="utf-8", errors="backslashreplace")
            return "new"
        if not configuration:
            raise OutputError(
                f"default_root_dir {str(folder)!r} holds a run: give the trainer another one, or a callback "
                "RunFolder(overwrite=True), before BuildIndex"
            )
        if (folder / SUMMARY_FILE).exists():
            raise OutputError(f"output_dir {str(folder)!r} holds a finished run: {way_out}")
        changed = differences(yaml.safe_load(stored.read_text(encoding="utf-8")), configuration)
        if changed and not any(path.stat().st_size for path in (folder / PROGRESS_FOLDER).glob("*")):
            # a first try that came to nothing is no loss
            return claim(folder, configuration, overwrite=True, command=command, ignored=ignored)
    except (OSError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its config.yaml is damaged"
        raise OutputError(f"output_dir {str(folder)!r} cannot be used: {reason}; {way_out}") from error
    if changed:
        raise ConfigError(
            f"output_dir {str(folder)!r} holds an interrupted run of another configuration ({'; '.join(changed)}): "
            f"give its options again to continue it, or {way_out}"
        )
    return "continued"


def _holds_run(folder: Path, ignored: Collection[str] = ()) -> bool:
    """Whether a run's files are there, beside those of some names; others are an error."""
    names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    # a run that was killed in its first moment leaves a hidden file
    present = [
        name
        for name in names
        if name != LOCK_FILE and name not in ignored and not re.match(r"\..*\.partial", name)
    ]
    stored = folder / CONFIG_FILE
    is_run = stored.is_file() and stored.read_text(encoding="utf-8").startswith(_HEADER)
    if present and not is_run:
        raise OutputError(
            f"output_dir {str(folder)!r} holds files of something else ({present[0]!r}): expected an empty "
            "or new folder; choose another --output_dir (default_root_dir of a trainer)"
        )
    return is_run


def _remove_results(folder: Path) -> None:
    """Remove what a run writes, and nothing else; first the mark of a finished run, last that of a run."""
    for name in (SUMMARY_FILE, *reversed(_OWN)):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            path.unlink(missing_ok=True)


class RunFolder(Callback):
    """Claims the trainer's ``default_root_dir`` before anything is written there.

    Args:
        configuration: the resolved options, of things YAML can hold; without them an interrupted run is not continued.
        overwrite: replace a run that is there.
        command: as it was given, noted in the configuration.
        tensorboard: log there, below the folder. A logger that the trainer has from the start makes its files
            before anybody could look whether the folder is free.
    """

    def __init__(
        self,
        configuration: dict[str, Any] | None = None,
        *,
        overwrite: bool = False,
        command: str = "",
        tensorboard: bool = False,
    ) -> None:
        self.configuration = configuration or {}
        self.overwrite = overwrite
        self.command = command
        self.tensorboard = tensorboard
        self._lock: RunLock | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what would leave images out; claim the folder on rank 0."""
        refuse_trainer(trainer)
        folder = Path(trainer.default_root_dir)
        state, token = distributed.on_rank_zero(lambda: self._take(folder, _of_loggers(trainer, folder)))
        lock = self._lock = self._lock or RunLock(folder)
        distributed.everywhere(lambda: lock.join(token) if distributed.rank() > 0 else None)
        if self.tensorboard:
            trainer.loggers = [TensorBoardLogger(folder, name="", version=TENSORBOARD_FOLDER)]
        if state == "continued" and trainer.is_global_zero:
            note(f"continuing the interrupted run in {folder}")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of the folder, of which Lightning tears nothing down then."""
        self.teardown(trainer, pl_module, "")

    def _take(self, folder: Path, ignored: Collection[str]) -> tuple[Literal["new", "continued"], str]:
        """Claim the folder while no other process works in it, and remove what a killed one left half written."""
        token = secrets.token_hex(8)
        try:
            _holds_run(folder, ignored)
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"output_dir {str(folder)!r} cannot be used: {error.strerror}; choose another --output_dir"
            ) from error
        self._lock = RunLock(folder)
        self._lock.take_alone(token)
        state = claim(
            folder, self.configuration, overwrite=self.overwrite, command=self.command, ignored=ignored
        )
        remove_leftovers_of([folder / name for name in _OWN])
        for name in _OWN:
            remove_leftovers(folder / name)
        self._lock.share()
        return state, token


def _of_loggers(trainer: Trainer, folder: Path) -> set[str]:
    """What loggers have made in the folder: Lightning lets them, before anybody can look whether it is free."""
    places = [getattr(logger, name, None) for logger in trainer.loggers for name in ("root_dir", "log_dir")]
    inside = [Path(place).absolute() for place in places if place]
    root = folder.absolute()
    return {place.relative_to(root).parts[0] for place in inside if root in place.parents}


def released_figures(folder: Path) -> pd.DataFrame | None:
    """One row per image that the run has released, as `WriteImages` noted it; None where it has released none."""
    parts = PartFiles(folder / PROGRESS_FOLDER, "images")
    images = [image for record in parts.records() for image in record["images"]]
    return name_table(images) if parts.files() else None


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write the run's figures; their presence marks the run as finished."""
    with replace_when_done(folder / SUMMARY_FILE) as temporary:
        temporary.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
