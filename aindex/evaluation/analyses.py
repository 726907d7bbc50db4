"""The rows of `images_df.csv` and `queries_df.csv`, the columns of `index_df.csv`, and what is computed from them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from aindex.data.tables import name_table
from aindex.errors import DataError
from aindex.evaluation.measures import IMAGES_FILE, QUERIES_FILE, columns_of, measures_of
from aindex.evaluation.retrieval import average_rows, edit_columns

if TYPE_CHECKING:
    from aindex.edits.named import Attack

_OF_QUERIES = ("same_cell", "code_distance", "stored_distance", "exhaustive_rank", "scanned_rows")
QUERY_COLUMNS = ("image_index", "attack", "attack_param", *_OF_QUERIES)
INDEX_COLUMNS = (
    "extractor",
    "idx_factory",
    "metric",
    "nprobe",
    "cells",
    "kneighbors",
    "pictures",
    "rows",
    "rows_per_picture",
    "bytes_per_picture",
)


def _numbers(columns: Sequence[str], measured: Mapping[str, npt.ArrayLike | None]) -> dict[str, Any]:
    """Columns of numbers; nan where nothing is known."""
    if unknown := measured.keys() - set(columns):
        raise ValueError(f"{', '.join(sorted(unknown))}: expected measures among {', '.join(columns)}")
    known = {name: measured.get(name) for name in columns}
    return {
        name: np.nan if some is None else np.asarray(some, dtype=np.float64) for name, some in known.items()
    }


def image_columns() -> list[str]:
    """The columns of `images_df.csv`."""
    return ["image_index", "name", *columns_of(IMAGES_FILE)]


def image_rows(
    *, image_index: npt.ArrayLike, names: Sequence[str], **measured: npt.ArrayLike | None
) -> pd.DataFrame:
    """Rows of `images_df.csv`.

    Args:
        image_index: n ids in the index.
        names: n names of the images.
        measured: n values per measure of `images_df.csv`; nan, or no values at all, for what is not known. The PSNR of
            an unchanged image is infinite; `activation_seconds` is an image's share of its batch's time.

    Raises:
        ValueError: a count does not fit, or there is no such measure.
    """
    ids = np.asarray(image_index, dtype=np.int64)
    numbers = _numbers(columns_of(IMAGES_FILE), measured)
    return name_table({"image_index": ids, "name": list(names), **numbers}, image_columns())


def query_rows(
    *, image_index: npt.ArrayLike, attacks: "Sequence[Attack]", **measured: npt.ArrayLike | None
) -> pd.DataFrame:
    """Rows of `queries_df.csv` for nq ids and edits: nq values per measure, or None for what is not known.

    Measures are `same_cell` (the copy lies in a cell of its original's rows), `code_distance` (squared, of the copy's
    descriptor to its own code), `stored_distance` (squared, to what the index stores for the original),
    `exhaustive_rank` (from 0) and `scanned_rows` (rows in the cells that the search visited).

    Raises:
        ValueError: a count does not fit, or there is no such column.
    """
    return edit_columns(image_index, attacks).assign(**_numbers(_OF_QUERIES, measured))


def image_summary(images: pd.DataFrame) -> pd.DataFrame:
    """Quality of the released images: a row for each of its measures that is known.

    Returns:
        Columns `measure`, `mean`, `std` (of the population), `worst`, `worst_name`, `unchanged`. An unchanged
        image has an infinite PSNR; mean and spread are over the others, infinite if there are none.
    """
    if images.empty:
        raise DataError("0 released images: expected at least one")
    table = []
    for measure in measures_of(IMAGES_FILE):
        known = images[["name", measure.key]].dropna()
        if known.empty:
            continue
        values = known[measure.key].to_numpy(dtype=np.float64)
        finite = values[np.isfinite(values)]
        worst = int(values.argmin() if measure.higher_is_better else values.argmax())
        table.append(
            {
                "measure": measure.key,
                "mean": finite.mean() if finite.size else np.inf,
                "std": finite.std() if finite.size else 0.0,
                "worst": values[worst],
                "worst_name": known["name"].iloc[worst],
                "unchanged": int(np.isposinf(images["psnr_db"]).sum()),
            }
        )
    return pd.DataFrame(table, columns=["measure", "mean", "std", "worst", "worst_name", "unchanged"])


def query_table(queries: pd.DataFrame) -> pd.DataFrame:
    """Means of the measures of `queries_df.csv` per edit and over edits (see `average_rows`)."""
    rank = queries["exhaustive_rank"]
    known = queries.assign(**{"exhaustive_r@1": (rank == 0).astype(float).where(rank.notna())})
    return average_rows(known, QUERIES_FILE)


def code_distances(
    images: pd.DataFrame | None, queries: pd.DataFrame | None
) -> dict[str, "pd.Series[float]"]:
    """Squared distances of descriptors to their codes, as far as known, of `original`, `released`, `edited` images.

    Edited are the copies of all edits but `none`.
    """
    parts: dict[str, pd.Series[float]] = {}
    if images is not None:
        parts["original"] = images["code_distance_original"]
        parts["released"] = images["code_distance_released"]
    if queries is not None:
        parts["edited"] = queries["code_distance"][queries["attack"] != "none"]
    return {name: values for name, values in parts.items() if values.notna().any()}
