"""The figures of a run: means per edit, and a dozen numbers in all."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from aindex.evaluation.analyses import code_distances
from aindex.evaluation.copy_detection import copy_detection_table
from aindex.evaluation.intervals import Interval, mean_interval
from aindex.evaluation.measures import (
    IMAGES_FILE,
    INDEX_FILE,
    MEASURES,
    QUERIES_FILE,
    RETRIEVAL_FILE,
    UNKNOWN,
    Cell,
    Measure,
    Number,
    measures_of,
)
from aindex.evaluation.retrieval import AVERAGE, AVERAGE_WITHOUT_SCREENSHOT
from aindex.evaluation.run_files import Results
from aindex.evaluation.table import Table

Series = Mapping[str, Results]


def attack_number(means: pd.DataFrame, attack: str, measure: Measure, series: str = "") -> Number:
    """A number of `Results.means`."""
    value = means[measure.key].get(attack, np.nan) if measure.key in means else np.nan
    n = float(means["images"].get(attack, 0)) if measure.is_share else None
    return Number(float(value), measure, f"{series}|{measure.file}|{attack}|{measure.key}", n)


def summary(results: Results, series: str = "") -> dict[str, Number]:
    """All numbers that the tables of a run allow, by their key, in the order of `MEASURES`."""
    groups = (_of_attacks, _copy_detection, _images, _code_distance, _costs, _search)
    found = {
        number.measure.key: replace(number, key=f"{series}|measure|{number.measure.key}|value")
        for group in groups
        for number in group(results)
        if not pd.isna(number.value)
    }
    return {key: found[key] for key in [*MEASURES, *found] if key in found}


def summaries(series: Series) -> dict[str, dict[str, Number]]:
    """`summary` of each series."""
    return {label: summary(results, label) for label, results in series.items()}


def measure_table(series: Series, *, left_out: Sequence[str] = (), sources: bool = False) -> Table:
    """All summary numbers: a row per measure, a column per series, and the csv columns if asked for."""
    known = summaries(series)
    measures = {key: number.measure for found in known.values() for key, number in found.items()}
    rows: list[list[Cell]] = [
        [
            measure.label,
            *(found.get(key, UNKNOWN) for found in known.values()),
            *([measure.source] if sources else []),
        ]
        for key, measure in measures.items()
        if key not in left_out
    ]
    header = ["measure", *known, *(["csv columns"] if sources else [])]
    return Table(header, rows, title="All measures", compared=True)


def _of_attacks(results: Results) -> Iterator[Number]:
    means = results.means
    for measure in measures_of(RETRIEVAL_FILE, QUERIES_FILE):
        if measure.label:
            number = attack_number(means, AVERAGE, measure)
            is_mean = measure.file == QUERIES_FILE and measure.key in means and not measure.is_share
            bounds = mean_interval(results.queries[measure.key]) if is_mean else None  # type: ignore[index]
            yield replace(number, bounds=bounds)
    without = attack_number(means, AVERAGE_WITHOUT_SCREENSHOT, MEASURES["r@1"])
    yield replace(without, measure=MEASURES["r@1_without_screenshot"])


def _copy_detection(results: Results) -> Iterator[Number]:
    if results.copy_detection is None:
        return
    for row in copy_detection_table(results.copy_detection, metric=results.metric).to_dict("records"):
        for name in ("uap", "recall_at_p90"):
            measure = MEASURES[f"{name}_{row['score']}"]
            yield Number(row[name], measure, n=row["true_pairs"] if measure.is_share else None)


def _images(results: Results) -> Iterator[Number]:
    if results.images is None:
        return
    for measure in MEASURES.values():
        if measure.file == IMAGES_FILE and (known := results.images[measure.key].dropna()).size:
            yield mean_number(known, measure)


def _code_distance(results: Results) -> Iterator[Number]:
    edited = code_distances(None, results.queries).get("edited")
    if edited is not None:
        yield mean_number(edited, MEASURES["code_distance_edited"])


def mean_number(values: "pd.Series[float]", measure: Measure, key: str = "") -> Number:
    """The mean of what is finite; infinite if nothing is."""
    finite = values[np.isfinite(values)]
    mean = float(finite.mean()) if finite.size else np.inf
    return Number(mean, measure, key, bounds=mean_interval(finite))


def _costs(results: Results) -> Iterator[Number]:
    if results.index is not None:
        for measure in measures_of(INDEX_FILE):
            value = float(results.index[measure.key].iloc[0])
            yield Number(value, measure, bounds=Interval(value, value))


def _search(results: Results) -> Iterator[Number]:
    if results.search is None:
        return
    measure = MEASURES["ms_per_query"]
    for row in results.search.to_dict("records"):
        settings = {name: f"{row[name]:g}" for name in ("nprobe", "k") if not pd.isna(row[name])}
        key = "_".join(name + value for name, value in settings.items())
        label = ", ".join(f"{name} {value}" for name, value in settings.items())
        one = replace(measure, key=f"search_ms_{key}", columns=measure.key, label=f"{measure.label}, {label}")
        yield Number(row["ms_per_query"], one)
