"""The files of a finished run: names, writing, reading."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from aindex.data.atomic import replace_when_done
from aindex.errors import DataError
from aindex.evaluation.analyses import INDEX_COLUMNS, QUERY_COLUMNS, image_columns, query_table
from aindex.evaluation.copy_detection import COPY_DETECTION_COLUMNS, IndexMetric
from aindex.evaluation.exhaustive import SEARCH_COLUMNS
from aindex.evaluation.measures import (
    COPY_DETECTION_FILE,
    IMAGES_FILE,
    INDEX_FILE,
    QUERIES_FILE,
    RETRIEVAL_FILE,
    SEARCH_FILE,
    columns_of,
)
from aindex.evaluation.retrieval import LIST_COLUMNS, RETRIEVAL_COLUMNS, read_results, retrieval_table

CONFIG_FILE = "config.yaml"
ASSETS_FOLDER = "report_assets"
REPORT_FILE = "report.html"
TABLES = (RETRIEVAL_FILE, COPY_DETECTION_FILE, IMAGES_FILE, QUERIES_FILE, SEARCH_FILE, INDEX_FILE)


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
        metric = None if self.index is None else self.index["metric"].iloc[0]
        return metric if metric in ("L2", "IP") else None


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: where it lies.
        config: the resolved configuration as text, empty if there is none.
        results: what its released images gave.
        passive: what the unchanged images gave in the same run, if that was asked for.
    """

    folder: Path
    config: str
    results: Results
    passive: Results | None = None

    @property
    def label(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def assets(self) -> Path:
        """The folder of its example pictures."""
        return self.folder / ASSETS_FOLDER

    @property
    def provenance(self) -> dict[str, str]:
        """What the configuration's head says: `command`, `started`."""
        return dict(_PROVENANCE.findall(self.config))


def provenance_text(command: str, started: str) -> str:
    """Comment lines for the head of a configuration, that `read_run` reads back."""
    known = {"command": " ".join(command.split()), "started": started}
    return "".join(f"# {name}: {value}\n" for name, value in known.items() if value)


def write_text(text: str, path: Path) -> None:
    """Write a text; a file name in it that is not valid Unicode is shown with backslash escapes."""
    with replace_when_done(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table without its index, as `write_text` does; the file appears whole or not at all."""
    write_text(table.to_csv(index=False), path)


_PROVENANCE = re.compile(r"^# (command|started): (.*)$", re.MULTILINE)


def _read(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> pd.DataFrame | None:
    """Columns of a table, some empty where an earlier run has not noted them; None if the run has not made it."""
    if not path.exists():
        return None
    try:
        if columns == COPY_DETECTION_COLUMNS:
            return read_results(path)[list(columns)]
        # "NA" is a legal file name, not a missing value
        missing = {column: ["", "nan", "NaN"] for column in columns if column != "name"}
        table = pd.read_csv(
            path, keep_default_na=False, na_values=missing, usecols=lambda column: column in columns
        )
        if path.name == INDEX_FILE and len(table) != 1:
            raise ValueError(f"{len(table)} rows")
        return table.assign(**{name: np.nan for name in optional if name not in table})[list(columns)]
    except (ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: {reason}; expected a csv file of a finished run, evaluate again") from error


def read_run(folder: Path | str) -> Run:
    """Read a finished run's tables.

    Raises:
        DataError: it is no folder of a finished run, or a file in it is damaged.
    """
    folder = Path(folder)
    results, passive = _read_results(folder, str), _read_results(folder, passive_file)
    if results is None:
        raise DataError(
            f"{folder}: no {RETRIEVAL_FILE}; expected the folder of a finished run, give another one"
        )
    config = folder / CONFIG_FILE
    text = config.read_text(encoding="utf-8", errors="replace") if config.exists() else ""
    return Run(folder, text, results, passive)


def _read_results(folder: Path, named: Callable[[str], str]) -> Results | None:
    # the long lists of the retrieval rows are needed by no table
    columns = [column for column in RETRIEVAL_COLUMNS if column not in LIST_COLUMNS]
    retrieval = _read(folder / named(RETRIEVAL_FILE), columns)
    if retrieval is None:
        return None
    return Results(
        retrieval,
        copy_detection=_read(folder / named(COPY_DETECTION_FILE), COPY_DETECTION_COLUMNS),
        images=_read(folder / named(IMAGES_FILE), image_columns(), columns_of(IMAGES_FILE)),
        queries=_read(folder / named(QUERIES_FILE), QUERY_COLUMNS, columns_of(QUERIES_FILE)),
        search=_read(folder / named(SEARCH_FILE), SEARCH_COLUMNS),
        # the same for passive images
        index=_read(folder / INDEX_FILE, INDEX_COLUMNS),
    )
