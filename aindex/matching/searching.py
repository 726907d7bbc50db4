"""Find the originals of pictures: ranked matches with a verdict against a threshold."""

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from aindex.collection.equipment import Equipment, Visits, open_equipment, visited_cells
from aindex.data.images import SkippedImages, is_path, list_images, picture_name, read_picture
from aindex.data.tables import name_table
from aindex.descriptors.extraction import Extraction, ExtractionSettings, batch_ranges, extract
from aindex.descriptors.extractor import Extractor
from aindex.descriptors.preprocess import prepare
from aindex.errors import ConfigError, DataError, ImageReadError
from aindex.index.backend import Ids
from aindex.index.reference_index import ReferenceIndex
from aindex.matching.matches import COLUMNS, Matches
from aindex.matching.threshold import NO_THRESHOLD, Threshold, normalised_scores, stored_threshold
from aindex.paths import user_path

DEFAULT_K = 5

Query = Path | str | Image.Image


def search(
    index: ReferenceIndex | Path | str,
    queries: Query | Sequence[Query],
    *,
    k: int | None = None,
    nprobe: Visits | None = "auto",
    threshold: float | None = None,
    extractor: Extractor | Path | str | None = None,
    resize_size: int | None = None,
    settings: ExtractionSettings | None = None,
) -> Matches:
    """Find the originals of pictures in an index.

    Ranked matches with the squared distance (metric IP: the similarity), the score (how much nearer than the next
    match) and the verdict against the index's threshold (see `calibrate`).

    Args:
        index: folder of the index, or an open one; `shipped` is the one that comes with aindex.
        queries: picture files or folders of them, one or several; from Python PIL pictures too, on the command line -
            for a list of paths on the standard input, one per line.
        k: matches per picture (default: 5, or all rows of a smaller index).
        nprobe: coarse cells to visit: a number, null (None) for the index's own, or auto: as many as were calibrated,
            else as many as hold some twenty thousand rows. More find more and take longer.
        threshold: distance up to which (metric IP: similarity from which) a row is a match (default: what the index was
            calibrated to).
        extractor: name or path, or one in use (default: the one that the index names).
        resize_size: side of the extractor's square input, pixels (default: the index's).
        settings: device, precision and batch size.

    Returns:
        A table of matches; pictures that cannot be read are recorded in it.

    Raises:
        AindexError: no such index, no picture is given, or k is larger than the index.
    """
    equipment = open_equipment(index, extractor, resize_size=resize_size, settings=settings)
    opened = equipment.index
    if opened.pictures == 0:
        raise DataError("the index has no rows: add pictures to it with aindex index add")
    if threshold is not None and math.isnan(threshold):
        raise ConfigError(f"threshold {threshold}: expected a number; leave it out for the index's own")
    k = min(DEFAULT_K, opened.pictures) if k is None else k
    nprobe = visited_cells(opened, nprobe)
    opened.check_search(k, nprobe)
    given = [queries] if isinstance(queries, Path | str | Image.Image) else list(queries)
    pictures = [query for query in given if isinstance(query, Image.Image)]
    paths = [path for query in given if not isinstance(query, Image.Image) for path in query_files(query)]
    files = {path.as_posix(): path for path in paths}
    described = _described(list(dict.fromkeys(paths)), pictures, equipment)
    # One more neighbour than shown: the last one's score needs its successor.
    depth = min(k + 1, opened.pictures)
    distances, ids = opened.search(described.descriptors, max(k, depth), nprobe)
    if threshold is None:
        rule, note = stored_threshold(opened, nprobe)
    else:
        rule, note = Threshold("distance", threshold), ""
    table = _table(described.names, distances, ids, k, opened, rule)
    read_from = [files.get(name) for name in described.names]
    return Matches(table, described.names, read_from, described.skipped, rule, note)


def _described(paths: list[Path], pictures: list[Image.Image], equipment: Equipment) -> Extraction:
    """Descriptors of files and PIL pictures, in this order; those that cannot be read are recorded."""
    parts = []
    if paths or not pictures:
        parts.append(extract(paths, equipment.extractor, **equipment.settings._asdict(), require=False))
    if pictures:
        parts.append(_describe(pictures, _picture_names(pictures, {str(path) for path in paths}), equipment))
    return Extraction(
        np.concatenate([part.descriptors for part in parts]),
        [name for part in parts for name in part.names],
        SkippedImages(rows=[row for part in parts for row in part.skipped.rows]),
    )


def query_files(query: Path | str) -> list[Path]:
    """The pictures of a folder, or the file itself, which need not be there: reading will say.

    Raises:
        DataError: no file can have this path, or the folder holds no picture.
    """
    if not is_path(str(query)):
        raise DataError(f"query {str(query)!r}: expected the path of a picture or of a folder")
    path = user_path(query)
    return list_images(path) if os.path.isdir(path) else [path]


def _picture_names(pictures: Sequence[Image.Image], taken: set[str]) -> list[str]:
    """A name for each PIL picture: that of its file, if no other query has it."""
    names: list[str] = []
    for number, picture in enumerate(pictures):
        name = picture_name(picture) or f"picture {number}"
        names.append(f"{name} ({number})" if name in taken or name in names else name)
    return names


def _describe(pictures: list[Image.Image], names: list[str], equipment: Equipment) -> Extraction:
    blocks = [np.empty((0, equipment.extractor.dim), np.float32)]
    described, skipped = [], SkippedImages()
    for batch in batch_ranges(len(pictures), equipment.settings.batch_size):
        inputs = []
        for position in batch:
            try:
                inputs.append(prepare(read_picture(pictures[position]), equipment.extractor.input_size))
                described.append(names[position])
            except ImageReadError as error:
                skipped.record(names[position], error)
        blocks.append(equipment.describe(inputs).numpy())
    return Extraction(np.concatenate(blocks), described, skipped)


def _table(
    names: Sequence[str],
    distances: npt.NDArray[np.float32],
    ids: Ids,
    k: int,
    index: ReferenceIndex,
    rule: Threshold,
) -> pd.DataFrame:
    scores = normalised_scores(distances, ids, larger_is_closer=index.larger_is_closer)[:, :k]
    verdicts = rule.accepts(distances[:, :k], scores, larger_is_closer=index.larger_is_closer)
    query, rank = np.nonzero(ids[:, :k] >= 0)
    rows = ids[query, rank]
    table = name_table(
        {
            "query": _text(names[position] for position in query.tolist()),
            "rank": rank + 1,
            "name": _text(index.names[row] for row in rows.tolist()),
            "row": rows,
            "distance": distances[query, rank],
            "score": scores[query, rank],
            "match": None if rule is NO_THRESHOLD else verdicts[query, rank],
        },
        columns=list(COLUMNS),
    )
    return table.astype(
        {"rank": "int64", "row": "int64", "distance": "float64", "score": "Float64", "match": "boolean"}
    )


def _text(values: Iterable[str]) -> npt.NDArray[np.object_]:
    """A column of text, also where there is none of it: pandas takes an empty list for numbers."""
    return np.array(list(values), dtype=object)
