"""The end of a run: one table for people, the same in TensorBoard, the figures in ``summary.json``."""

import math
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.trainer.states import TrainerFn

from aindex.callbacks.images import WriteImages
from aindex.callbacks.index import BuildIndex
from aindex.callbacks.retrieval import EvaluateRetrieval
from aindex.callbacks.run_folder import IMAGES_FOLDER, TENSORBOARD_FOLDER, write_summary
from aindex.evaluation.retrieval import MEASURES, format_table
from aindex.evaluation.run_folder import IMAGES_FILE, RETRIEVAL_FILE

T = TypeVar("T")


class Report(Callback):
    """Prints the table of the run and says where its results are; must come after the other callbacks."""

    def __init__(self) -> None:
        self._text = ""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The end of `fit`."""
        self._report(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The end of `evaluate`."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._report(trainer)

    def _report(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero:
            return
        retrieval = _callback(trainer, EvaluateRetrieval)
        tables = retrieval.tables if retrieval else {}
        writer = _callback(trainer, WriteImages)
        images = writer.figures() if writer else None
        figures = image_figures(images) if images is not None else {}
        index = _callback(trainer, BuildIndex)
        skipped = index.skipped.count if index else 0
        _log(trainer, tables, figures)
        folder = Path(trainer.default_root_dir)
        if retrieval is not None:
            retrieval.forget_progress()
        write_summary(folder, {**figures, "skipped": skipped, "retrieval": _nested(tables)})
        has_images = images is not None and (folder / IMAGES_FOLDER).exists()
        lines = [
            compose(tables, figures),
            index.skipped.summary() if index else "",
            _what_next(folder, has_images=has_images),
        ]
        self._text = "\n".join(line for line in lines if line)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print, once the progress bars are gone."""
        if self._text:
            print("\n" + self._text)
        self._text = ""


def image_figures(images: pd.DataFrame) -> dict[str, float]:
    """Means over released images: PSNR (dB; of those that changed), L∞ (grey levels), seconds."""
    changed = images.loc[images["psnr_db"] < math.inf, "psnr_db"]
    figures = {
        "images": len(images),
        "linf_grey_levels": float(images["linf_grey_levels"].mean()),
        "seconds_per_image": float(images["seconds"].mean()),
    }
    if len(changed):
        figures["psnr_db"] = float(changed.mean())
    return figures


def compose(tables: dict[Any, pd.DataFrame], figures: dict[str, float]) -> str:
    """The run's table as text: one set of images, or passive and active beside each other."""
    if not tables:
        return " · ".join(f"{name} {value:.4g}" for name, value in figures.items())
    table = tables.get("active", next(iter(tables.values())))
    text = format_table(
        table,
        psnr_db=figures.get("psnr_db"),
        linf=figures.get("linf_grey_levels"),
        seconds_per_image=figures.get("seconds_per_image"),
    )
    if len(tables) == 1:
        return text
    _, *notes = text.split("\n\n")
    return "\n\n".join([compare(tables["passive"], tables["active"]), *notes])


def compare(passive: pd.DataFrame, active: pd.DataFrame) -> str:
    """Two tables of `retrieval_table` over the same attacks as one text: passive → active per measure."""
    header = [
        "attack",
        "images",
        *(f"{name.upper()} passive → active" for name in ("r@1", "r@10", "r@100", "ap")),
    ]
    rows = [
        [
            str(row["attack"]),
            str(row["images"]),
            *(f"{before[name]:.3f} → {row[name]:.3f}" for name in MEASURES),
        ]
        for before, row in zip(passive.to_dict("records"), active.to_dict("records"), strict=True)
    ]
    widths = [max(len(line[column]) for line in (header, *rows)) for column in range(len(header))]

    def text(cells: list[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)])

    rule = "  ".join("-" * width for width in widths)
    averages = next((number for number, row in enumerate(rows) if row[0].startswith("average")), len(rows))
    body = [text(row) for row in rows]
    return "\n".join([text(header), rule, *body[:averages], rule, *body[averages:]])


def _log(trainer: Trainer, tables: dict[Any, pd.DataFrame], figures: dict[str, float]) -> None:
    for kind, table in tables.items():
        metrics = {
            f"retrieval_{kind}/{name}/{row['attack']}": float(row[name])
            for row in table.to_dict("records")
            for name in MEASURES
        }
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)
            if isinstance(logger, TensorBoardLogger):
                text = format_table(table, style="markdown")
                logger.experiment.add_text(f"retrieval/{kind}", text, trainer.global_step)
    for logger in trainer.loggers:
        logger.log_metrics(
            {f"images/{name}": value for name, value in figures.items()}, step=trainer.global_step
        )


def _nested(tables: dict[Any, pd.DataFrame]) -> dict[str, Any]:
    return {
        kind: {
            str(row["attack"]): {name: float(row[name]) for name in MEASURES}
            for row in table.to_dict("records")
        }
        for kind, table in tables.items()
    }


def _what_next(folder: Path, *, has_images: bool) -> str:
    places = {
        "released images": folder / IMAGES_FOLDER if has_images else None,
        "their measures": folder / IMAGES_FILE if has_images else None,
        "rows": folder / RETRIEVAL_FILE if (folder / RETRIEVAL_FILE).exists() else None,
    }
    listed = ", ".join(f"{what} {path}" for what, path in places.items() if path is not None)
    tensorboard = folder / TENSORBOARD_FOLDER
    look = f"; look at it: tensorboard --logdir {tensorboard}" if tensorboard.exists() else ""
    return f"results in {folder}: {listed}{look}"


def _callback(trainer: Trainer, kind: type[T]) -> T | None:
    return next((one for one in trainer.callbacks if isinstance(one, kind)), None)  # type: ignore[attr-defined]
