"""The parts of a report as tables and charts, over any number of named results."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from aindex.evaluation import figures
from aindex.evaluation.analyses import (
    image_summary,
    query_table,
    worst_images,
)
from aindex.evaluation.blocks import (
    AttackColumn,
    Cell,
    Chart,
    Section,
    Table,
    attack_table,
    count_columns,
    measure_cell,
    number,
)
from aindex.evaluation.copy_detection import (
    PrecisionRecallCurve,
    Score,
    copy_detection_table,
    pairs_of_rows,
    precision_recall_curve,
)
from aindex.evaluation.findings import distribution_chart, finding
from aindex.evaluation.retrieval import (
    SHARES,
    attack_labels,
    known_measures,
    retrieval_table,
)
from aindex.evaluation.run_files import QUERIES_FILE, RETRIEVAL_FILE, Results
from aindex.evaluation.summary import measures

Series = Mapping[str, Results]
MOST_SERIES_OF_ONE_TABLE = 2


def retrieval_section(series: Series) -> Section:
    """R@1 per attack as a chart and with the other measures as tables."""
    text = (
        "Share of copies whose original is the first answer of the index (R@1), among the first ten or hundred, and "
        "the mean of 1/(rank+1) (AP). The average is over the attacks, the unedited picture (none) among them. Small "
        "numbers are 95 % intervals (Wilson) for n copies. "
    )
    tables = {label: retrieval_table(r.retrieval).set_index("attack") for label, r in series.items()}
    measures_known = {name for table in tables.values() for name in known_measures(table)}
    columns = [
        AttackColumn(
            name,
            label,
            table[measure],
            RETRIEVAL_FILE,
            measure,
            n=table["images"] if measure in SHARES else None,
        )
        for measure, name in (("r@1", "R@1"), ("r@10", "R@10"), ("r@100", "R@100"), ("ap", "AP"))
        if measure in measures_known
        for label, table in tables.items()
    ]
    exhaustive = [
        AttackColumn(
            "R@1, exhaustive",
            label,
            values,
            QUERIES_FILE,
            "exhaustive_r@1",
            "exhaustive_rank",
            n=table["images"],
        )
        for label, table in query_tables(series).items()
        if (values := table["exhaustive_r@1"]).notna().any()
    ]
    if exhaustive:
        text += "Exhaustive is what a search without any approximation reaches on the same copies."
    elif any(results.queries is not None for results in series.values()):
        text += (
            "What an exhaustive search reaches is not known: it was not asked for, or the index came without its "
            "rows' descriptors."
        )
    section = Section("Retrieval", text)
    # whose ceiling a tick shows is clear for one run only
    ceiling = exhaustive[-1].values if exhaustive and len(series) <= MOST_SERIES_OF_ONE_TABLE else None
    recalls = recalls_of(series)
    chart = figures.dots_figure(recalls, xlabel="R@1", n=counts_of(series), ceiling=ceiling)
    caption = "R@1 per attack, with 95 % intervals"
    section.charts.append(Chart(figures.svg_data_uri(chart), caption, finding("R@1", recalls)))
    if any(figures.curve_families(results.retrieval) for results in series.values()):
        curves = figures.recall_curves_figure({label: results.retrieval for label, results in series.items()})
        section.charts.append(Chart(figures.svg_data_uri(curves), "R@1 against the attack's parameter"))
    counts = count_columns({label: table["images"] for label, table in tables.items()}, RETRIEVAL_FILE)
    ordered = [*columns[: len(tables)], *exhaustive, *columns[len(tables) :]]
    section.tables.extend(attack_tables(ordered, counts))
    return section


def attack_tables(columns: Sequence[AttackColumn], counts: Sequence[AttackColumn] = ()) -> list[Table]:
    """One table, or one per group of columns where more than two series would make it too wide."""
    groups = list(dict.fromkeys(column.group for column in columns))
    if len(columns) <= MOST_SERIES_OF_ONE_TABLE * len(groups):
        return [attack_table([*counts, *columns])]
    return [
        attack_table([*counts, *(column for column in columns if column.group == group)]) for group in groups
    ]


def without_curves(values: "pd.Series[Any]", retrieval: pd.DataFrame) -> "pd.Series[Any]":
    """Values per attack without the attacks that are drawn against their parameter."""
    drawn = retrieval["attack"].isin(figures.curve_families(retrieval))
    return values.drop(labels=attack_labels(retrieval[drawn]).unique(), errors="ignore")


def recalls_of(series: Series) -> dict[str, "pd.Series[Any]"]:
    """R@1 per attack of each series, for a chart."""
    return {
        label: without_curves(retrieval_table(r.retrieval).set_index("attack")["r@1"], r.retrieval)
        for label, r in series.items()
    }


def counts_of(series: Series) -> dict[str, "pd.Series[Any]"]:
    """How many copies each of these values is the share of."""
    return {label: retrieval_table(r.retrieval).set_index("attack")["images"] for label, r in series.items()}


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
            key = f"{label}|icd_df.csv|{row['score']}|"
            values = [
                number(row["uap"], 3, f"{key}uap"),
                number(row["recall_at_p90"], 3, f"{key}recall_at_p90", n=row["true_pairs"]),
            ]
            counts = [number(row[name], 0, key + name) for name in ("queries", "true_pairs")]
            rows.append([f"{label}, {row['score']}", *values, *counts])
    header = ["score", "µAP", "recall at 90 % precision", "queries", "true pairs"]
    source = "icd_df.csv: image_index, retrieved_distances, retrieved_indices"
    section.tables.append(Table(header, rows, source))
    chart = figures.precision_recall_figure(curves)
    caption = "Precision against recall; the dot is the recall at 90 % precision"
    said = ", ".join(f"{row[0]} {_text(row[1])} and {_text(row[2])}" for row in rows)
    alt = f"Precision against recall; µAP and recall at 90 % precision: {said}."
    section.charts.append(Chart(figures.svg_data_uri(chart), caption, alt))
    return section


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell.text


def quality_section(series: Series) -> Section:
    """How far the released images are from their originals."""
    section = Section("Released images", "The change between each original and its released image.")
    names = {"psnr_db": ("PSNR (dB)", 2), "ssim": ("SSIM", 4), "linf": ("L∞ (grey levels)", 1)}
    rows: list[list[Cell]] = []
    changed: dict[str, pd.DataFrame] = {}
    for label, results in series.items():
        if results.images is None:
            continue
        summary = image_summary(results.images).to_dict("records")
        for row in summary:
            name, decimals = names[str(row["measure"])]
            key = f"{label}|images_df.csv|{row['measure']}|"
            cells = [number(row[part], decimals, key + part) for part in ("mean", "std", "worst")]
            unchanged = number(row["unchanged"], 0, key + "unchanged")
            rows.append([_named(name, label, series), *cells, row["worst_name"], unchanged])
        if summary and summary[0]["unchanged"] < len(results.images):
            changed[label] = results.images
    if rows:
        header = ["measure", "mean", "spread (σ)", "worst", "worst image", "unchanged images"]
        section.tables.append(Table(header, rows, "images_df.csv: name, psnr_db, ssim, linf"))
    for label, images in changed.items():
        section.tables.append(
            _worst_table(label, images, title=_named("The ten most changed", label, series))
        )
    for column, (name, _) in names.items():
        values = {label: i[column] for label, i in changed.items() if i[column].notna().any()}
        if values:
            section.charts.append(distribution_chart(values, name))
    return section


def _named(name: str, label: str, series: Series) -> str:
    """A row's name, with the series where several have images."""
    several = sum(results.images is not None for results in series.values()) > 1
    return f"{name}, {label}" if several else name


def _worst_table(label: str, images: pd.DataFrame, *, title: str) -> Table:
    rows: list[list[Cell]] = []
    for place, row in enumerate(worst_images(images).to_dict("records")):
        key = f"{label}|images_df.csv|worst {place}|"
        values = [(c, number(row[c], d, key + c)) for c, d in (("psnr_db", 2), ("ssim", 4), ("linf", 1))]
        rows.append([str(row["name"]), *(cell for _, cell in values)])
    header = ["image", "PSNR (dB)", "SSIM", "L∞"]
    return Table(header, rows, "images_df.csv: name, psnr_db, ssim, linf", title)


def query_tables(series: Series) -> dict[str, pd.DataFrame]:
    """`query_table` of every result that has such rows, by the attack's label."""
    return {
        label: query_table(results.queries).set_index("attack")
        for label, results in series.items()
        if results.queries is not None
    }


def numbers_section(series: Series) -> Section:
    """Every summary number of every series with its source."""
    known = {label: {m.key: m for m in measures(results)} for label, results in series.items()}
    rows: list[list[Cell]] = []
    for key in dict.fromkeys(key for found in known.values() for key in found):
        cells: list[Cell] = [measure_cell(found.get(key), label) for label, found in known.items()]
        any_of = next(found[key] for found in known.values() if key in found)
        rows.append([any_of.label, *cells, any_of.source])
    table = Table(["measure", *known, "csv columns"], rows, "")
    return Section("All numbers", "Each with the csv columns it is computed from.", tables=[table])
