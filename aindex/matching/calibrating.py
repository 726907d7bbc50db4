"""Set an index's threshold from pictures that match nothing in it."""

from pathlib import Path

from aindex.collection.equipment import SHIPPED, Visits, index_folder, open_equipment, visited_cells
from aindex.descriptors.extraction import ExtractionSettings
from aindex.descriptors.extractor import Extractor
from aindex.descriptors.sources import Source, describe, picture_paths
from aindex.errors import ConfigError, DataError
from aindex.index.reference_index import ReferenceIndex
from aindex.matching.calibration import (
    Calibration,
    ScoreKind,
    calibrate_index,
    check_rate,
    require_enough,
)


def calibrate(
    index: ReferenceIndex | Path | str,
    negatives: Source,
    *,
    false_positive_rate: float = 0.01,
    score: ScoreKind = "distance",
    nprobe: Visits | None = "auto",
    extractor: Extractor | Path | str | None = None,
    resize_size: int | None = None,
    settings: ExtractionSettings | None = None,
) -> Calibration:
    """Set the threshold of a match from pictures that match nothing, and keep it in the index folder.

    Args:
        index: the index folder; an index that is open keeps it until it is saved.
        negatives: pictures without an original in the index, as queries will look: a folder, a list file, a folder
            that `aindex extract` made, or a descriptor file. As many as 1 / false_positive_rate, better ten times that.
        false_positive_rate: share of such pictures that may be taken for matches.
        score: what is compared: `distance` to the best match, or `normalised`, how much nearer it is than the next.
        nprobe: coarse cells that searches will visit: a number, null (None) for the index's own, or auto: as many as
            hold some twenty thousand rows. Searches that choose by themselves take the same.
        extractor: name or path, or one in use (default: the one that the index names).
        resize_size: side of the extractor's square input, pixels (default: the index's).
        settings: device, precision and batch size.

    Raises:
        AindexError: too few pictures for the rate, no such index, or it cannot be written.
    """
    if str(index) == SHIPPED:
        raise ConfigError(
            "the index that comes with aindex is not written to: make one of your own with aindex index build --like "
            "shipped, and calibrate that"
        )
    equipment = open_equipment(index, extractor, resize_size=resize_size, settings=settings)
    opened = equipment.index
    if opened.pictures < 2:
        raise DataError(
            f"an index of {opened.pictures} rows cannot be calibrated: expected 2 or more; add pictures"
        )
    check_rate(false_positive_rate)
    if nprobe == "auto":
        opened.calibration = None  # chosen anew
    nprobe = visited_cells(opened, nprobe)
    opened.check_search(2, nprobe)
    pictures = picture_paths(negatives)
    if pictures is not None:
        require_enough(len(pictures), false_positive_rate)
    described = describe(negatives, equipment.extractor, None, equipment.settings)
    distances, ids = opened.search(described.descriptors, 2, nprobe)
    found = calibrate_index(
        opened,
        described.names,
        distances,
        ids,
        false_positive_rate=false_positive_rate,
        score=score,
        nprobe=opened.nprobe if nprobe is None else nprobe,
    )
    if not isinstance(index, ReferenceIndex):
        opened.save(index_folder(index))
    return found
