"""The manifest of a release: a table, a csv file, what a notebook shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from aindex.data.atomic import replace_when_done
from aindex.data.images import SkippedImages, open_image
from aindex.data.tables import name_table, notebook_html
from aindex.errors import ImageReadError
from aindex.index.originals import last_rows
from aindex.index.reference_index import ReferenceIndex
from aindex.release.pictures import Format, form_notes
from aindex.release.planning import Listing, output_files

MANIFEST, SKIPPED = "manifest.csv", "skipped.csv"
LEFT_OUT = "picture(s) left out"
COLUMNS = (
    "name", "file", "row", "psnr_db", "ssim", "linf_grey_levels", "distance_before", "distance_after", "scale",
    "width", "height", "bytes", "source_bytes", "notes",
)  # fmt: skip
"""PSNR and SSIM of the saved file against the original, squared distances of its descriptor to the target."""


@dataclass(frozen=True)
class Release:
    """Released pictures.

    Attributes:
        folder: where they are.
        table: one row per picture, the columns of the manifest; of a dry run what would be done.
        skipped: pictures that were left out, with reasons.
        dry_run: whether nothing was written.
    """

    folder: Path
    table: pd.DataFrame
    skipped: SkippedImages
    dry_run: bool = False

    def summary(self) -> str:
        """One or two lines for people."""
        if self.dry_run:
            text = f"{self.folder}: {len(self.table)} pictures would be released"
        elif self.table.empty:
            text = f"{self.folder}: no picture released"
        else:
            psnr, before, after = (self.table[c] for c in ("psnr_db", "distance_before", "distance_after"))
            text = (
                f"{self.folder}: {len(self.table)} pictures released, PSNR {psnr.median():.1f} dB (least "
                f"{psnr.min():.1f}), squared distance to the target {before.mean():.3f} → {after.mean():.3f}"
            )
        left_out = self.skipped.summary() + (f", see {SKIPPED}" if self.skipped.count > 1 else "")
        return "\n".join(line for line in (text, self._sizes(), left_out) if line)

    def _sizes(self) -> str:
        """One line if the files are much larger than their originals; empty if not."""
        if self.dry_run or self.table.empty:
            return ""
        now, before = (self.table[column].sum() / 1e6 for column in ("bytes", "source_bytes"))
        if now <= 2 * before:
            return ""
        files = set(self.table["file"].str.rpartition(".")[2])
        smaller = "" if files == {"webp"} else "; format webp keeps every pixel too, in smaller files"
        return f"they take {now:.1f} MB, their originals {before:.1f} MB{smaller}"

    def _repr_html_(self) -> str:
        return notebook_html(self.summary(), self.table, most_rows=20)


def manifest_table(
    records: Mapping[str, Mapping[str, Any]], names: Sequence[str], rows: Mapping[str, int]
) -> pd.DataFrame:
    """One row per released picture, in the order of `names`."""
    lines = [
        {**records[name], "row": rows.get(name, -1), "source_bytes": records[name]["source"][0]}
        for name in names
        if name in records
    ]
    return _table(lines, COLUMNS)


def _table(lines: Sequence[Any], columns: Sequence[str]) -> pd.DataFrame:
    """The lines as a table; `row` is blank for pictures that the index has not."""
    table = name_table(lines, columns=list(columns))
    rows = table["row"].astype("Int64")
    return table.assign(row=rows.mask(rows < 0))


def write_manifest(out: Path, table: pd.DataFrame, skipped: SkippedImages) -> None:
    """Write `manifest.csv`, and `skipped.csv` if pictures were left out.

    Raises:
        OutputError: they cannot be written.
    """
    with replace_when_done(out / MANIFEST) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g", errors="surrogateescape")
    if skipped.count:
        skipped.write(out / SKIPPED)
    else:
        (out / SKIPPED).unlink(missing_ok=True)


def planned_table(
    out: Path, listing: Listing, format: Format, index: ReferenceIndex, row_names: Sequence[str]
) -> Release:
    """What a release would do, from the headers of the pictures alone."""
    skipped, lines = SkippedImages(LEFT_OUT), []
    rows = last_rows(index.names, row_names)
    files = output_files(listing.names, format)
    for name, path, file, row in zip(listing.names, listing.paths, files, rows.tolist(), strict=True):
        try:
            with open_image(path) as stored:
                (width, height), notes = stored.size, form_notes(stored)
        except ImageReadError as error:
            skipped.record(name, error)
            continue
        lines.append((name, file, row, width, height, "; ".join(notes)))
    table = _table(lines, ["name", "file", "row", "width", "height", "notes"])
    return Release(out, table, skipped, dry_run=True)
