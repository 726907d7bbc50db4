"""The section on costs and risks: rows scanned, bytes per picture, false positives at one threshold."""

from typing import Any

from aindex.evaluation import figures
from aindex.evaluation.blocks import Chart, Section
from aindex.evaluation.copy_detection import at_limit, closeness_limit
from aindex.evaluation.intervals import wilson
from aindex.evaluation.measures import MEASURES, UNKNOWN, Cell, Number
from aindex.evaluation.summary import Series, summaries
from aindex.evaluation.table import Table

_COLUMNS = ("r@1", "rows_per_picture", "scanned_rows", "bytes_per_picture", "uap_plain")
_AT_LIMIT = {"false_positives": "strangers", "found": "copies"}
_TEXT = (
    "Rows scanned are those in the cells that a search visits; bytes are codes, ids and numbers of rows in memory, for "
    "all pictures of the index together."
)
_RISK = (
    " The threshold is one for all series with the same extractor and metric: at most 1 % of the queries that match "
    "nothing are taken for matches by it in the first of them."
)


def limits(series: Series) -> dict[str, float]:
    """The threshold of each series: that of the first one with the same extractor and metric."""
    first: dict[tuple[Any, ...], float] = {}
    found = {}
    for label, results in series.items():
        if results.copy_detection is None:
            continue
        index = () if results.index is None else tuple(results.index[["extractor", "metric"]].iloc[0])
        limit = first.get(index, closeness_limit(results.copy_detection, metric=results.metric))
        if limit is not None:
            found[label] = first.setdefault(index, limit)
    return found


def risks(series: Series) -> dict[str, list[Number]]:
    """Per series the shares of false positives and of copies found at its threshold (see `at_limit`)."""
    found = {}
    for label, limit in limits(series).items():
        rows = series[label].copy_detection
        assert rows is not None
        known = at_limit(rows, limit, metric=series[label].metric)
        found[label] = [
            Number(known[share], MEASURES[share], f"{label}|icd_df.csv|{share}|at_limit", known[of])
            for share, of in _AT_LIMIT.items()
        ]
    return found


def cost_points(series: Series) -> dict[str, "figures.CostPoint"]:
    """Per series R@1 and the rows scanned, where both are known."""
    return {
        label: figures.CostPoint(
            known["scanned_rows"].value,
            known["r@1"].value,
            wilson(known["r@1"].value, known["r@1"].n or 0),
            known.get("rows_per_picture", UNKNOWN).value,
        )
        for label, known in summaries(series).items()
        if "scanned_rows" in known
    }


def cost_section(series: Series) -> Section:
    """R@1 against rows scanned, and a table of costs and risks."""
    section = Section("What it costs and risks", _TEXT)
    points = cost_points(series)
    if not points:
        return section
    risk = risks(series)
    rows: list[list[Cell]] = [
        [
            label,
            *(known.get(key, UNKNOWN) for key in _COLUMNS),
            *(risk.get(label, [UNKNOWN] * 2) if risk else []),
        ]
        for label, known in summaries(series).items()
    ]
    names = [MEASURES[key].name for key in (*_COLUMNS, *(_AT_LIMIT if risk else ()))]
    source = "retr_df.csv: r@1; queries_df.csv: scanned_rows; index_df.csv; icd_df.csv"
    section.tables.append(Table(["", *names], rows, source))
    if len(points) > 1:
        chart = figures.svg_data_uri(figures.cost_figure(points))
        alt = "; ".join(f"{label} {p.recall:.3f} at {p.scanned_rows:.0f} rows" for label, p in points.items())
        caption = "R@1 against rows scanned per query, 95 % intervals; numbers: rows per evaluated picture"
        section.charts.append(Chart(chart, caption, f"R@1 against rows scanned per query: {alt}."))
    return Section(section.title, _TEXT + (_RISK if risk else ""), section.charts, section.tables)
