"""Tables whose text may be any file's name."""

from typing import Any

import pandas as pd


def name_table(values: Any, columns: list[str] | None = None) -> pd.DataFrame:
    """A DataFrame with names in it, of which some may not be UTF-8.

    pandas keeps text in pyarrow's arrays where pyarrow is installed, and those refuse such names.
    """
    with pd.option_context("mode.string_storage", "python"):
        return pd.DataFrame(values, columns=columns)
