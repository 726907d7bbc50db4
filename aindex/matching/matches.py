"""What a search found: a table, and its forms as text, csv, JSON lines and a page."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from aindex.data.images import SkippedImages
from aindex.data.tables import notebook_html
from aindex.matching.threshold import NO_THRESHOLD, Threshold

NO_ROWS = "no row lies in the cells that were visited: a larger nprobe looks into more"
COLUMNS = ("query", "rank", "name", "row", "distance", "score", "match")


@dataclass(frozen=True)
class Matches:
    """Ranked matches of pictures.

    Attributes:
        table: a row per query and rank: `query`, `rank` (from 1), `name` and `row` in the index, `distance` (metric IP:
            similarity), `score` (how much nearer than the next), `match` (blank without a threshold).
        queries: the pictures that were searched.
        files: where each of them can be read; None for pixels.
        skipped: pictures that could not be read.
        threshold: the rule of `match`.
        note: why there is no verdict; empty if there is one.
    """

    table: pd.DataFrame
    queries: list[str]
    files: Sequence[Path | None]
    skipped: SkippedImages
    threshold: Threshold
    note: str

    @property
    def best(self) -> pd.DataFrame:
        """The first row of each query."""
        return self.table[self.table["rank"] == 1].reset_index(drop=True)

    def summary(self) -> str:
        """A few lines for people: how many were found, what was left out."""
        searched = f"{len(self.queries)} pictures searched"
        if self.threshold is NO_THRESHOLD:
            lines = [f"{searched}; {self.note}"]
        else:
            matched = self.table.loc[self.table["match"].fillna(False), "query"].nunique()
            lines = [
                f"{searched}, {matched} with a match (threshold {self.threshold.value:.6g}, {self.threshold.kind})"
            ]
        if self.without_rows:
            lines.append(
                f"{len(self.without_rows)} of them lie in cells without any row: a larger nprobe looks into more cells"
            )
        if self.skipped.count:
            lines.append(self.skipped.summary())
        return "\n".join(lines)

    @property
    def without_rows(self) -> list[str]:
        """The queries that were read, and no row was found for in the cells that were visited."""
        return sorted(set(self.queries) - set(self.table["query"]))

    def to_text(self) -> str:
        """An aligned table; names that would disturb it are quoted."""
        shown = self.table.astype(object).assign(
            query=self.table["query"].map(printable),
            name=self.table["name"].map(printable),
            distance=self.table["distance"].map("{:.4f}".format),
            score=["" if pd.isna(score) else f"{score:.4f}" for score in self.table["score"]],
            match=["" if pd.isna(match) else "yes" if match else "no" for match in self.table["match"]],
        )
        shown["query"] = shown["query"].mask(shown["query"].duplicated(), "")
        for query in self.errors:
            shown.loc[len(shown)] = [printable(query), "–", *[""] * (len(COLUMNS) - 2)]
        if self.threshold is NO_THRESHOLD:
            shown = shown.drop(columns="match")
        return str(shown.to_string(index=False)) if len(shown) else ""

    @property
    def errors(self) -> dict[str, str]:
        """Why a query has no match at all: it cannot be read, or no row lies in the cells that were visited."""
        return dict(self.skipped.rows) | dict.fromkeys(self.without_rows, NO_ROWS)

    def to_csv(self) -> str:
        """Comma-separated values with a header: the table, and a line with an `error` for each query without a row."""
        lines = self.table.assign(error=None)
        for query, error in self.errors.items():
            lines.loc[len(lines), ["query", "error"]] = [query, error]
        return lines.to_csv(index=False, float_format="%.6g")

    def to_jsonl(self) -> str:
        """One JSON object per query, with the list of its matches, and an `error` where there is none."""
        found: dict[str, list[dict[str, object]]] = {query: [] for query in self.queries}
        for line in self.table.to_dict(orient="records"):
            values = {str(key): None if pd.isna(value) else value for key, value in line.items()}
            found[str(values.pop("query"))].append(values)
        records: list[dict[str, object]] = [
            {"query": query, "matches": matches} for query, matches in found.items() if matches
        ]
        records += [{"query": query, "matches": [], "error": error} for query, error in self.errors.items()]
        return "".join(json.dumps(record) + "\n" for record in records)

    def _repr_html_(self) -> str:
        return notebook_html(self.summary(), self.table, most_rows=40)


def printable(name: str) -> str:
    """A name as it is, or as a JSON string where it would disturb a terminal."""
    return name if name.isprintable() else json.dumps(name)
