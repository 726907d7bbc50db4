"""What finding costs and what it risks: rows scanned, bytes per picture, false positives at one threshold."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aindex.evaluation import figures
from aindex.evaluation.blocks import UNKNOWN, Cell, Chart, Section, Table, measure_cell, number
from aindex.evaluation.copy_detection import at_limit, closeness_limit
from aindex.evaluation.run_files import Results
from aindex.evaluation.summary import Measure, measures

_HEADERS = {
    "r@1": "R@1",
    "rows_per_picture": "rows per evaluated picture",
    "scanned_rows": "rows scanned per query",
    "bytes_per_picture": "bytes per picture",
    "uap_plain": "µAP",
}
_TEXT = (
    "Rows scanned are those in the cells that a search visits; bytes are codes, ids and numbers of rows in memory, for "
    "all pictures of the index together."
)
_RISK = (
    " The threshold is one for all series with the same extractor and metric: at most 1 % of the queries that match "
    "nothing are taken for matches by it in the first of them."
)


@dataclass(frozen=True)
class Limit:
    """A threshold that several series share.

    Attributes:
        value: closeness beyond which a candidate counts.
        series: whose 1 % it is.
    """

    value: float
    series: str


def limits(series: Mapping[str, Results]) -> dict[str, Limit]:
    """By series the threshold: that of the first with the same extractor and metric, where distances mean the same."""
    first: dict[tuple[Any, ...], Limit] = {}
    found = {}
    for label, results in series.items():
        if results.copy_detection is None:
            continue
        known = () if results.index is None else tuple(results.index[["extractor", "metric"]].iloc[0])
        if known not in first:
            value = closeness_limit(results.copy_detection, metric=results.metric)
            if value is None:
                continue
            first[known] = Limit(value, label)
        found[label] = first[known]
    return found


def risks(series: Mapping[str, Results]) -> dict[str, dict[str, float]]:
    """By series what its threshold does: see `at_limit`."""
    return {
        label: at_limit(rows, limit.value, metric=series[label].metric)
        for label, limit in limits(series).items()
        if (rows := series[label].copy_detection) is not None
    }


def cost_points(series: Mapping[str, Results]) -> dict[str, "figures.CostPoint"]:
    """By series R@1 and the rows scanned for it, where both are known."""
    points = {}
    for label, known in _known(series).items():
        found, scanned = known["r@1"], known.get("scanned_rows")
        if scanned is not None and found.interval is not None:
            rows = known["rows_per_picture"].value if "rows_per_picture" in known else float("nan")
            points[label] = figures.CostPoint(scanned.value, found.value, found.interval, rows)
    return points


def cost_section(series: Mapping[str, Results]) -> Section:
    """R@1 against rows scanned, and a table of costs and risks."""
    section = Section("What it costs and risks", _TEXT)
    points = cost_points(series)
    if not points:
        return section
    risk = risks(series)
    rows: list[list[Cell]] = []
    for label, known in _known(series).items():
        cells: list[Cell] = [measure_cell(known.get(key), label) for key in _HEADERS]
        for share, count in (("false_positives", "strangers"), ("found", "copies")) if risk else ():
            if label in risk:
                key = f"{label}|icd_df.csv|{share}|at_limit"
                cells.append(number(risk[label][share], 3, key, n=risk[label][count]))
            else:
                cells.append(UNKNOWN)
        rows.append([label, *cells])
    header = ["", *_HEADERS.values(), *(["false positives", "found, at that threshold"] if risk else [])]
    source = "retr_df.csv: r@1; queries_df.csv: scanned_rows; index_df.csv; icd_df.csv"
    section.tables.append(Table(header, rows, source))
    if len(points) > 1:
        chart = figures.svg_data_uri(figures.cost_figure(points))
        alt = "; ".join(f"{label} {p.recall:.3f} at {p.scanned_rows:.0f} rows" for label, p in points.items())
        caption = "R@1 against rows scanned per query, 95 % intervals; numbers: rows per evaluated picture"
        section.charts.append(Chart(chart, caption, f"R@1 against rows scanned per query: {alt}."))
    return Section(section.title, _TEXT + (_RISK if risk else ""), section.charts, section.tables)


def _known(series: Mapping[str, Results]) -> dict[str, dict[str, Measure]]:
    return {label: {one.key: one for one in measures(results)} for label, results in series.items()}
