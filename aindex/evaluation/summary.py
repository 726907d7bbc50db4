"""A run in a dozen numbers, each with the csv column it comes from."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from aindex.evaluation.analyses import code_distance_summary, code_distances, image_summary, query_table
from aindex.evaluation.copy_detection import copy_detection_table
from aindex.evaluation.intervals import Interval, mean_interval, wilson
from aindex.evaluation.retrieval import AVERAGE, AVERAGE_WITHOUT_SCREENSHOT, SHARES, retrieval_table
from aindex.evaluation.run_files import Results


@dataclass(frozen=True)
class Measure:
    """One number of a run.

    Attributes:
        key: a short name without blanks, for TensorBoard and csv files.
        label: what people read, with its unit.
        value: the number.
        decimals: how many to show.
        source: csv file and columns it is computed from.
        higher_is_better: None where neither is.
        n: for a share, of how many.
        bounds: for a mean, where it lies with 95 % confidence; for what is no sample, the number itself.
    """

    key: str
    label: str
    value: float
    decimals: int
    source: str
    higher_is_better: bool | None = True
    n: int | None = None
    bounds: Interval | None = None

    @property
    def text(self) -> str:
        """The number as shown."""
        return number_text(self.value, self.decimals)

    @property
    def interval(self) -> Interval | None:
        """The 95 % interval of a share."""
        return None if self.n is None else wilson(self.value, self.n)


def number_text(value: float, decimals: int) -> str:
    """A number with a fixed count of decimals; ∞ and – for what is infinite or not known."""
    if pd.isna(value):
        return "–"
    return f"{value:.{decimals}f}" if abs(value) != float("inf") else "∞"


def cell_share(queries: pd.DataFrame) -> float:
    """Share of copies in their original's coarse cell, the average of `query_table`; nan if not known."""
    return float(query_table(queries).set_index("attack")["same_cell"][AVERAGE])


def measures(results: Results) -> list[Measure]:
    """All numbers that the tables of a run allow; those that are not known are left out."""
    groups = (
        _retrieval(results),
        _copy_detection(results),
        _queries(results),
        _images(results),
        _code_distances(results),
        _costs(results),
        _search(results),
    )
    return [measure for group in groups for measure in group if not pd.isna(measure.value)]


def _retrieval(results: Results) -> Iterator[Measure]:
    table = retrieval_table(results.retrieval).set_index("attack").to_dict("index")
    for column, label in (("r@1", "R@1"), ("r@10", "R@10"), ("r@100", "R@100"), ("ap", "AP")):
        source = f"retr_df.csv: {column}"
        n = int(table[AVERAGE]["images"]) if column in SHARES else None
        yield Measure(column, f"{label}, average over attacks", table[AVERAGE][column], 3, source, n=n)
    if AVERAGE_WITHOUT_SCREENSHOT in table:
        row = table[AVERAGE_WITHOUT_SCREENSHOT]
        label = "R@1, average without the screenshot"
        n = int(row["images"])
        yield Measure("r@1_without_screenshot", label, row["r@1"], 3, "retr_df.csv: r@1", n=n)


def _copy_detection(results: Results) -> Iterator[Measure]:
    if results.copy_detection is None:
        return
    source = "icd_df.csv: image_index, retrieved_distances, retrieved_indices"
    for row in copy_detection_table(results.copy_detection, metric=results.metric).to_dict("records"):
        score = row["score"]
        yield Measure(f"uap_{score}", f"µAP, {score} score", row["uap"], 3, source)
        label = f"recall at 90 % precision, {score} score"
        n = int(row["true_pairs"])
        yield Measure(f"recall_at_p90_{score}", label, row["recall_at_p90"], 3, source, n=n)


def _queries(results: Results) -> Iterator[Measure]:
    if results.queries is None:
        return
    average = query_table(results.queries).set_index("attack").to_dict("index")[AVERAGE]
    n, label = int(average["images"]), "R@1 of an exhaustive search, average over attacks"
    source = "queries_df.csv: exhaustive_rank"
    yield Measure("exhaustive_r@1", label, average["exhaustive_r@1"], 3, source, n=n)
    label, source = "copies in their original's cell, average over attacks", "queries_df.csv: same_cell"
    yield Measure("same_cell", label, average["same_cell"], 3, source, n=n)


def _images(results: Results) -> Iterator[Measure]:
    if results.images is None:
        return
    names = {"psnr_db": ("PSNR (dB)", 2), "ssim": ("SSIM", 4), "linf": ("L∞ (grey levels)", 1)}
    for row in image_summary(results.images).to_dict("records"):
        column = str(row["measure"])
        label, decimals = names[column]
        source = f"images_df.csv: {column}"
        bounds = mean_interval(results.images[column])
        value = row["mean"]
        yield Measure(column, f"{label}, mean", value, decimals, source, column != "linf", bounds=bounds)
    times = results.images["activation_seconds"]
    label, source = "activation (s per image)", "images_df.csv: activation_seconds"
    bounds = mean_interval(times)
    yield Measure("activation_seconds", label, float(times.mean()), 3, source, False, bounds=bounds)


def _code_distances(results: Results) -> Iterator[Measure]:
    values = code_distances(results.images, results.queries)
    for row in code_distance_summary(results.images, results.queries).to_dict("records"):
        which = row["descriptors"]
        source = (
            "queries_df.csv: code_distance" if which == "edited" else f"images_df.csv: code_distance_{which}"
        )
        label = f"squared distance to the code, {which} images"
        bounds = mean_interval(values[str(which)])
        yield Measure(f"code_distance_{which}", label, row["mean"], 4, source, False, bounds=bounds)


def _costs(results: Results) -> Iterator[Measure]:
    if results.queries is not None:
        table = query_table(results.queries).set_index("attack").to_dict("index")
        label = "rows scanned per query, average over attacks"
        source = "queries_df.csv: scanned_rows"
        value, bounds = table[AVERAGE]["scanned_rows"], mean_interval(results.queries["scanned_rows"])
        yield Measure("scanned_rows", label, value, 1, source, False, bounds=bounds)
    if results.index is None:
        return
    for column, label, decimals in (
        ("rows_per_picture", "rows per evaluated picture", 2),
        ("bytes_per_picture", "bytes per picture in the index", 1),
    ):
        value, source = float(results.index[column].iloc[0]), f"index_df.csv: {column}"
        yield Measure(column, label, value, decimals, source, False, bounds=Interval(value, value))


def _search(results: Results) -> Iterator[Measure]:
    if results.search is None:
        return
    for row in results.search.to_dict("records"):
        known = not pd.isna(row["nprobe"])
        key = f"nprobe{row['nprobe']:g}_k{row['k']:g}" if known else f"k{row['k']:g}"
        setting = f"nprobe {row['nprobe']:g}, k {row['k']:g}" if known else f"k {row['k']:g}"
        source = "search_df.csv: ms_per_query"
        yield Measure(
            f"search_ms_{key}", f"search (ms per query), {setting}", row["ms_per_query"], 3, source, False
        )
