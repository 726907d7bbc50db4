"""An image to activate or to evaluate, and the PNG of its released form, which keeps its name and subfolder."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from aindex.errors import DataError


@dataclass(frozen=True, kw_only=True)
class SourceImage:
    """An image to activate or to evaluate.

    Attributes:
        name: path relative to the data folder, POSIX form; its random numbers derive from it.
        path: where its pixels are read.
        index_id: its row in the index.
        released: path of its released form, relative to the folder of released images.
    """

    name: str
    path: Path
    index_id: int
    released: str


def png_names(names: Sequence[str]) -> list[str]:
    """Relative PNG paths, one per image name: ``a/b.jpg`` becomes ``a/b.png``.

    Where two names would meet (``b.jpg`` and ``b.webp``; upper and lower case count as equal) both keep their
    ending: ``b.jpg.png``.
    """
    short = [_inside(name).with_suffix(".png").as_posix() for name in names]
    full = [_inside(name).as_posix() + ".png" for name in names]
    taken = Counter(name.casefold() for name in short)
    chosen = [f if taken[s.casefold()] > 1 else s for s, f in zip(short, full, strict=True)]
    return chosen if len({name.casefold() for name in chosen}) == len(chosen) else _numbered(full)


def _numbered(files: Sequence[str]) -> list[str]:
    """Files that would still meet (``a.png`` and ``../a.png``) get a number each after the first."""
    taken: set[str] = set()
    numbered = []
    for file in files:
        candidate, number = file, 1
        while candidate.casefold() in taken:
            number += 1
            candidate = f"{file.removesuffix('.png')}.{number}.png"
        taken.add(candidate.casefold())
        numbered.append(candidate)
    return numbered


def _inside(name: str) -> PurePosixPath:
    """A name as a path that cannot leave the folder it is put below: a leading slash and every ``..`` are dropped."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "//", "..", ".")]
    # "." and "/" are no pictures, which reading will say; until then they need a name like all others
    return PurePosixPath(*(parts or ["_"]))


def find_released(folder: Path, names: Sequence[str]) -> list[Path]:
    """The released files of images, by the names of `png_names` or in full (``b.jpg.png``).

    Raises:
        DataError: the folder is missing, or a file is.
    """
    if not folder.is_dir():
        raise DataError(f"released images {str(folder)!r}: no such folder; give the imgs/ folder of a run")
    found = []
    for name, short in zip(names, png_names(names), strict=True):
        candidates = [folder / short, folder / (_inside(name).as_posix() + ".png"), folder / _inside(name)]
        path = next((candidate for candidate in candidates if os.path.isfile(candidate)), None)
        if path is None:
            raise DataError(
                f"image {name!r} has no released file in {str(folder)!r}: expected {short!r}; give the folder "
                "of a run over the same images, or list in data_dir only those that were released"
            )
        found.append(path)
    return found
