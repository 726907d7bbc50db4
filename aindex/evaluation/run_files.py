"""The files of a finished run: their names, how they are written, and reading them back."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from aindex.data.atomic import replace_when_done
from aindex.errors import DataError
from aindex.evaluation.analyses import IMAGE_COLUMNS, INDEX_COLUMNS, QUERY_COLUMNS
from aindex.evaluation.copy_detection import COPY_DETECTION_COLUMNS, IndexMetric
from aindex.evaluation.exhaustive import SEARCH_COLUMNS
from aindex.evaluation.retrieval import LIST_COLUMNS, RETRIEVAL_COLUMNS, read_results

CONFIG_FILE = "config.yaml"
RETRIEVAL_FILE = "retr_df.csv"
COPY_DETECTION_FILE = "icd_df.csv"
IMAGES_FILE = "images_df.csv"
QUERIES_FILE = "queries_df.csv"
SEARCH_FILE = "search_df.csv"
INDEX_FILE = "index_df.csv"
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


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table without its index; the file appears whole or not at all.

    A file name that is not valid Unicode is written with backslash escapes.
    """
    with replace_when_done(path) as temporary:
        table.to_csv(temporary, index=False, encoding="utf-8", errors="backslashreplace")


_COLUMNS: dict[str, tuple[str, ...]] = {
    # the long lists of the retrieval rows are needed by no table
    RETRIEVAL_FILE: tuple(column for column in RETRIEVAL_COLUMNS if column not in LIST_COLUMNS),
    COPY_DETECTION_FILE: COPY_DETECTION_COLUMNS,
    IMAGES_FILE: IMAGE_COLUMNS,
    QUERIES_FILE: QUERY_COLUMNS,
    SEARCH_FILE: SEARCH_COLUMNS,
    INDEX_FILE: INDEX_COLUMNS,
}
_PROVENANCE = re.compile(r"^# (command|started): (.*)$", re.MULTILINE)
# what earlier runs have not noted
_OPTIONAL = ("scanned_rows",)


def _read(folder: Path, name: str, *, passive: bool = False) -> pd.DataFrame | None:
    """One table of a run; None if the run has not made it."""
    path = folder / (passive_file(name) if passive else name)
    if not path.exists():
        return None
    try:
        if name == COPY_DETECTION_FILE:
            return read_results(path)[list(_COLUMNS[name])]
        # "NA" is a legal file name, not a missing value
        columns = [column for column in _COLUMNS[name] if column != "name"]
        missing = {column: ["", "nan", "NaN"] for column in columns}
        table = pd.read_csv(
            path, keep_default_na=False, na_values=missing, usecols=lambda column: column in _COLUMNS[name]
        )
        table = table.assign(**{column: np.nan for column in _OPTIONAL if column not in table})
        table = table[list(_COLUMNS[name])]
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
