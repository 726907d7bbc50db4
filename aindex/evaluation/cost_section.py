"""The section on costs and risks: rows scanned, bytes per picture, false positives at one threshold."""

from typing import Any

from aindex.evaluation import figures
from aindex.evaluation.blocks import Chart, Section
from aindex.evaluation.copy_detection import at_limit, closeness_limit
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
    section = Section("What it costs and risks", _TEXT + (_RISK if risk else ""))
    if not points:
        return section
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
        caption = "R@1 against rows scanned per query, 95 % intervals; numbers: rows per evaluated picture"
        seen = "; ".join(
            f"{label} {known['r@1'].text} at {known['scanned_rows'].value:.0f} rows"
            for label, known in points.items()
        )
        alt = f"R@1 against rows scanned per query: {seen}."
        section.charts.append(Chart(figures.svg_data_uri(figures.cost_figure(points)), caption, alt))
    return section
