"""The part of a report about the inside of the index: cells, distances to codes, search time."""

import numpy as np
import pandas as pd

from aindex.evaluation import figures
from aindex.evaluation.analyses import code_distances
from aindex.evaluation.blocks import Chart, Section
from aindex.evaluation.findings import distribution_chart, finding
from aindex.evaluation.measures import MEASURES, QUERIES_FILE, Cell, Number, measures_of
from aindex.evaluation.sections import MOST_SERIES_OF_ONE_TABLE, attack_tables, counts_of, values_of
from aindex.evaluation.summary import Series, mean_number
from aindex.evaluation.table import Table


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
