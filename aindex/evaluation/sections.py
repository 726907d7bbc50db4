"""The parts of a report as tables and charts, over any number of named results."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from aindex.evaluation import figures
from aindex.evaluation.analyses import code_distances, image_summary
from aindex.evaluation.blocks import Chart, Section, attack_table, distribution_chart, finding
from aindex.evaluation.copy_detection import (
    PrecisionRecallCurve,
    Score,
    at_limit,
    closeness_limit,
    copy_detection_table,
    pairs_of_rows,
    precision_recall_curve,
)
from aindex.evaluation.measures import (
    IMAGES_FILE,
    MEASURES,
    QUERIES_FILE,
    RETRIEVAL_FILE,
    UNKNOWN,
    Cell,
    Measure,
    Number,
    measures_of,
)
from aindex.evaluation.retrieval import attack_labels
from aindex.evaluation.summary import Series, mean_number, measure_table, summaries
from aindex.evaluation.table import Table

MOST_SERIES_OF_ONE_TABLE = 2
_COSTS = ("r@1", "rows_per_picture", "scanned_rows", "bytes_per_picture", "uap_plain")
_AT_LIMIT = {"false_positives": "strangers", "found": "copies"}
_COSTS_TEXT = (
    "Rows scanned are those in the cells that a search visits; bytes are codes, ids and numbers of rows in memory, for "
    "all pictures of the index together."
)
_RISKS_TEXT = (
    " The threshold is one for all series with the same extractor and metric: at most 1 % of the queries that match "
    "nothing are taken for matches by it in the first of them."
)


def report_sections(series: Series) -> list[Section]:
    """The sections of a report that are not empty, without that of all numbers."""
    kinds = (retrieval_section, cost_section, copy_detection_section, quality_section, index_section)
    sections = [make(series) for make in kinds]
    return [section for section in sections if section.tables or section.charts]


def retrieval_section(series: Series) -> Section:
    """R@1 per edit as a chart and with the other measures as tables."""
    text = (
        "Share of copies whose original is the first answer of the index (R@1), among the first ten or hundred, and "
        "the mean of 1/(rank+1) (AP). The average is over the edits, the unedited picture (none) among them. Small "
        "numbers are 95 % intervals (Wilson) for n copies. "
    )
    means = {label: results.means for label, results in series.items()}
    first, *others = measures_of(RETRIEVAL_FILE)
    exhaustive = MEASURES["exhaustive_r@1"]
    ceilings = [table[exhaustive.key] for table in means.values() if exhaustive.key in table]
    if ceilings:
        text += "Exhaustive is what a search without any approximation reaches on the same copies."
    elif any(results.queries is not None for results in series.values()):
        text += (
            "What an exhaustive search reaches is not known: it was not asked for, or the index came without its "
            "rows' descriptors."
        )
    section = Section("Retrieval", text)
    # whose ceiling a tick shows is clear for one run only
    ceiling = ceilings[-1] if ceilings and len(series) <= MOST_SERIES_OF_ONE_TABLE else None
    recalls = values_of(series, first.key)
    chart = figures.dots_figure(recalls, xlabel=first.name, n=counts_of(series), ceiling=ceiling)
    caption = "R@1 per edit, with 95 % intervals"
    section.charts.append(Chart(figures.svg_data_uri(chart), caption, finding(first.name, recalls)))
    if any(figures.curve_families(results.retrieval) for results in series.values()):
        curves = figures.recall_curves_figure({label: results.retrieval for label, results in series.items()})
        section.charts.append(Chart(figures.svg_data_uri(curves), "R@1 against the edit's parameter"))
    section.tables.extend(attack_tables(means, [first, exhaustive, *others], RETRIEVAL_FILE))
    return section


def attack_tables(means: Mapping[str, pd.DataFrame], measures: Sequence[Measure], file: str) -> list[Table]:
    """One table of what is known, or one per measure where more than two series would make it too wide."""
    known = [measure for measure in measures if any(measure.key in table for table in means.values())]
    together = [known] if len(means) <= MOST_SERIES_OF_ONE_TABLE else [[measure] for measure in known]
    return [attack_table(means, some, counted_in=file) for some in together if some]


def values_of(series: Series, key: str) -> dict[str, "pd.Series[Any]"]:
    """A measure of each series that knows it, per edit without those that are drawn against their parameter."""
    found = {}
    for label, results in series.items():
        means, retrieval = results.means, results.retrieval
        drawn = retrieval["attack"].isin(figures.curve_families(retrieval))
        if key in means:
            found[label] = means[key].drop(attack_labels(retrieval[drawn]).unique(), errors="ignore")
    return found


def counts_of(series: Series) -> dict[str, "pd.Series[Any]"]:
    """The number of copies per edit of each series."""
    return {label: results.means["images"] for label, results in series.items()}


def risks(series: Series) -> dict[str, list[Number]]:
    """Per series the shares of false positives and of copies found (see `at_limit`).

    At one threshold, that of the first series with the same extractor and metric.
    """
    limits: dict[tuple[Any, ...], float | None] = {}
    found = {}
    for label, results in series.items():
        rows = results.copy_detection
        if rows is None:
            continue
        index = () if results.index is None else tuple(results.index[["extractor", "metric"]].iloc[0])
        limit = limits.get(index)
        if limit is None:
            limit = limits[index] = closeness_limit(rows, metric=results.metric)
        if limit is not None:
            known = at_limit(rows, limit, metric=results.metric)
            found[label] = [
                Number(known[share], MEASURES[share], f"{label}|icd_df.csv|{share}|at_limit", known[of])
                for share, of in _AT_LIMIT.items()
            ]
    return found


def cost_points(series: Series) -> dict[str, dict[str, Number]]:
    """The `summaries` in which rows scanned are known."""
    return {label: known for label, known in summaries(series).items() if "scanned_rows" in known}


def cost_section(series: Series) -> Section:
    """R@1 against rows scanned, and a table of costs and risks."""
    points, risk = cost_points(series), risks(series)
    section = Section("What it costs and risks", _COSTS_TEXT + (_RISKS_TEXT if risk else ""))
    if not points:
        return section
    rows: list[list[Cell]] = [
        [
            label,
            *(known.get(key, UNKNOWN) for key in _COSTS),
            *(risk.get(label, [UNKNOWN] * 2) if risk else []),
        ]
        for label, known in summaries(series).items()
    ]
    names = [MEASURES[key].name for key in (*_COSTS, *(_AT_LIMIT if risk else ()))]
    source = "retr_df.csv: r@1; queries_df.csv: scanned_rows; index_df.csv; icd_df.csv"
    section.tables.append(Table(["", *names], rows, source))
    if len(points) > 1:
        caption = "R@1 against rows scanned per query, 95 % intervals; numbers: rows per evaluated picture"
        seen = "; ".join(
            f"{label} {known['r@1'].text} at {known['scanned_rows'].value:.0f} rows"
            for label, known in points.items()
        )
        alt = f"R@1 against rows scanned per query: {seen}."
        section.charts.append(Chart(figures.svg_data_uri(figures.cost_figure(points)), caption, alt))
    return section


def curves_of(series: Series) -> dict[str, dict[Score, PrecisionRecallCurve]]:
    """The precision-recall curves of every result that has copy detection rows.

    Of both scores; of more than two series only of the plain one, or nobody could tell the lines apart.
    """
    curves: dict[str, dict[Score, PrecisionRecallCurve]] = {}
    for label, results in series.items():
        if results.copy_detection is not None:
            found, metric = results.copy_detection, results.metric
            scores: list[Score] = copy_detection_table(found, metric=metric)["score"].tolist()
            curves[label] = {
                score: precision_recall_curve(*pairs_of_rows(found, score=score, metric=metric))
                for score in scores[: 1 if len(series) > MOST_SERIES_OF_ONE_TABLE else None]
            }
    return curves


def copy_detection_section(series: Series) -> Section:
    """Precision-recall curves, µAP and recall at 90 % precision."""
    section = Section(
        "Copy detection",
        "One random edit per image, activated images and images that match nothing together; every (query, "
        "candidate) pair counts. The plain score is −distance, the normalised one the gap to the next candidate.",
    )
    curves = curves_of(series)
    if not curves:
        return section
    rows: list[list[Cell]] = []
    for label, results in series.items():
        if (found := results.copy_detection) is None:
            continue
        for row in copy_detection_table(found, metric=results.metric).to_dict("records"):
            score, key = row["score"], f"{label}|icd_df.csv|{row['score']}|"
            uap = Number(row["uap"], MEASURES[f"uap_{score}"], f"{key}uap")
            recall = Number(
                row["recall_at_p90"],
                MEASURES[f"recall_at_p90_{score}"],
                f"{key}recall_at_p90",
                row["true_pairs"],
            )
            counts = [Number(row[name], key=key + name) for name in ("queries", "true_pairs")]
            rows.append([f"{label}, {score}", uap, recall, *counts])
    plain = [MEASURES[key] for key in ("uap_plain", "recall_at_p90_plain")]
    header = ["score", *(measure.name for measure in plain), "queries", "true pairs"]
    section.tables.append(Table(header, rows, plain[0].source))
    chart = figures.precision_recall_figure(curves)
    caption = "Precision against recall; the dot is the recall at 90 % precision"
    said = ", ".join(f"{name} {uap.text} and {recall.text}" for name, uap, recall, *_ in rows)  # type: ignore[union-attr]
    alt = f"Precision against recall; µAP and recall at 90 % precision: {said}."
    section.charts.append(Chart(figures.svg_data_uri(chart), caption, alt))
    return section


def quality_section(series: Series) -> Section:
    """How far the released images are from their originals."""
    section = Section("Released images", "The change between each original and its released image.")
    images = {label: results.images for label, results in series.items() if results.images is not None}
    rows: list[list[Cell]] = []
    changed: dict[str, pd.DataFrame] = {}
    for label, table in images.items():
        summary = image_summary(table).to_dict("records")
        for row in summary:
            measure, key = MEASURES[str(row["measure"])], f"{label}|images_df.csv|{row['measure']}|"
            cells = [Number(row[part], measure, key + part) for part in ("mean", "std", "worst")]
            unchanged = Number(row["unchanged"], key=f"{key}unchanged")
            rows.append([_named(measure.name, label, images), *cells, row["worst_name"], unchanged])
        if summary and summary[0]["unchanged"] < len(table):
            changed[label] = table
    if rows:
        header = ["measure", "mean", "spread (σ)", "worst", "worst image", "unchanged images"]
        section.tables.append(Table(header, rows, _quality_source()))
    for label, table in changed.items():
        section.tables.append(worst_table(table, label, _named("The ten most changed", label, images)))
    for measure in measures_of(IMAGES_FILE):
        values = {label: i[measure.key] for label, i in changed.items() if i[measure.key].notna().any()}
        if values:
            section.charts.append(distribution_chart(values, measure.name))
    return section


def _quality_source() -> str:
    return f"{IMAGES_FILE}: {', '.join(['name', *(measure.key for measure in measures_of(IMAGES_FILE))])}"


def _named(name: str, label: str, series: Mapping[str, object]) -> str:
    """A row's name, with the series where there are several."""
    return f"{name}, {label}" if len(series) > 1 else name


def worst_table(images: pd.DataFrame, label: str = "", title: str = "") -> Table:
    """The most visibly changed images of a series: the ten of the lowest PSNR, worst first."""
    measures, worst = measures_of(IMAGES_FILE), images.sort_values("psnr_db", kind="stable").head(10)
    rows: list[list[Cell]] = [
        [
            str(row["name"]),
            *(Number(row[m.key], m, f"{label}|{IMAGES_FILE}|worst {place}|{m.key}") for m in measures),
        ]
        for place, row in enumerate(worst.to_dict("records"))
    ]
    return Table(["image", *(measure.name for measure in measures)], rows, _quality_source(), title)


def index_section(series: Series) -> Section:
    """Coarse cells, distances to codes, search time."""
    section = Section(
        "Inside the index",
        "A copy can be found when it stays in its original's coarse cell; its code is the better, the nearer it "
        "lies to the descriptor. Distances are squared.",
    )
    means = {label: r.means for label, r in series.items() if r.queries is not None}
    if cells := values_of(series, "same_cell"):
        name = MEASURES["same_cell"].name
        chart = figures.dots_figure(cells, xlabel=name, n=counts_of(series))
        caption = "Copies in their original's coarse cell, with 95 % intervals"
        section.charts.append(Chart(figures.svg_data_uri(chart), caption, finding(name.capitalize(), cells)))
    measures = [measure for measure in measures_of(QUERIES_FILE) if measure.key != "exhaustive_r@1"]
    section.tables.extend(attack_tables(means, measures, QUERIES_FILE))
    _add_code_distances(section, series)
    _add_search_times(section, series)
    return section


def _add_code_distances(section: Section, series: Series) -> None:
    rows: list[list[Cell]] = []
    charts: dict[str, dict[str, pd.Series[float]]] = {}
    of: dict[str, str] = {}
    known = {label: code_distances(r.images, r.queries) for label, r in series.items()}
    for label, distances in known.items():
        for part, values in distances.items():
            several = sum(part in other for other in known.values()) > 1
            name = f"{part}, {label}" if several else part
            measure, key = MEASURES[f"code_distance_{part}"], f"{label}|code_distance|{part}|"
            spread = Number(float(np.nanstd(values)), measure, f"{key}std")
            rows.append([name, mean_number(values, measure, f"{key}mean"), spread])
            # all in one chart for one run; for several, a chart for each kind of image
            chart = part if len(series) > MOST_SERIES_OF_ONE_TABLE else "all"
            shown = label if chart == part else name
            charts.setdefault(chart, {})[shown] = values
            # what an original gives is passive, whichever run has measured it
            of[shown] = figures.PASSIVE if part == "original" and chart == "all" else label
    if rows:
        source = (
            "images_df.csv: code_distance_original, code_distance_released; queries_df.csv: code_distance"
        )
        header = ["images", "mean", "spread (σ)"]
        section.tables.append(Table(header, rows, source, "Squared distance of descriptors to their code"))
    for part, shown_together in charts.items():
        section.charts.append(
            distribution_chart(shown_together, f"Squared distance to the code, {part} images", of)
        )


def _add_search_times(section: Section, series: Series) -> None:
    rows: list[list[Cell]] = []
    timed = {label: results.search for label, results in series.items() if results.search is not None}
    measure = MEASURES["ms_per_query"]
    for label, search in timed.items():
        for position, row in enumerate(search.to_dict("records")):
            probes = "–" if pd.isna(row["nprobe"]) else f"{row['nprobe']:g}"
            key = f"{label}|{measure.file}|{position}|"
            time = Number(row[measure.key], measure, key + measure.key)
            k, count = (Number(row[name], key=key + name) for name in ("k", "queries"))
            rows.append([f"{label}, {probes}" if len(timed) > 1 else probes, k, time, count])
    if rows:
        header = ["nprobe", "k", measure.name, "queries"]
        source = f"{measure.file}: nprobe, k, {measure.key}, queries"
        section.tables.append(Table(header, rows, source, "Search time"))


def numbers_section(series: Series) -> Section:
    """Every summary number of every series with its source."""
    table = replace(measure_table(series, sources=True), title="")
    return Section("All numbers", "Each with the csv columns it is computed from.", tables=[table])
