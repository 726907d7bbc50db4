"""The files of a finished run: names, writing, reading."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from aindex.data.atomic import replace_when_done
from aindex.errors import DataError
from aindex.evaluation.analyses import INDEX_COLUMNS, QUERY_COLUMNS, image_columns, query_table
from aindex.evaluation.copy_detection import COPY_DETECTION_COLUMNS, IndexMetric
from aindex.evaluation.exhaustive import SEARCH_COLUMNS
from aindex.evaluation.measures import COPY_DETECTION_FILE as COPY_DETECTION_FILE
from aindex.evaluation.measures import IMAGES_FILE as IMAGES_FILE
from aindex.evaluation.measures import INDEX_FILE as INDEX_FILE
from aindex.evaluation.measures import QUERIES_FILE as QUERIES_FILE
from aindex.evaluation.measures import RETRIEVAL_FILE as RETRIEVAL_FILE
from aindex.evaluation.measures import SEARCH_FILE as SEARCH_FILE
from aindex.evaluation.measures import columns_of
from aindex.evaluation.retrieval import LIST_COLUMNS, RETRIEVAL_COLUMNS, read_results, retrieval_table

CONFIG_FILE = "config.yaml"
ASSETS_FOLDER = "report_assets"
REPORT_FILE = "report.html"


def passive_file(name: str) -> str:
    """`retr_df.csv` → `retr_df_passive.csv`: the same table for the unchanged images."""
    return f"{Path(name).stem}_passive.csv"


@dataclass(frozen=True)
class Results:
    """The tables of one evaluation; None for an analysis that was not made."""

    retrieval: pd.DataFrame
    copy_detection: pd.DataFrame | None = None
    images: pd.DataFrame | None = None
    queries: pd.DataFrame | None = None
    search: pd.DataFrame | None = None
    index: pd.DataFrame | None = None

    @cached_property
    def means(self) -> pd.DataFrame:
        """What is known per edit and over edits: a row each, columns `images` and the keys of measures."""
        means = retrieval_table(self.retrieval).set_index("attack")
        if self.queries is not None:
            means = means.join(query_table(self.queries).set_index("attack").drop(columns="images"))
        return means.dropna(axis="columns", how="all")

    @property
    def metric(self) -> IndexMetric | None:
        """The index's, None where the run does not say it."""
        known = None if self.index is None else self.index["metric"].iloc[0]
        return "IP" if known == "IP" else "L2" if known == "L2" else None


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: where it lies.
        label: the folder's name.
        config: the resolved configuration as text, empty if there is none.
        results: what its released images gave.
        passive: what the unchanged images gave in the same run, if that was asked for.
        provenance: what the configuration's head says: `command`, `started`.
    """

    folder: Path
    label: str
    config: str
    results: Results
    passive: Results | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)


def provenance_text(command: str, started: str) -> str:
    """Comment lines for the head of a configuration, that `read_run` reads back."""
    known = {"command": " ".join(command.split()), "started": started}
    return "".join(f"# {name}: {value}\n" for name, value in known.items() if value)


def write_text(text: str, path: Path) -> None:
    """Write a text; a file name in it that is not valid Unicode is shown with backslash escapes."""
    with replace_when_done(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table without its index; the file appears whole or not at all.

    A file name that is not valid Unicode is written with backslash escapes.
    """
    with replace_when_done(path) as temporary:
        table.to_csv(temporary, index=False, encoding="utf-8", errors="backslashreplace")


_COLUMNS: dict[str, Callable[[], Sequence[str]]] = {
    # the long lists of the retrieval rows are needed by no table
    RETRIEVAL_FILE: lambda: [column for column in RETRIEVAL_COLUMNS if column not in LIST_COLUMNS],
    COPY_DETECTION_FILE: lambda: COPY_DETECTION_COLUMNS,
    IMAGES_FILE: image_columns,
    QUERIES_FILE: lambda: QUERY_COLUMNS,
    SEARCH_FILE: lambda: SEARCH_COLUMNS,
    INDEX_FILE: lambda: INDEX_COLUMNS,
}
_PROVENANCE = re.compile(r"^# (command|started): (.*)$", re.MULTILINE)


def _read(folder: Path, name: str, *, passive: bool = False) -> pd.DataFrame | None:
    """One table of a run; None if the run has not made it."""
    path = folder / (passive_file(name) if passive else name)
    if not path.exists():
        return None
    try:
        columns = list(_COLUMNS[name]())
        if name == COPY_DETECTION_FILE:
            return read_results(path)[columns]
        # "NA" is a legal file name, not a missing value
        missing = {column: ["", "nan", "NaN"] for column in columns if column != "name"}
        table = pd.read_csv(
            path, keep_default_na=False, na_values=missing, usecols=lambda column: column in columns
        )
        # an earlier run has not noted what was not measured then
        optional = columns_of(name) if name in (IMAGES_FILE, QUERIES_FILE) else []
        table = table.assign(**{column: np.nan for column in optional if column not in table})[columns]
        if name == INDEX_FILE and len(table) != 1:
            raise ValueError(f"{len(table)} rows")
        return table
    except (ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: {reason}; expected a csv file of a finished run, evaluate again") from error


def read_run(folder: Path | str) -> Run:
    """Read a finished run's tables.

    Raises:
        DataError: it is no folder of a finished run, or a file in it is damaged.
    """
    folder = Path(folder)
    retrieval = _read(folder, RETRIEVAL_FILE)
    if retrieval is None:
        raise DataError(
            f"{folder}: no {RETRIEVAL_FILE}; expected the folder of a finished run, give another one"
        )
    index = _read(folder, INDEX_FILE)
    passive = None
    passive_retrieval = _read(folder, RETRIEVAL_FILE, passive=True)
    if passive_retrieval is not None:
        passive = Results(
            passive_retrieval,
            copy_detection=_read(folder, COPY_DETECTION_FILE, passive=True),
            queries=_read(folder, QUERIES_FILE, passive=True),
            index=index,
        )
    results = Results(
        retrieval,
        copy_detection=_read(folder, COPY_DETECTION_FILE),
        images=_read(folder, IMAGES_FILE),
        queries=_read(folder, QUERIES_FILE),
        search=_read(folder, SEARCH_FILE),
        index=index,
    )
    config = folder / CONFIG_FILE
    text = config.read_text(encoding="utf-8", errors="replace") if config.exists() else ""
    return Run(
        folder=folder,
        label=folder.resolve().name,
        config=text,
        results=results,
        passive=passive,
        provenance=dict(_PROVENANCE.findall(text)),
    )
