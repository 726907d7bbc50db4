"""Every figure that a run is judged by: its name, unit, decimals, direction and csv column. A new one goes here."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd

from aindex.evaluation.intervals import Interval, wilson

RETRIEVAL_FILE = "retr_df.csv"
COPY_DETECTION_FILE = "icd_df.csv"
IMAGES_FILE = "images_df.csv"
QUERIES_FILE = "queries_df.csv"
SEARCH_FILE = "search_df.csv"
INDEX_FILE = "index_df.csv"


@dataclass(frozen=True)
class Measure:
    """A kind of figure.

    Attributes:
        key: name without blanks: TensorBoard's tag, the key in `summary.json` and `compare.csv`.
        file: the csv file it is computed from.
        name: heading of a column or an axis, with the unit; empty for what only stands in the list of all numbers.
        label: name in that list; empty for what does not stand there.
        decimals: how many are shown.
        higher_is_better: None where neither is.
        is_share: a share, shown with its 95 % interval.
        is_tile: shown at the top of the report.
        columns: of the file, where they differ from the key.
    """

    key: str
    file: str
    name: str = ""
    label: str = ""
    decimals: int = 3
    higher_is_better: bool | None = True
    is_share: bool = False
    is_tile: bool = False
    columns: str = ""

    @property
    def source(self) -> str:
        """`retr_df.csv: r@1`."""
        return f"{self.file}: {self.columns or self.key}"


_R, _C, _Q, _I, _X = RETRIEVAL_FILE, COPY_DETECTION_FILE, QUERIES_FILE, IMAGES_FILE, INDEX_FILE
_P90, _CODE = "recall at 90 % precision", "squared distance to the code"
_ROWS, _SCANNED = "rows per evaluated picture", "rows scanned per query"
_PAIRS = "image_index, retrieved_distances, retrieved_indices"
_share, _loss = partial(Measure, is_share=True), partial(Measure, higher_is_better=False)
_ALL = (
    _share("r@1", _R, "R@1", "R@1, average over edits", is_tile=True),
    _share("r@10", _R, "R@10", "R@10, average over edits"),
    _share("r@100", _R, "R@100", "R@100, average over edits"),
    Measure("ap", _R, "AP", "AP, average over edits"),
    _share("r@1_without_screenshot", _R, "", "R@1, average without the screenshot", columns="r@1"),
    _share("exhaustive_r@1", _Q, "R@1, exhaustive", "R@1 of an exhaustive search, average over edits",
           is_tile=True, columns="exhaustive_rank"),
    Measure("uap_plain", _C, "µAP", "µAP, plain score", is_tile=True, columns=_PAIRS),
    _share("recall_at_p90_plain", _C, _P90, f"{_P90}, plain score", columns=_PAIRS),
    Measure("uap_normalised", _C, "µAP", "µAP, normalised score", columns=_PAIRS),
    _share("recall_at_p90_normalised", _C, _P90, f"{_P90}, normalised score", columns=_PAIRS),
    _share("false_positives", _C, "false positives", higher_is_better=False, columns=_PAIRS),
    _share("found", _C, "found, at that threshold", columns=_PAIRS),
    _share("same_cell", _Q, "share in the same cell", "copies in their original's cell, average over edits",
           is_tile=True),
    Measure("psnr_db", _I, "PSNR (dB)", "PSNR (dB), mean", 2, is_tile=True),
    Measure("ssim", _I, "SSIM", "SSIM, mean", 4, is_tile=True),
    _loss("linf", _I, "L∞ (grey levels)", "L∞ (grey levels), mean", 1, is_tile=True),
    _loss("code_distance", _Q, "distance to its own code", "", 4),
    _loss("stored_distance", _Q, "distance to what is stored", "", 4),
    _loss("code_distance_original", _I, "", f"{_CODE}, original images", 4),
    _loss("code_distance_released", _I, "", f"{_CODE}, released images", 4),
    _loss("code_distance_edited", _Q, "", f"{_CODE}, edited images", 4, columns="code_distance"),
    _loss("activation_seconds", _I, "", "activation (s per image)", is_tile=True),
    _loss("scanned_rows", _Q, _SCANNED, f"{_SCANNED}, average over edits", 1),
    _loss("rows_per_picture", _X, _ROWS, _ROWS, 2),
    _loss("bytes_per_picture", _X, "bytes per picture", "bytes per picture in the index", 1),
    _loss("ms_per_query", SEARCH_FILE, "ms per query", "search (ms per query)"),
)  # fmt: skip
MEASURES: dict[str, Measure] = {measure.key: measure for measure in _ALL}
COUNT = Measure("images", "", "n", decimals=0, higher_is_better=None)


def measures_of(*files: str) -> list[Measure]:
    """The measures with a heading that are computed from these csv files, in the order of `MEASURES`."""
    return [measure for measure in MEASURES.values() if measure.file in files and measure.name]


def columns_of(file: str) -> list[str]:
    """The columns of a csv file that measures are computed from."""
    columns = [m.columns or m.key for m in MEASURES.values() if m.file == file]
    return list(dict.fromkeys(columns))


@dataclass(frozen=True)
class Number:
    """A cell with a number.

    Attributes:
        value: nan for what is not known.
        measure: what it is.
        key: `series|csv file|row|column`: what it was computed from, for the report.
        n: of a share, of how many.
        bounds: of a mean, where it lies with 95 % confidence; of what is no sample, the number itself.
    """

    value: float
    measure: Measure = COUNT
    key: str = ""
    n: float | None = None
    bounds: Interval | None = None

    @property
    def text(self) -> str:
        """The number as shown; ∞ and – for what is infinite or not known."""
        if pd.isna(self.value):
            return "–"
        return f"{self.value:.{self.measure.decimals}f}" if abs(self.value) != float("inf") else "∞"

    @property
    def interval(self) -> Interval | None:
        """The 95 % interval of a share."""
        return None if self.n is None or pd.isna(self.value) else wilson(self.value, self.n)

    def __str__(self) -> str:
        return self.text if self.interval is None else f"{self.text} ({self.interval.text})"


Cell = Number | str
UNKNOWN = Number(float("nan"))


def best(cells: Sequence[Cell]) -> list[int]:
    """Places of the best of at least two numbers, if their 95 % intervals lie beyond those of all others.

    Numbers that are shown alike are best together. What has no interval (a time, µAP) is never best.
    """
    known = {place: c for place, c in enumerate(cells) if isinstance(c, Number) and not pd.isna(c.value)}
    if len(known) < 2 or (higher := next(iter(known.values())).measure.higher_is_better) is None:
        return []
    rounded = {place: round(c.value, c.measure.decimals) for place, c in known.items()}
    top = (max if higher else min)(rounded.values())
    own = [known[place].interval or known[place].bounds for place, v in rounded.items() if v == top]
    others = [known[place].interval or known[place].bounds for place, v in rounded.items() if v != top]
    is_clear = all(
        one is not None and other is not None and (one.low > other.high if higher else one.high < other.low)
        for one in own
        for other in others
    )
    return [place for place, value in rounded.items() if value == top] if others and is_clear else []
