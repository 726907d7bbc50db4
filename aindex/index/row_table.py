"""Tables of an index's rows, for programs other than aindex: id, name, and the picture that a row belongs to."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aindex.data.images import one_line, read_names
from aindex.data.tables import name_table
from aindex.errors import DataError
from aindex.index.backend import Ids
from aindex.index.names import RowNames
from aindex.index.owners import Owners

NAMES_FILE = "names.parquet"

_TABLES = (".csv", ".parquet")


def import_pyarrow() -> Any:
    """The module ``pyarrow``; a DataError where it is not installed."""
    try:
        import pyarrow
    except ImportError as error:
        raise DataError(
            f"Parquet files need pyarrow ({error}): install it with pip install 'aindex[lance]'"
        ) from error
    return pyarrow


def row_table(names: RowNames, owners: Owners) -> pd.DataFrame:
    """A row per row of an index: `id`, `name` and, where pictures have several rows, `owner`: the picture's number."""
    text = np.array([printable_name(name) for name in names], dtype=object)
    pictures = owners.of_rows(np.arange(owners.rows, dtype=np.int64))
    table = name_table({"id": np.arange(owners.rows), "name": text[pictures]})
    return table if owners.is_one_to_one else table.assign(owner=pictures)


def pictures_of(names: RowNames, path: Path | None, ids: Ids) -> tuple[RowNames, Owners]:
    """Names of pictures, and which rows are theirs, from the names of rows.

    Args:
        names: of n rows.
        path: where they come from; a table with the column `owner` says which rows belong together.
        ids: what the rows are called in the source, n.

    Raises:
        DataError: rows of one picture that do not follow each other.
    """
    table = pd.DataFrame() if path is None or path.suffix.lower() not in _TABLES else _read_table(path)
    if "owner" not in table:
        return names, Owners(len(names))
    if "id" in table:
        table = table.set_index("id").reindex(ids)
    owners = table["owner"].to_numpy()
    begins = np.flatnonzero(np.append(True, owners[1:] != owners[:-1])) if len(owners) else np.empty(0, int)
    if len(np.unique(owners)) != len(begins):
        raise DataError(
            f"rows of one owner in {str(path)!r} do not follow each other: expected those of a picture side by side"
        )
    counts = np.diff(np.append(begins, len(owners)))
    pictures = RowNames()
    pictures.extend(names[int(row)] for row in begins)
    return pictures, Owners().extended(len(pictures), counts.tolist())


def printable_name(name: str) -> str:
    """A name as Parquet and Arrow take it: bytes that are no text are written as escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def names_by_id(path: Path | None, ids: Ids) -> RowNames:
    """A name for each row.

    Args:
        path: a text file with one name per line, in the order of the ids; a csv or Parquet file with the columns `name`
            and, unless its rows are in the order of the ids, `id`; None takes the ids for names.
        ids: what the rows are called in the source, n.

    Raises:
        DataError: no such file, another form, or fewer names than rows.
    """
    found = RowNames()
    if path is None:
        found.extend(map(str, ids.tolist()))
        return found
    table = _read_table(path)
    if "name" not in table:
        raise DataError(
            f"{str(path)!r} has the columns {', '.join(map(str, table.columns))}: expected name, and id"
        )
    if "id" in table:
        found.extend(_by_id(table, ids, path))
        return found
    if len(table) != len(ids):
        raise DataError(f"{str(path)!r} holds {len(table)} names for {len(ids)} rows: expected one per row")
    order = ids.argsort(kind="stable").argsort(kind="stable")
    found.extend(table["name"].astype(str).iloc[order])
    return found


def _by_id(table: pd.DataFrame, ids: Ids, path: Path) -> "pd.Series[Any]":
    known = table.drop_duplicates("id").set_index("id")["name"]
    names = known.reindex(ids)
    missing = names.isna().to_numpy()
    if missing.any():
        raise DataError(
            f"{str(path)!r} names {len(ids) - int(missing.sum())} of {len(ids)} rows, not the one with id "
            f"{int(ids[int(missing.argmax())])}: expected a name for each id of the index"
        )
    return names.astype(str)


def _read_table(path: Path) -> pd.DataFrame:
    kind = path.suffix.lower()
    if kind not in _TABLES:
        return name_table({"name": read_names(path)})
    if not path.is_file():
        raise DataError(f"names file {str(path)!r} does not exist: give a .txt, .csv or .parquet file")
    if kind == ".parquet":
        import_pyarrow()
    try:
        if kind == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path, dtype={"name": str}, keep_default_na=False)
    # pandas and pyarrow have errors of many kinds for what is no table
    except Exception as error:
        raise DataError(
            f"{str(path)!r} cannot be read as a table ({one_line(error)[:120]}): expected the columns id and name"
        ) from error
