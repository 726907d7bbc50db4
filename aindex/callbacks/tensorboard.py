"""A run's results for TensorBoard and other loggers: scalars, histograms, curves, pictures, text."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image, ImageDraw, ImageFont, ImageOps
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from aindex.evaluation.analyses import QUALITY, code_distances, query_table, worst_images
from aindex.evaluation.copy_detection import Pairs, pairs_of_rows, precision_recall_curve
from aindex.evaluation.examples import Example, read_examples
from aindex.evaluation.report import verdicts_of
from aindex.evaluation.retrieval import MEASURES, attack_label, format_table, retrieval_table
from aindex.evaluation.run_folder import ASSETS_FOLDER, Results
from aindex.evaluation.sections import curves_of
from aindex.evaluation.summary import measures
from aindex.evaluation.text_tables import markdown, measure_table

_POINTS = 127
"""TensorBoard's own number of points of a precision-recall curve."""
_CELL, _LABEL = 200, 16  # pixels


def log_results(trainer: Trainer, folder: Path, series: Mapping[str, Results]) -> None:
    """Log what the report shows.

    Args:
        trainer: its loggers and step.
        folder: the run's, where the examples lie.
        series: results by `passive` and `active`.
    """
    step = trainer.global_step
    for logger in trainer.loggers:
        logger.log_metrics(dict(scalars(series)), step=step)
        if isinstance(logger, TensorBoardLogger):
            writer = logger.experiment
            _log_texts(writer, series, step)
            _log_distributions(writer, series, step)
            _log_curves(writer, series, step)
            main = list(series.values())[-1]
            for example in read_examples(folder / ASSETS_FOLDER):
                sheet = example_sheet(example, verdicts_of(main.retrieval, example.image_index))
                writer.add_image(f"examples/{example.name}", np.asarray(sheet), step, dataformats="HWC")


def log_configuration(trainer: Trainer, text: str) -> None:
    """Log the run's configuration as text."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            indented = "\n".join(f"    {line}" for line in text.splitlines())
            logger.experiment.add_text("configuration", indented, trainer.global_step)


def scalars(series: Mapping[str, Results]) -> Iterator[tuple[str, float]]:
    """Every number of the tables per attack and of the summary, with its name."""
    for label, results in series.items():
        for row in retrieval_table(results.retrieval).to_dict("records"):
            for name in MEASURES:
                yield f"retrieval_{label}/{name}/{row['attack']}", float(row[name])
        if results.queries is not None:
            for row in query_table(results.queries).to_dict("records"):
                for name in ("same_cell", "code_distance", "stored_distance", "exhaustive_r@1"):
                    if not pd.isna(row[name]):
                        yield f"queries_{label}/{name}/{row['attack']}", float(row[name])
        for one in measures(results):
            yield f"summary_{label}/{one.key}", float(one.value)


def _log_texts(writer: SummaryWriter, series: Mapping[str, Results], step: int) -> None:
    for label, results in series.items():
        table = format_table(retrieval_table(results.retrieval), style="markdown")
        writer.add_text(f"retrieval/{label}", table, step)
        if results.images is not None:
            worst = worst_images(results.images)
            lines = [
                f"| {_escaped(row['name'])} | {row['psnr_db']:.2f} | {row['ssim']:.4f} | {row['linf']:.0f} |"
                for row in worst.to_dict("records")
            ]
            header = ["| image | PSNR (dB) | SSIM | L∞ |", "|---|---:|---:|---:|"]
            writer.add_text(f"most changed images/{label}", "\n".join([*header, *lines]), step)
    writer.add_text("all measures", markdown(measure_table(series)), step)


def _escaped(name: str) -> str:
    return "".join("\\" + c if c in "\\`*_|<>[]" else c for c in name)


def _log_distributions(writer: SummaryWriter, series: Mapping[str, Results], step: int) -> None:
    for label, results in series.items():
        known: dict[str, pd.Series[float]] = {
            f"distance to the code/{part}": values
            for part, values in code_distances(results.images, results.queries).items()
        }
        if results.images is not None:
            known |= {f"released images/{name}": results.images[name] for name in QUALITY}
        for name, values in known.items():
            finite = values[np.isfinite(values)].to_numpy(dtype=np.float64)
            if finite.size:
                writer.add_histogram(f"{name}/{label}", finite, step)


def _log_curves(writer: SummaryWriter, series: Mapping[str, Results], step: int) -> None:
    for label, curves in curves_of(series).items():
        rows = series[label].copy_detection
        assert rows is not None
        for score in curves:
            true, false, others, missed, precision, recall = curve_points(pairs_of_rows(rows, score=score))
            writer.add_pr_curve_raw(
                f"copy detection/{score}/{label}",
                true,
                false,
                others,
                missed,
                precision,
                recall,
                global_step=step,
                num_thresholds=len(recall),
            )


def curve_points(pairs: Pairs) -> npt.NDArray[np.float64]:
    """A precision-recall curve in TensorBoard's form, from the lowest threshold to the highest.

    Returns:
        6×n, n at most 127: true and false positives, true and false negatives, precision, recall. A true pair
        that was never retrieved is a false negative at every threshold.
    """
    curve = precision_recall_curve(*pairs)
    grows = np.flatnonzero(np.diff(curve.recall, prepend=-1) > 0)
    kept = grows[np.unique(np.linspace(0, grows.size - 1, min(_POINTS, grows.size)).round().astype(np.int64))]
    kept = kept[::-1]
    predicted = pairs.scores.size - np.searchsorted(np.sort(pairs.scores), curve.scores[kept], side="left")
    hits = np.rint(curve.recall[kept] * pairs.number_of_true_pairs)
    false = predicted - hits
    all_false = pairs.scores.size - pairs.is_true.sum()
    missed = pairs.number_of_true_pairs - hits
    return np.stack([hits, false, all_false - false, missed, curve.precision[kept], curve.recall[kept]])


def example_sheet(example: Example, verdicts: Mapping[str, str]) -> Image.Image:
    """An example's pictures on one sheet: the image's in the first row, its edited copies below.

    Args:
        example: stored pictures.
        verdicts: by an attack's label what became of the copy.
    """
    first: list[tuple[str, Path]] = [
        ("original", example.original),
        ("released", example.released),
        (f"difference × {example.amplification:g}", example.difference),
    ]
    first += [("heatmap", example.heatmap)] if example.heatmap else []
    copies = []
    for copy in example.copies:
        label = attack_label(copy.attack, copy.attack_param)
        verdict = verdicts.get(label, "")
        copies.append((f"{label.replace('_', ' ')}: {verdict}" if verdict else label, copy.file))
    return _sheet([row for row in (first, copies) if row])


def _sheet(rows: Sequence[Sequence[tuple[str, Path]]]) -> Image.Image:
    font = ImageFont.load_default()
    height = _CELL + _LABEL
    sheet = Image.new("RGB", (_CELL * max(map(len, rows)), height * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for line, row in enumerate(rows):
        for column, (label, path) in enumerate(row):
            with Image.open(path) as picture:
                small = ImageOps.contain(picture.convert("RGB"), (_CELL - 4, _CELL - 4))
            left, top = column * _CELL, line * height
            sheet.paste(small, (left + (_CELL - small.width) // 2, top + _LABEL))
            # the default font knows Latin letters only
            draw.text((left + 4, top + 2), label.replace("×", "x"), fill="black", font=font)
    return sheet
