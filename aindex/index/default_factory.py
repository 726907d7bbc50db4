"""Which index suits a collection, where nobody names one."""

import math

DEFAULT_FACTORY = "IVF4096,PQ8x8"
"""Of a run, which the published experiments have; collections of pictures get what `default_factory` finds suitable."""

EXACT_PICTURES = 1_000
"""Up to so many pictures each search compares with all of them: a millisecond, and nothing is lost in cells."""

_MOST_CELLS = 4096
_TRAINING_PER_CELL = 39  # what FAISS recommends
_FEWEST_FOR_CODES = 1024  # a codebook has 256 words
_PARTS = 8


def default_factory(pictures: int | None, training: int, dim: int, *, rows: int = 1) -> str:
    """A factory string: exact for small collections, else about 4·√n cells with codes of eight bytes.

    Args:
        pictures: that the index begins with; None where they come later.
        training: descriptors to train on; they limit the number of cells.
        rows: most rows of each picture; several need cells to lie in.

    Returns:
        `Flat`, `IVF<cells>,PQ8x8`, or `IVF<cells>,Flat` where the training is too small for codes or eight does not
        divide the dimension.
    """
    if pictures is not None and pictures <= EXACT_PICTURES and rows == 1:
        return "Flat"
    wanted = (
        _MOST_CELLS if pictures is None else 2 ** round(math.log2(4 * math.sqrt(max(1, pictures * rows))))
    )
    bearable = 2 ** int(math.log2(max(1, training // _TRAINING_PER_CELL)))
    cells = max(2, min(wanted, bearable, _MOST_CELLS))
    has_codes = training >= _FEWEST_FOR_CODES and dim % _PARTS == 0
    return f"IVF{cells},{'PQ8x8' if has_codes else 'Flat'}"
