"""The end of a run: a table for people, `report.html`, the same in TensorBoard, the figures in `summary.json`."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn

from aindex import distributed
from aindex.activation.module import ActivationModule
from aindex.activation.run import LEFT_OUT, Run
from aindex.callbacks.console import results_text
from aindex.callbacks.run_folder import (
    IMAGES_FOLDER,
    SKIPPED_FILE,
    TENSORBOARD_FOLDER,
    released_figures,
    write_summary,
)
from aindex.callbacks.save_examples import save_examples
from aindex.callbacks.tensorboard import log_configuration, log_results
from aindex.data.images import SkippedImages
from aindex.errors import ConfigError
from aindex.evaluation.html_report import run_series, write_report
from aindex.evaluation.measures import IMAGES_FILE, RETRIEVAL_FILE, measures_of
from aindex.evaluation.run_files import CONFIG_FILE, REPORT_FILE, read_run
from aindex.evaluation.summary import Series, summaries


class Report(Callback):
    """Shows the results of the run and says where they are.

    Args:
        html: write `report.html`, one file with tables, charts and pictures.
        examples: number of images that it shows with their edited copies; TensorBoard shows them too.
    """

    def __init__(self, html: bool = True, examples: int = 12) -> None:
        if examples < 0:
            raise ConfigError(f"report.examples {examples}: expected 0 or more")
        self.html = html
        self.examples = examples
        self._text = ""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the examples, while the released images are certainly there; the end of `evaluate`."""
        assert isinstance(pl_module, ActivationModule)
        settings = pl_module.settings if pl_module.active else None
        distributed.on_rank_zero(lambda: save_examples(pl_module.run, settings, self.examples))
        if trainer.state.fn == TrainerFn.VALIDATING:
            distributed.on_rank_zero(lambda: self._report(trainer, pl_module.run))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The end of `fit`, when all other callbacks are done."""
        assert isinstance(pl_module, ActivationModule)
        # no collective call any more: the ranks have taken leave of each other
        if trainer.is_global_zero:
            self._report(trainer, pl_module.run_of(trainer))

    def _report(self, trainer: Trainer, run: Run) -> None:
        folder = run.folder
        released = released_figures(folder)
        figures = image_figures(released) if released is not None else {}
        # read back from the files: what is shown is what they hold
        evaluated = trainer.enable_validation or trainer.state.fn == TrainerFn.VALIDATING
        series = run_series(read_run(folder)) if evaluated and run.copies else {}
        if (folder / CONFIG_FILE).is_file():
            log_configuration(trainer, (folder / CONFIG_FILE).read_text(encoding="utf-8"))
        if series:
            log_results(trainer, folder, series)
        if series and self.html:
            write_report(folder, examples=self.examples)
        left_out = [run.left_out[name] for name in LEFT_OUT if name in run.left_out]
        _write_skipped(folder, left_out)
        counts = {name: run.left_out[name].count if name in run.left_out else 0 for name in LEFT_OUT}
        write_summary(folder, {**figures, **counts, "twins": len(run.twins.rows), **_nested(series)})
        # only what the summary marks as finished may lose the notes of its progress
        for forget in run.after_the_end:
            forget()
        lines = [
            results_text(series) if series else _line(figures),
            *(f"\n{note}" for note in run.notes if series),
            *(one.summary() for one in left_out),
            _what_next(folder),
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


def _write_skipped(folder: Path, lists: Sequence[SkippedImages]) -> None:
    """One list for the run: originals first, then in the order of the evaluations."""
    together = SkippedImages()
    together.rows = [row for one in lists for row in one.rows]
    if together.count:
        together.write(folder / SKIPPED_FILE)


def _line(figures: Mapping[str, float]) -> str:
    return " · ".join(f"{name} {value:.4g}" for name, value in figures.items())


def _nested(series: Series) -> dict[str, Any]:
    known = summaries(series)
    means = {label: results.means for label, results in series.items()}
    keys = [measure.key for measure in measures_of(RETRIEVAL_FILE)]
    return {
        "retrieval": {
            label: {
                attack: {"n": int(row["images"]), **{key: row[key] for key in keys if key in row}}
                for attack, row in table.to_dict("index").items()
            }
            for label, table in means.items()
        },
        "measures": {
            # JSON has no infinity, which is the PSNR of unchanged images
            label: {key: float(one.value) for key, one in found.items() if math.isfinite(one.value)}
            for label, found in known.items()
        },
        # of the shares among them: 95 %
        "intervals": {
            label: {key: list(one.interval) for key, one in found.items() if one.interval is not None}
            for label, found in known.items()
        },
    }


def _what_next(folder: Path) -> str:
    places = {"report": REPORT_FILE, "rows": RETRIEVAL_FILE}
    if (folder / IMAGES_FOLDER).exists():
        places |= {"released images": IMAGES_FOLDER, "their measures": IMAGES_FILE}
    listed = ", ".join(f"{what} {folder / name}" for what, name in places.items() if (folder / name).exists())
    tensorboard = folder / TENSORBOARD_FOLDER
    look = f"; look at it: tensorboard --logdir {tensorboard}" if tensorboard.exists() else ""
    return f"\nresults in {folder}: {listed}{look}"
