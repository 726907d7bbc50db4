"""Ways to find edited copies of pictures: a class each. A new one is one file, and a line in `entrants` below."""

from collections.abc import Callable, Iterator
from importlib import import_module

from .base import Bench, Rival, UnavailableError

Maker = Callable[[Bench], Rival]


def _of(module: str, kind: str, *arguments: object) -> Maker:
    """Makes a rival whose module is imported only then: its package may be absent."""
    return lambda bench: getattr(import_module(f"{__name__}.{module}"), kind)(bench, *arguments)


def entrants() -> dict[str, Maker]:
    """All rivals by a short name, in the order of the tables."""
    return {
        "phash": _of("phash", "PHash"),
        "pdq": _of("pdq", "PDQ"),
        "pdq8": _of("pdq", "PDQInEightOrientations"),
        "dwtdctsvd": _of("dwt_dct_svd", "DwtDctSvd"),
        "rivagan": _of("rivagan", "RivaGAN"),
        "trustmark": _of("trust_mark", "TrustMark"),
        "videoseal": _of("seals", "VideoSeal"),
        "pixelseal": _of("seals", "PixelSeal"),
        "exhaustive": _of("passive", "Exhaustive"),
        "passive1": _of("passive", "Passive", 1),
        "passive4": _of("passive", "Passive", 4),
        "passive16": _of("passive", "Passive", 16),
        "paper": _of("active", "Active", "paper"),
        "robust": _of("active", "Active", "robust"),
        "robust4": _of("active", "Active", "robust", 4),
        "rows": _of("several_rows", "SeveralRows", "robust", 3),
    }


def enter(bench: Bench, names: list[str]) -> tuple[list[Rival], dict[str, str]]:
    """The rivals that can take part, and why the others cannot, by short name."""
    makers, rivals, left_out = entrants(), {}, {}
    for name in names:
        try:
            rivals[name] = makers[name](bench)
        except (UnavailableError, ImportError, OSError) as error:
            left_out[name] = " ".join(f"{type(error).__name__}: {error}".split())
    return [*rivals.values(), *_both(rivals)], left_out


def _both(rivals: dict[str, Rival]) -> Iterator[Rival]:
    """The mark of networks and the robust activation on one picture, where both take part."""
    from .combined import Combined

    if "rivagan" in rivals and "robust" in rivals:
        yield Combined(rivals["rivagan"], rivals["robust"], "mark")
        yield Combined(rivals["rivagan"], rivals["robust"], "index")


__all__ = ["Bench", "Maker", "Rival", "UnavailableError", "enter", "entrants"]
