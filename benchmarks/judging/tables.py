"""The columns of the tables, one for each kind of output: rows of text from the records of results.json."""

from collections.abc import Sequence
from typing import Any

import numpy as np

Record = dict[str, Any]


def average_table(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the averages; rows are numbered."""
    fewest = min(one["pictures"] for one in records)
    header = [
        "", "", "pictures", "R@1", "unseen", f"R@1, first {fewest}", "R at 10⁻³", "unseen", "PSNR (dB)", "SSIM",
        "prepare (ms)", "look up (ms)", "among 10⁹ (ms)", "bytes", "published before", "failures",
    ]  # fmt: skip
    return header, [_line(number, one) for number, one in enumerate(records, 1)]


def _line(number: int, one: Record) -> list[str]:
    recalls = (
        *(one["recall"][which] for which in ("default", "unseen")),
        one["recall_first"]["default"],
        *(one["recall_at_rate"][which] for which in ("default", "unseen")),
    )
    return [
        str(number),
        one["name"],
        str(one["pictures"]),
        *(f"{recall:.3f}" if np.isfinite(recall) else "–" for recall in recalls),
        f"{one['psnr_db']:.1f}" if np.isfinite(one["psnr_db"]) else "∞",
        f"{one['ssim']:.4f}",
        f"{one['prepare_ms']:.1f}",
        f"{one['look_up_ms']:.1f}",
        f"{one['billion_ms']:,.0f}",
        str(one["stored_bytes"]),
        "yes" if one["finds_published"] else "no",
        str(one["failures"]),
    ]


def edit_table(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of R@1 under each edit; a column per row of the averages, by its number."""
    header = ["R@1", *(str(number) for number in range(1, len(records) + 1))]
    edits = list(records[0]["per_edit"])
    return header, [[edit, *(f"{one['per_edit'][edit]:.2f}" for one in records)] for edit in edits]
