"""Retrieval evaluation: ranks, R@k and AP of edited copies, their csv rows and the table made of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from aindex.errors import DataError
from aindex.evaluation.measures import RETRIEVAL_FILE, columns_of, measures_of

LIST_COLUMNS = ("retrieved_distances", "retrieved_indices")
RETRIEVAL_COLUMNS = (
    "batch", "image_index", "attack", "attack_param", *LIST_COLUMNS, "rank", *columns_of(RETRIEVAL_FILE),
)  # fmt: skip
SCREENSHOTS = ("overlay_onto_screenshot", "screenshot_mobile")
AVERAGE = "average"
AVERAGE_WITHOUT_SCREENSHOT = "average without screenshot"

AttackParam = float | int | str | None


def rank_of(indices: npt.ArrayLike, true_ids: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """The position, counted from 0, of each query's true id among its retrieved ids.

    Args:
        indices: nq×k retrieved ids, nearest first; -1 marks an empty place.
        true_ids: nq ids, none negative.

    Returns:
        nq ranks; k where the true id is absent.

    Raises:
        ValueError: the shapes do not fit, or a true id is negative (it would match an empty place).
    """
    retrieved = np.asarray(indices)
    true = np.asarray(true_ids)
    if retrieved.ndim != 2 or true.shape != retrieved.shape[:1]:
        raise ValueError(f"indices {retrieved.shape} and true ids {true.shape}: expected (nq, k) and (nq,)")
    if (true < 0).any():
        raise ValueError(f"true id {true.min()}: expected 0 or more; leave non-matching queries out")
    hits = retrieved == true[:, None]
    ranks = np.where(hits.any(axis=1), hits.argmax(axis=1) if retrieved.shape[1] else 0, retrieved.shape[1])
    return ranks.astype(np.int64)


def recall_at(ranks: npt.ArrayLike, k: int, kneighbors: int) -> npt.NDArray[np.int64]:
    """1 where the true id is among the first k of the kneighbors retrieved, else 0.

    A rank equal to kneighbors means absent, which is a miss even where k is larger than kneighbors.
    """
    return (np.asarray(ranks) < min(k, kneighbors)).astype(np.int64)


def average_precision(ranks: npt.ArrayLike, kneighbors: int) -> npt.NDArray[np.float64]:
    """1 / (rank + 1), the average precision of a query with one true answer; 0 if it is absent."""
    ranks = np.asarray(ranks)
    return np.where(ranks < kneighbors, 1.0 / (ranks + 1.0), 0.0)


def json_lists(values: npt.ArrayLike) -> list[str]:
    """Each row of a matrix as JSON text; floats in the fewest digits that give the same number back.

    Raises:
        DataError: a value is infinite or not a number, which JSON cannot hold.
    """
    matrix = np.asarray(values)
    if not np.isfinite(matrix).all():
        raise DataError(
            "a retrieved distance is not finite: expected numbers; check the descriptors for nan and inf"
        )
    # str() of a numpy scalar is the shortest text that is exact for its own precision: .1, not .10000000149
    return ["[" + ", ".join(map(str, row)) + "]" for row in matrix]


def matrix_of(cells: "pd.Series[Any]") -> npt.NDArray[Any]:
    """A column of equally long lists, as JSON text or read back as Python lists, as a matrix.

    Raises:
        DataError: the lists differ in length.
    """
    lists = [json.loads(cell) if isinstance(cell, str) else cell for cell in cells]
    lengths = {len(row) for row in lists}
    if len(lengths) > 1:
        raise DataError(
            f"{cells.name}: lists of {min(lengths)} to {max(lengths)} values, expected one length; "
            "keep results of different kneighbors in different files"
        )
    return np.array(lists)


def spread(value: object, count: int, name: str) -> list[object]:
    """One value for all rows, or a sequence of one per row."""
    if value is None or isinstance(value, str | int | float | np.generic):
        return [value] * count
    values: list[object] = list(value)  # type: ignore[call-overload]
    if len(values) != count:
        raise ValueError(f"{name}: {len(values)} values for {count} queries")
    return values


def retrieval_rows(
    *,
    batch: int | Sequence[int],
    image_index: npt.ArrayLike,
    attack: str | Sequence[str],
    attack_param: AttackParam | Sequence[AttackParam],
    distances: npt.ArrayLike,
    indices: npt.ArrayLike,
    kneighbors: int,
) -> pd.DataFrame:
    """One row per query with the columns of `retr_df.csv`.

    Args:
        batch: the number of the batch, or one per query.
        image_index: nq ids in the index of the images that the queries are copies of.
        attack: the edit's name, or one per query.
        attack_param: its parameter (None where it has none), or one per query.
        distances: nq×k, nearest first.
        indices: nq×k retrieved ids.
        kneighbors: k; also the rank of an absent answer. R@10 and R@100 of fewer answers stay empty.

    Raises:
        ValueError: the shapes do not fit together.
        DataError: a distance is not finite.
    """
    found, kept = np.asarray(indices), np.asarray(distances)
    if found.ndim != 2 or found.shape != kept.shape or found.shape[1] != kneighbors:
        raise ValueError(f"distances {kept.shape}, indices {found.shape}: expected both (nq, {kneighbors})")
    ranks = rank_of(found, image_index)
    count = len(ranks)
    return pd.DataFrame(
        {
            "batch": np.array(spread(batch, count, "batch"), dtype=np.int64),
            "image_index": np.asarray(image_index, dtype=np.int64),
            "attack": pd.Series(spread(attack, count, "attack"), dtype=object),
            "attack_param": pd.Series(spread(attack_param, count, "attack_param"), dtype=object),
            "retrieved_distances": json_lists(kept),
            "retrieved_indices": json_lists(found),
            "rank": ranks,
            # of five answers nobody knows what ten would hold
            **{
                f"r@{k}": recall_at(ranks, k, kneighbors) if k <= kneighbors else np.full(count, np.nan)
                for k in (1, 10, 100)
            },
            "ap": average_precision(ranks, kneighbors),
        },
        columns=list(RETRIEVAL_COLUMNS),
    )


def read_results(csv: str | Path) -> pd.DataFrame:
    """Read `retr_df.csv` or `icd_df.csv` with the lists in their cells as Python lists."""
    return pd.read_csv(csv, converters=dict.fromkeys(LIST_COLUMNS, json.loads))


def attack_label(attack: str, attack_param: object) -> str:
    """`rotation 25`, `jpeg 50`, `none`: the name of an edit as tables and charts show it."""
    if attack_param is None or attack_param == "" or attack_param != attack_param:
        return attack
    if isinstance(attack_param, str):
        try:
            attack_param = float(attack_param)
        except ValueError:
            return f"{attack} {attack_param}"
    return f"{attack} {attack_param:g}"


def attack_labels(rows: pd.DataFrame) -> "pd.Series[str]":
    """The label of each row's edit."""
    pairs = zip(rows["attack"], rows["attack_param"], strict=True)
    return pd.Series([attack_label(attack, param) for attack, param in pairs], index=rows.index, dtype=object)


def average_rows(rows: pd.DataFrame, labels: "pd.Series[str]", measures: Sequence[str]) -> pd.DataFrame:
    """Mean of some columns per edit, with the averages over edits at the end.

    Each edit weighs the same in an average, and `none`, the unedited picture, is one of them, as in the paper.
    Where the screenshot overlay is one of several edits a second average leaves it out, because the method's
    authors report theirs without it.

    Args:
        rows: one per query.
        labels: the edit of each.
        measures: the columns to average.

    Returns:
        Columns `attack`, `images` (rows behind the means) and the measures.

    Raises:
        DataError: there are no rows.
    """
    if rows.empty:
        raise DataError("0 evaluated copies: expected at least one; evaluate some images first")
    groups = rows.groupby(labels.to_numpy(), sort=False)
    table = groups[list(measures)].mean()
    table.insert(0, "images", groups.size())
    averages = {AVERAGE: table}
    others = table[[not label.startswith(SCREENSHOTS) for label in table.index]]
    if 0 < len(others) < len(table):
        averages[AVERAGE_WITHOUT_SCREENSHOT] = others
    summed = {name: part.mean() for name, part in averages.items()}
    for name, part in averages.items():
        summed[name]["images"] = part["images"].sum()
    table = pd.concat([table, pd.DataFrame(summed).T]).astype({"images": np.int64})
    return table.rename_axis("attack").reset_index()


def retrieval_table(retrieval: pd.DataFrame) -> pd.DataFrame:
    """Mean R@1, R@10, R@100 and AP per edit and over edits (see `average_rows`).

    Args:
        retrieval: rows of `retr_df.csv`, from memory or read back.
    """
    measures = [measure.key for measure in measures_of(RETRIEVAL_FILE)]
    return average_rows(retrieval, attack_labels(retrieval), measures)
