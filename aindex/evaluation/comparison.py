"""Finished runs side by side: tables as Markdown, LaTeX and csv, one figure, one page."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from aindex.data.atomic import replace_when_done
from aindex.errors import ConfigError, OutputError
from aindex.evaluation.cost_section import cost_points, risks
from aindex.evaluation.examples import Example, read_examples
from aindex.evaluation.figures import (
    comparison_figure,
    cost_figure,
    curve_families,
    figure_bytes,
    recall_curves_figure,
)
from aindex.evaluation.html_report import PASSIVE, Card, Fact, facts, picture, render, write_html
from aindex.evaluation.intervals import wilson
from aindex.evaluation.retrieval import SHARES, retrieval_table
from aindex.evaluation.run_files import ASSETS_FOLDER, REPORT_FILE, Results, Run, read_run, write_csv
from aindex.evaluation.sections import counts_of, curves_of, recalls_of
from aindex.evaluation.setting_differences import differing_settings, settings_section, warnings_of
from aindex.evaluation.summary import measures
from aindex.evaluation.text_tables import attack_tables, latex, markdown, markdown_text, measure_table

MARKDOWN_FILE = "compare.md"
LATEX_FILE = "compare.tex"
NUMBERS_FILE = "compare.csv"
CURVES = "curves"
RECALL_CURVES = "recall_curves"
COST = "cost"
BEST_TEXT = (
    "Bold: the best of a row, where its 95 % interval lies beyond those of all others: Wilson's (in brackets) for "
    "shares, the standard error's for means; AP and µAP have none here.\n"
)
_NO_SHARE = (None, None, None)
_OWN_FILES = (MARKDOWN_FILE, LATEX_FILE, NUMBERS_FILE, f"{CURVES}.png", REPORT_FILE)


def compare(
    runs: Sequence[Path | str], output: Path | str, *, overwrite: bool = False, examples: int = 12
) -> Path:
    """Set finished runs side by side.

    Writes `compare.md`, `compare.tex`, `compare.csv` (every number: series, table, row, column, value, of shares n and
    the 95 % interval), `curves.png` and `.pdf` (with `recall_curves` beside them where attacks ran with many
    parameters, and `cost`, R@1 against rows scanned per query, where runs say it), and `report.html`. Passive results
    that several runs share are shown once. Settings that differ are listed; runs over other pictures or attacks are
    warned of.

    Args:
        runs: folders of finished runs.
        output: a folder, made where it is missing.
        overwrite: replace an earlier comparison there.
        examples: how many example images, that all runs with examples share, to show.

    Returns:
        The path of the report.

    Raises:
        ConfigError: no run is given.
        DataError: a folder is not one of a finished run.
        OutputError: an earlier comparison lies there, or a file cannot be written.
    """
    output = Path(output)
    if not runs:
        raise ConfigError("0 runs to compare: expected at least one folder of a finished run")
    present = [name for name in _OWN_FILES if (output / name).exists()]
    if present and not overwrite:
        raise OutputError(f"{output}: {present[0]} lies there already; give another folder or set overwrite")
    read = _labelled([read_run(folder) for folder in runs])
    series = comparison_series(read)
    settings, warned = differing_settings(read), warnings_of(read)
    for line in warned:
        warnings.warn(line, stacklevel=2)
    tables = [*attack_tables(series), measure_table(series), *([settings] if settings else [])]
    lines = [f"**Warning:** {markdown_text(line)}.\n" for line in warned]
    _write(output / MARKDOWN_FILE, "\n".join([*lines, *(markdown(table) for table in tables), BEST_TEXT]))
    _write(output / LATEX_FILE, "\n".join(latex(table) for table in tables))
    write_csv(comparison_numbers(series), output / NUMBERS_FILE)
    for name, content in _figures(series).items():
        with replace_when_done(output / name) as temporary:
            temporary.write_bytes(content)
    html = render(
        title=" · ".join(read),
        kind=f"comparison of {len(read)} runs" if len(read) > 1 else "one run",
        series=series,
        facts=[Fact("runs", str(len(read))), *_shared_facts(read)],
        first=[section for section in (settings_section(read),) if section.tables or section.text],
        cards=_cards(read, examples),
        cards_text="The released image of each run and its change, amplified around grey.",
        configs=[(label, run.config) for label, run in read.items() if run.config],
    )
    return write_html(html, output / REPORT_FILE)


def _shared_facts(runs: Mapping[str, Run]) -> list[Fact]:
    """What the headers of all runs say alike."""
    known = [facts(run) for run in runs.values()]
    return [fact for fact in known[0] if all(fact in others for others in known[1:])]


def _figures(series: Mapping[str, Results]) -> dict[str, bytes]:
    """The contents of the figure files; a figure per file, as saving one changes its layout."""
    kinds: tuple[Literal["png", "pdf"], ...] = ("png", "pdf")
    files = {
        f"{CURVES}.{kind}": figure_bytes(
            comparison_figure(recalls_of(series), curves_of(series), counts_of(series)), kind
        )
        for kind in kinds
    }
    if any(curve_families(results.retrieval) for results in series.values()):
        rows = {label: results.retrieval for label, results in series.items()}
        files |= {f"{RECALL_CURVES}.{kind}": figure_bytes(recall_curves_figure(rows), kind) for kind in kinds}
    if points := cost_points(series):
        files |= {f"{COST}.{kind}": figure_bytes(cost_figure(points), kind) for kind in kinds}
    return files


def _write(path: Path, text: str) -> None:
    with replace_when_done(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def _labelled(runs: Sequence[Run]) -> dict[str, Run]:
    """Runs by the names of their folders; by parent and name where names meet, numbered where those do."""
    short = Counter(run.label for run in runs)
    labelled: dict[str, Run] = {}
    for run in runs:
        label = run.label if short[run.label] == 1 else f"{run.folder.resolve().parent.name}/{run.label}"
        unique, number = label, 2
        while unique in labelled:
            unique, number = f"{label} ({number})", number + 1
        labelled[unique] = run
    return labelled


def comparison_series(runs: Mapping[str, Run]) -> dict[str, Results]:
    """The results to compare: passive ones, each once, then those of the runs."""
    passive: dict[str, Results] = {}
    for label, run in runs.items():
        if run.passive is not None and not any(
            _same(run.passive.retrieval, known.retrieval) for known in passive.values()
        ):
            passive[f"{label} {PASSIVE}"] = run.passive
    if len(passive) == 1 and PASSIVE not in runs:
        passive = {PASSIVE: next(iter(passive.values()))}
    return {**passive, **{label: run.results for label, run in runs.items()}}


def _same(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether the same copies got the same ranks, whatever the order of the rows."""
    columns = ["image_index", "attack", "attack_param", "rank"]
    a, b = (rows[columns].sort_values(columns[:3]).reset_index(drop=True) for rows in (one, other))
    return a.equals(b)


def comparison_numbers(series: Mapping[str, Results]) -> pd.DataFrame:
    """Every number of a comparison: `series`, `table`, `row`, `column`, `value`; of shares `n`, `low` and `high`."""
    numbers: list[tuple[object, ...]] = []
    for label, results in series.items():
        for row in retrieval_table(results.retrieval).to_dict("records"):
            for column in ("images", "r@1", "r@10", "r@100", "ap"):
                if not pd.isna(row[column]):
                    value, n = float(row[column]), row["images"]
                    more = (n, *wilson(value, n)) if column in SHARES else _NO_SHARE
                    numbers.append((label, "retrieval", row["attack"], column, value, *more))
        for measure in measures(results):
            more = (measure.n, *measure.interval) if measure.interval is not None else _NO_SHARE
            numbers.append((label, "measures", measure.key, "value", measure.value, *more))
    for label, risk in risks(series).items():
        for share, n in (("false_positives", risk["strangers"]), ("found", risk["copies"])):
            if not pd.isna(risk[share]):
                numbers.append((label, "at_limit", share, "value", risk[share], n, *wilson(risk[share], n)))
    return pd.DataFrame(numbers, columns=["series", "table", "row", "column", "value", "n", "low", "high"])


def _cards(runs: Mapping[str, Run], count: int) -> list[Card]:
    """Example images that every run with examples has, with each run's released picture and its change."""
    stored: dict[str, dict[str, Example]] = {}
    for label, run in runs.items():
        examples = {example.name: example for example in read_examples(run.folder / ASSETS_FOLDER)}
        if examples:
            stored[label] = examples
    if not stored:
        return []
    first = next(iter(stored.values()))
    shared = [name for name in first if all(name in examples for examples in stored.values())]
    return [
        Card(
            name,
            [
                picture(first[name].original, "original"),
                *(
                    shown
                    for label, examples in stored.items()
                    for shown in (
                        picture(examples[name].released, label),
                        picture(
                            examples[name].difference,
                            f"{label}, difference × {examples[name].amplification:g}",
                        ),
                    )
                ),
            ],
        )
        for name in shared[: max(count, 0)]
    ]
