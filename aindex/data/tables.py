"""Tables whose text may be any file's name."""

import html
from typing import Any

import pandas as pd


def name_table(values: Any, columns: list[str] | None = None) -> pd.DataFrame:
    """A DataFrame with names in it, of which some may not be UTF-8.

    pandas keeps text in pyarrow's arrays where pyarrow is installed, and those refuse such names.
    """
    with pd.option_context("mode.string_storage", "python"):
        return pd.DataFrame(values, columns=columns)


def notebook_html(text: str, table: pd.DataFrame, *, most_rows: int) -> str:
    """What a notebook shows of a result: lines for people, and its table."""
    lines = "<br>".join(html.escape(line) for line in text.split("\n"))
    return f"<p>{lines}</p>{table.to_html(index=False, float_format='{:.4g}'.format, max_rows=most_rows)}"
