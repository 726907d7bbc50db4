"""The part of a report about the inside of the index: cells, distances to codes, search time."""

import pandas as pd

from aindex.evaluation import figures
from aindex.evaluation.analyses import code_distance_summary, code_distances
from aindex.evaluation.blocks import AttackColumn, Cell, Chart, Section, Table, count_columns, number
from aindex.evaluation.findings import distribution_chart, finding
from aindex.evaluation.run_files import QUERIES_FILE
from aindex.evaluation.sections import (
    MOST_SERIES_OF_ONE_TABLE,
    Series,
    attack_tables,
    query_tables,
    without_curves,
)


def index_section(series: Series) -> Section:
    """Coarse cells, distances to codes, search time."""
    section = Section(
        "Inside the index",
        "A copy can be found when it stays in its original's coarse cell; its code is the better, the nearer it "
        "lies to the descriptor. Distances are squared.",
    )
    tables = query_tables(series)
    columns = [
        AttackColumn(
            group,
            label,
            table[name],
            QUERIES_FILE,
            name,
            decimals=decimals,
            n=table["images"] if name == "same_cell" else None,
        )
        for name, group, decimals in (
            ("same_cell", "share in the same cell", 3),
            ("code_distance", "distance to its own code", 4),
            ("stored_distance", "distance to what is stored", 4),
            ("scanned_rows", "rows scanned", 1),
        )
        for label, table in tables.items()
        if table[name].notna().any()
    ]
    cells = {
        column.series: without_curves(column.values, series[column.series].retrieval)
        for column in columns
        if column.column == "same_cell"
    }
    counts = {label: table["images"] for label, table in tables.items()}
    if cells:
        what = "share of copies in their original's cell"
        chart = figures.dots_figure(cells, xlabel=what, n=counts)
        caption = "Copies in their original's coarse cell, with 95 % intervals"
        section.charts.append(Chart(figures.svg_data_uri(chart), caption, finding(what.capitalize(), cells)))
    if columns:
        section.tables.extend(attack_tables(columns, count_columns(counts, QUERIES_FILE)))
    _add_code_distances(section, series)
    _add_search_times(section, series)
    return section


def _add_code_distances(section: Section, series: Series) -> None:
    rows: list[list[Cell]] = []
    charts: dict[str, dict[str, pd.Series[float]]] = {}
    of: dict[str, str] = {}
    known = {label: code_distances(r.images, r.queries) for label, r in series.items()}
    for label, distances in known.items():
        summary = code_distance_summary(series[label].images, series[label].queries)
        for row in summary.to_dict("records"):
            part = str(row["descriptors"])
            several = sum(part in other for other in known.values()) > 1
            name = f"{part}, {label}" if several else part
            key = f"{label}|code_distance|{part}|"
            rows.append([name, number(row["mean"], 4, key + "mean"), number(row["std"], 4, key + "std")])
            # all in one chart for one run; for several, a chart for each kind of image
            chart = part if len(series) > MOST_SERIES_OF_ONE_TABLE else "all"
            shown = label if chart == part else name
            charts.setdefault(chart, {})[shown] = distances[part]
            # what an original gives is passive, whichever run has measured it
            of[shown] = figures.PASSIVE if part == "original" and chart == "all" else label
    if rows:
        source = (
            "images_df.csv: code_distance_original, code_distance_released; queries_df.csv: code_distance"
        )
        header = ["images", "mean", "spread (σ)"]
        section.tables.append(Table(header, rows, source, "Squared distance of descriptors to their code"))
    for part, values in charts.items():
        section.charts.append(distribution_chart(values, f"Squared distance to the code, {part} images", of))


def _add_search_times(section: Section, series: Series) -> None:
    rows: list[list[Cell]] = []
    for label, results in series.items():
        if results.search is None:
            continue
        several = sum(other.search is not None for other in series.values()) > 1
        for position, row in enumerate(results.search.to_dict("records")):
            probes = "–" if pd.isna(row["nprobe"]) else f"{row['nprobe']:g}"
            time = number(row["ms_per_query"], 3, f"{label}|search_df.csv|{position}|ms_per_query")
            count = number(row["queries"], 0, f"{label}|search_df.csv|{position}|queries")
            k = number(row["k"], 0, f"{label}|search_df.csv|{position}|k")
            rows.append([f"{label}, {probes}" if several else probes, k, time, count])
    if rows:
        header = ["nprobe", "k", "ms per query", "queries"]
        source = "search_df.csv: nprobe, k, ms_per_query, queries"
        section.tables.append(Table(header, rows, source, "Search time"))
