"""Retrieval evaluation: ranks, R@k and AP of edited copies, their csv rows and the table made of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from aindex.errors import DataError
from aindex.evaluation.measures import RETRIEVAL_FILE, columns_of, measures_of

if TYPE_CHECKING:
    from aindex.edits.named import Attack

LIST_COLUMNS = ("retrieved_distances", "retrieved_indices")
RETRIEVAL_COLUMNS = (
    "batch", "image_index", "attack", "attack_param", *LIST_COLUMNS, "rank", *columns_of(RETRIEVAL_FILE),
)  # fmt: skip
SCREENSHOTS = ("overlay_onto_screenshot", "screenshot_mobile")
AVERAGE = "average"
AVERAGE_WITHOUT_SCREENSHOT = "average without screenshot"
AVERAGES = (AVERAGE, AVERAGE_WITHOUT_SCREENSHOT)


def rank_of(indices: npt.ArrayLike, true_ids: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """The places, counted from 0, of nq true ids among nq×k retrieved ones, nearest first; k where one is absent.

    An id of −1 among the retrieved ones marks an empty place.

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
    ranks: npt.NDArray[np.int64] = np.where(hits.any(axis=1), hits.argmax(axis=1), retrieved.shape[1])
    return ranks


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


def edit_columns(image_index: npt.ArrayLike, attacks: "Sequence[Attack]") -> pd.DataFrame:
    """Which image each query is a copy of, and under which edit: `image_index`, `attack`, `attack_param`."""
    edits = {
        "attack": [attack.name for attack in attacks],
        "attack_param": [attack.param for attack in attacks],
    }
    ids = np.asarray(image_index, dtype=np.int64)
    # as objects: a column of numbers would make 25.0 of 25
    columns = {name: pd.Series(some, range(len(ids)), dtype=object) for name, some in edits.items()}
    return pd.DataFrame({"image_index": ids, **columns})


def retrieval_rows(
    *,
    batch: int | Sequence[int],
    image_index: npt.ArrayLike,
    attacks: "Sequence[Attack]",
    distances: npt.ArrayLike,
    indices: npt.ArrayLike,
) -> pd.DataFrame:
    """One row per query with the columns of `retr_df.csv`.

    Args:
        batch: the number of the batch, or one per query.
        image_index: nq ids in the index of the images that the queries are copies of.
        attacks: nq edits.
        distances: nq×k, nearest first.
        indices: nq×k retrieved ids. k is also the rank of an absent answer; R@10 and R@100 of fewer answers stay empty.

    Raises:
        ValueError: the shapes do not fit together.
        DataError: a distance is not finite.
    """
    found, kept = np.asarray(indices), np.asarray(distances)
    if found.shape != kept.shape:
        raise ValueError(f"distances {kept.shape}, indices {found.shape}: expected both (nq, k)")
    ranks, k = rank_of(found, image_index), found.shape[1]
    measured = {
        "batch": batch,
        "retrieved_distances": json_lists(kept),
        "retrieved_indices": json_lists(found),
        "rank": ranks,
        # of five answers nobody knows what ten would hold
        **{f"r@{n}": (ranks < n).astype(int) if n <= k else np.nan for n in (1, 10, 100)},
        # of a query with one true answer; 0 if it is absent
        "ap": np.where(ranks < k, 1 / (ranks + 1), 0),
    }
    return edit_columns(image_index, attacks).assign(**measured)[list(RETRIEVAL_COLUMNS)]


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


def average_rows(rows: pd.DataFrame, file: str) -> pd.DataFrame:
    """Mean of the measures of a csv file per edit, with the averages over edits at the end.

    Each edit weighs the same in an average, and `none`, the unedited picture, is one of them, as in the paper.
    Where the screenshot overlay is one of several edits a second average leaves it out, because the method's
    authors report theirs without it.

    Args:
        rows: one per query.
        file: decides the measures.

    Returns:
        Columns `attack`, `images` (rows behind the means) and the measures.

    Raises:
        DataError: there are no rows.
    """
    if rows.empty:
        raise DataError("0 evaluated copies: expected at least one; evaluate some images first")
    groups = rows.groupby(attack_labels(rows).to_numpy(), sort=False)
    table = groups[[measure.key for measure in measures_of(file)]].mean()
    table.insert(0, "images", groups.size())
    averages = {AVERAGE: table}
    others = table[[not label.startswith(SCREENSHOTS) for label in table.index]]
    if 0 < len(others) < len(table):
        averages[AVERAGE_WITHOUT_SCREENSHOT] = others
    last = [
        part.mean().to_frame(name).T.assign(images=part["images"].sum()) for name, part in averages.items()
    ]
    table = pd.concat([table, *last]).astype({"images": np.int64})
    return table.rename_axis("attack").reset_index()


def retrieval_table(retrieval: pd.DataFrame) -> pd.DataFrame:
    """Mean R@1, R@10, R@100 and AP of rows of `retr_df.csv`, per edit and over edits (see `average_rows`)."""
    return average_rows(retrieval, RETRIEVAL_FILE)
