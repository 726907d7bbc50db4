"""Why copies are found or lost: coarse cells, distances to codes, image quality, the exhaustive ceiling.

The rows of the csv files are made here; all summaries are computed from them:

- `images_df.csv` (`image_columns`): one row per released image;
- `queries_df.csv` (`QUERY_COLUMNS`): one row per edited copy, in the order of `retr_df.csv`;
- `index_df.csv` (`INDEX_COLUMNS`): one row about the index that was searched;
- `search_df.csv` (`SEARCH_COLUMNS` of `aindex.evaluation.exhaustive`): one row per setting of the search.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from aindex.data.tables import name_table
from aindex.errors import DataError
from aindex.evaluation.measures import IMAGES_FILE, QUERIES_FILE, columns_of, measures_of
from aindex.evaluation.retrieval import AttackParam, attack_labels, average_rows, spread

QUERY_COLUMNS = (
    "image_index",
    "attack",
    "attack_param",
    "same_cell",
    "code_distance",
    "stored_distance",
    "exhaustive_rank",
    "scanned_rows",
)
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

Array = npt.NDArray[Any]


def _optional(values: npt.ArrayLike | None, count: int, name: str) -> npt.NDArray[np.float64]:
    """A column of numbers; nan where nothing is known."""
    column = np.full(count, np.nan) if values is None else np.asarray(values, dtype=np.float64)
    if column.shape != (count,):
        raise ValueError(f"{name}: shape {column.shape}, expected ({count},)")
    return column


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
    ids, columns = np.asarray(image_index, dtype=np.int64), columns_of(IMAGES_FILE)
    if unknown := measured.keys() - set(columns):
        raise ValueError(f"{', '.join(sorted(unknown))}: expected measures of images: {', '.join(columns)}")
    if len(names) != len(ids):
        raise ValueError(f"{len(names)} names for {len(ids)} images")
    numbers = {name: _optional(measured.get(name), len(ids), name) for name in columns}
    return name_table({"image_index": ids, "name": list(names), **numbers}, image_columns())


def query_rows(
    *,
    image_index: npt.ArrayLike,
    attack: str | Sequence[str],
    attack_param: AttackParam | Sequence[AttackParam],
    cells: npt.ArrayLike | None = None,
    original_cells: npt.ArrayLike | None = None,
    code_distance: npt.ArrayLike | None = None,
    stored_distance: npt.ArrayLike | None = None,
    exhaustive_rank: npt.ArrayLike | None = None,
    scanned_rows: npt.ArrayLike | None = None,
) -> pd.DataFrame:
    """Rows of `queries_df.csv`; columns that are not given stay empty (an index may have no cells or codes).

    Args:
        image_index: nq ids of the images that the queries are copies of.
        attack: the edit's name, or one per query.
        attack_param: its parameter, or one per query.
        cells: nq coarse cells of the copies' descriptors.
        original_cells: nq or nq×r coarse cells of their originals' rows.
        code_distance: nq squared distances of the copies' descriptors to their own codes.
        stored_distance: nq squared distances to what the index stores for the originals.
        exhaustive_rank: nq ranks of an exhaustive search, from 0.
        scanned_rows: nq numbers of rows in the cells that the search visited.
    """
    ids = np.asarray(image_index, dtype=np.int64)
    same_cell = None
    if cells is not None and original_cells is not None:
        own = np.asarray(original_cells).reshape(len(ids), -1)
        same_cell = (np.asarray(cells)[:, None] == own).any(axis=1)
    return pd.DataFrame(
        {
            "image_index": ids,
            "attack": pd.Series(spread(attack, len(ids), "attack"), dtype=object),
            "attack_param": pd.Series(spread(attack_param, len(ids), "attack_param"), dtype=object),
            "same_cell": _optional(same_cell, len(ids), "cells"),
            "code_distance": _optional(code_distance, len(ids), "code_distance"),
            "stored_distance": _optional(stored_distance, len(ids), "stored_distance"),
            "exhaustive_rank": _optional(exhaustive_rank, len(ids), "exhaustive_rank"),
            "scanned_rows": _optional(scanned_rows, len(ids), "scanned_rows"),
        },
        columns=list(QUERY_COLUMNS),
    )


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


def worst_images(images: pd.DataFrame, count: int = 10) -> pd.DataFrame:
    """The most visibly changed images: rows of the lowest PSNR, worst first."""
    columns = ["name", *(measure.key for measure in measures_of(IMAGES_FILE))]
    return images.sort_values("psnr_db", kind="stable")[columns].head(count).reset_index(drop=True)


def query_table(queries: pd.DataFrame) -> pd.DataFrame:
    """Means of the measures of `queries_df.csv` per edit and over edits (see `average_rows`)."""
    rank = queries["exhaustive_rank"]
    known = queries.assign(**{"exhaustive_r@1": (rank == 0).astype(float).where(rank.notna())})
    return average_rows(known, attack_labels(known), [measure.key for measure in measures_of(QUERIES_FILE)])


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
