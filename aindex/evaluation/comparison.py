"""Finished runs side by side: tables as Markdown, LaTeX and csv, one figure, one page."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import pandas as pd

from aindex.data.atomic import replace_when_done
from aindex.errors import ConfigError, OutputError
from aindex.evaluation import figures, sections
from aindex.evaluation.blocks import Section, attack_table
from aindex.evaluation.examples import read_examples
from aindex.evaluation.html_report import PASSIVE, Card, Page, facts, picture
from aindex.evaluation.measures import COUNT, RETRIEVAL_FILE, Number, measures_of
from aindex.evaluation.run_files import REPORT_FILE, Results, Run, read_run, write_csv, write_text
from aindex.evaluation.setting_differences import differing_settings, warnings_of
from aindex.evaluation.summary import Series, attack_number, measure_table, summary
from aindex.evaluation.table import Table, latex, markdown, markdown_text

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
_OWN_FILES = (MARKDOWN_FILE, LATEX_FILE, NUMBERS_FILE, f"{CURVES}.png", REPORT_FILE)


def compare(
    runs: Sequence[Path | str], output_dir: Path | str, *, examples: int = 12, overwrite: bool = False
) -> Path:
    """Set finished runs side by side: tables as Markdown and LaTeX, curves in one figure, one page.

    Writes `compare.md`, `compare.tex`, `compare.csv` (every number: series, table, row, column, value, of shares n and
    the 95 % interval), `curves.png` and `.pdf` (with `recall_curves` beside them where edits ran with many
    parameters, and `cost`, R@1 against rows scanned per query, where runs say it), and `report.html`. Passive results
    that several runs share are shown once. Settings that differ are listed; runs over other pictures or edits are
    warned of.

    Args:
        runs: folders of finished runs (output_dir of fit or evaluate).
        output_dir: where compare.md, compare.tex, compare.csv, curves.png, curves.pdf and report.html go.
        examples: number of images to show, of those that all runs show.
        overwrite: replace an earlier comparison in output_dir.

    Returns:
        The path of the report.

    Raises:
        ConfigError: no run is given, or fewer examples than none.
        DataError: a folder is not one of a finished run.
        OutputError: an earlier comparison lies there, or a file cannot be written.
    """
    if examples < 0:
        raise ConfigError(f"examples {examples}: expected 0 or more; the default is 12")
    output = Path(output_dir)
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
    tables = [*_attack_tables(series), measure_table(series), *([settings] if settings else [])]
    lines = [f"**Warning:** {markdown_text(line)}.\n" for line in warned]
    write_text("\n".join([*lines, *map(markdown, tables), BEST_TEXT]), output / MARKDOWN_FILE)
    write_text("\n".join(map(latex, tables)), output / LATEX_FILE)
    write_csv(comparison_numbers(series), output / NUMBERS_FILE)
    for name, content in _figures(series).items():
        with replace_when_done(output / name) as temporary:
            temporary.write_bytes(content)
    differing = Section(
        "Settings that differ",
        " ".join(f"Warning: {line}." for line in warned),
        tables=[replace(settings, title="")] if settings else [],
    )
    page = Page(
        title=" · ".join(read),
        kind=f"comparison of {len(read)} runs" if len(read) > 1 else "one run",
        facts={"runs": str(len(read)), **_shared_facts(read)},
        sections=[*([differing] if settings or warned else []), *sections.report_sections(series)],
        numbers=sections.numbers_section(series),
        cards=_cards(read, examples),
        cards_text="The released image of each run and its change, amplified around grey.",
        configs=[(label, run.config) for label, run in read.items() if run.config],
    )
    write_text(page.html(), output / REPORT_FILE)
    return output / REPORT_FILE


def _attack_tables(series: Series) -> list[Table]:
    """How many copies there are per edit, then a table for each measure that a series knows."""
    means = {label: results.means for label, results in series.items()}
    measures = [m for m in measures_of(RETRIEVAL_FILE) if any(m.key in table for table in means.values())]
    counts = attack_table(means, [COUNT], title="Copies per edit (n)")
    return [counts, *(attack_table(means, [m], title=f"{m.name} per edit") for m in measures)]


def _shared_facts(runs: Mapping[str, Run]) -> dict[str, str]:
    """What the headers of all runs say alike."""
    first, *others = (facts(run) for run in runs.values())
    return {name: text for name, text in first.items() if all(one.get(name) == text for one in others)}


def _figures(series: Series) -> dict[str, bytes]:
    """The contents of the figure files; each is drawn anew, as saving changes a layout."""
    retrievals = {label: results.retrieval for label, results in series.items()}
    recalls, curves = sections.values_of(series, "r@1"), sections.curves_of(series)
    points = sections.cost_points(series)
    draw = {CURVES: partial(figures.comparison_figure, recalls, curves, sections.counts_of(series))}
    if any(figures.curve_families(rows) for rows in retrievals.values()):
        draw[RECALL_CURVES] = partial(figures.recall_curves_figure, retrievals)
    if points:
        draw[COST] = partial(figures.cost_figure, points)
    kinds: tuple[Literal["png", "pdf"], ...] = ("png", "pdf")
    return {f"{name}.{kind}": figures.figure_bytes(draw[name](), kind) for name in draw for kind in kinds}


def _labelled(runs: Sequence[Run]) -> dict[str, Run]:
    """Runs by the names of their folders, with the parent folder and a number where names are equal."""
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
    """The results to compare: passive ones, equal ones once, then those of the runs."""
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


def comparison_numbers(series: Series) -> pd.DataFrame:
    """Every number of a comparison: `series`, `table`, `row`, `column`, `value`; of shares `n`, `low` and `high`."""
    rows: list[tuple[object, ...]] = []

    def add(label: str, table: str, row: object, column: str, number: Number) -> None:
        if not pd.isna(number.value):
            more = (None, None, None) if number.interval is None else (number.n, *number.interval)
            rows.append((label, table, row, column, number.value, *more))

    risk = sections.risks(series)
    for label, results in series.items():
        means = results.means
        for attack in means.index:
            for measure in (COUNT, *measures_of(RETRIEVAL_FILE)):
                add(label, "retrieval", attack, measure.key, attack_number(means, attack, measure))
        for key, number in summary(results).items():
            add(label, "measures", key, "value", number)
        for number in risk.get(label, ()):
            add(label, "at_limit", number.measure.key, "value", number)
    return pd.DataFrame(rows, columns=["series", "table", "row", "column", "value", "n", "low", "high"])


def _cards(runs: Mapping[str, Run], count: int) -> list[Card]:
    """Example images that every run with examples has, with each run's released picture and its change."""
    stored = {
        label: {example.name: example for example in read_examples(run.assets)} for label, run in runs.items()
    }
    stored = {label: examples for label, examples in stored.items() if examples}
    if not stored:
        return []
    first, *others = stored.values()
    shared = [name for name in first if all(name in examples for examples in others)]
    cards = []
    for name in shared[: max(count, 0)]:
        pictures = [picture(first[name].pictures["original"], "original")]
        for label, examples in stored.items():
            example = examples[name]
            pictures.append(picture(example.pictures["released"], label))
            pictures.append(
                picture(example.pictures["difference"], f"{label}, {example.caption('difference')}")
            )
        cards.append(Card(name, pictures))
    return cards
