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
from torch.utils.tensorboard.summary import hparams

from aindex.callbacks.console import answers_table
from aindex.evaluation.analyses import code_distances
from aindex.evaluation.copy_detection import Pairs, pairs_of_rows, precision_recall_curve
from aindex.evaluation.examples import Example, read_examples
from aindex.evaluation.html_report import verdicts_of
from aindex.evaluation.measures import IMAGES_FILE, QUERIES_FILE, RETRIEVAL_FILE, measures_of
from aindex.evaluation.run_files import ASSETS_FOLDER, CONFIG_FILE, Results
from aindex.evaluation.sections import curves_of, worst_table
from aindex.evaluation.setting_differences import flat_settings
from aindex.evaluation.summary import measure_table, summary
from aindex.evaluation.table import markdown

_POINTS = 127
"""TensorBoard's own number of points of a precision-recall curve."""
_CELL, _LABEL = 200, 16  # pixels


def log_results(trainer: Trainer, folder: Path, series: Mapping[str, Results]) -> None:
    """Log what the report shows.

    TensorBoard gets a run below the logger's for each series, `passive` and `active`, with the same tags, so that they
    overlay, and the configuration as hyperparameters of each. Other loggers get the series in front of the tags.
    """
    step = trainer.global_step
    for logger in trainer.loggers:
        if not isinstance(logger, TensorBoardLogger):
            named = {f"{label}/{tag}": x for label, results in series.items() for tag, x in scalars(results)}
            logger.log_metrics(named, step=step)
            continue
        for label, results in series.items():
            with SummaryWriter(str(Path(logger.log_dir) / label)) as writer:
                for tag, value in scalars(results):
                    writer.add_scalar(tag, value, step)
                writer.add_text("retrieval", markdown(answers_table({label: results})), step)
                if results.images is not None:
                    writer.add_text("most changed images", markdown(worst_table(results.images)), step)
                _log_distributions(writer, results, step)
                _log_curves(writer, results, step)
                _log_hyperparameters(writer, folder, label, results)
        logger.experiment.add_text("all measures", markdown(measure_table(series)), step)
        main = list(series.values())[-1]
        for example in read_examples(folder / ASSETS_FOLDER):
            sheet = example_sheet(example, verdicts_of(main.retrieval, example.image_index))
            logger.experiment.add_image(
                f"examples/{example.name}", np.asarray(sheet), step, dataformats="HWC"
            )


def log_configuration(trainer: Trainer, text: str) -> None:
    """Log the run's configuration as text."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            indented = "\n".join(f"    {line}" for line in text.splitlines())
            logger.experiment.add_text("configuration", indented, trainer.global_step)


def scalars(results: Results) -> Iterator[tuple[str, float]]:
    """Every number of the tables per edit and of the summary, with its tag."""
    means = results.means
    for file, folder in ((RETRIEVAL_FILE, "retrieval"), (QUERIES_FILE, "queries")):
        for measure in measures_of(file):
            if measure.key in means:
                for attack, value in means[measure.key].dropna().items():
                    yield f"{folder}/{measure.key}/{attack}", float(value)
    for key, number in summary(results).items():
        yield f"summary/{key}", float(number.value)


def _log_hyperparameters(writer: SummaryWriter, folder: Path, label: str, results: Results) -> None:
    config = folder / CONFIG_FILE
    settings = flat_settings(config.read_text(encoding="utf-8")) if config.is_file() else {}
    values = {name: x if isinstance(x, bool | int | float | str) else str(x) for name, x in settings.items()}
    found = {tag: value for tag, value in scalars(results) if tag.startswith("summary/")}
    for part in hparams({"images": label, **values}, found):  # type: ignore[no-untyped-call]
        writer._get_file_writer().add_summary(part)  # type: ignore[no-untyped-call]


def _log_distributions(writer: SummaryWriter, results: Results, step: int) -> None:
    known: dict[str, pd.Series[float]] = {
        f"distance to the code/{part}": values
        for part, values in code_distances(results.images, results.queries).items()
    }
    if results.images is not None:
        for measure in measures_of(IMAGES_FILE):
            known[f"released images/{measure.key}"] = results.images[measure.key]
    for name, values in known.items():
        finite = values[np.isfinite(values)].to_numpy(dtype=np.float64)
        if finite.size:
            writer.add_histogram(name, finite, step)


def _log_curves(writer: SummaryWriter, results: Results, step: int) -> None:
    rows = results.copy_detection
    if rows is None:
        return
    for score in curves_of({"": results})[""]:
        pairs = pairs_of_rows(rows, score=score, metric=results.metric)
        true, false, others, missed, precision, recall = curve_points(pairs)
        tag = f"copy detection/{score}"
        writer.add_pr_curve_raw(tag, true, false, others, missed, precision, recall, step, len(recall))


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

    `verdicts` says by an edit's label what became of the copy.
    """
    copies = []
    for label, path in example.copies.items():
        verdict = verdicts.get(label, "")
        copies.append((f"{label.replace('_', ' ')}: {verdict}" if verdict else label, path))
    first = [(example.caption(shown), path) for shown, path in example.pictures.items()]
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
