"""AugLy 1.0.0's image functions, running on releases of Pillow and numpy younger than it.

Some functions need names that are gone (`FreeTypeFont.getsize_multiline`, `numpy.float`), fail on some fonts under
the text layout that Pillow prefers today, or touch numpy's global random state. They are run as they are, each against
a namespace of its own in which those names stand for what they were; neither AugLy nor Pillow nor numpy is changed
for anybody else.
"""

import json
import mimetypes
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image, ImageFont


def _overlay(module: ModuleType, **replaced: Any) -> SimpleNamespace:
    """A module's names, some of them replaced."""
    return SimpleNamespace(**(vars(module) | replaced))


def _rebind(function: Callable[..., Any], **replaced: Any) -> FunctionType:
    """The same code as `function`, seeing `replaced` in place of its module's globals of those names."""
    assert isinstance(function, FunctionType)
    rebound = FunctionType(
        function.__code__,
        {**function.__globals__, **replaced},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    rebound.__kwdefaults__ = function.__kwdefaults__
    return rebound


class _Font(ImageFont.FreeTypeFont):
    """A font as Pillow before 10 had them: it measures several lines at once.

    The basic layout is asked for: the other one (raqm) is not on every machine and rejects some of AugLy's fonts.
    """

    def __init__(self, path: str, size: float) -> None:
        super().__init__(path, size, layout_engine=ImageFont.Layout.BASIC)

    def getsize_multiline(self, text: str, spacing: int = 4) -> tuple[int, int]:
        # the widest line; each line as high as an "A", `spacing` pixels between them
        lines = text.split("\n")
        width = max(int(self.getbbox(line)[2]) for line in lines)
        line_height = int(self.getbbox("A")[3]) + spacing
        return width, line_height * len(lines) - spacing


@cache
def _functional() -> Any:
    """AugLy's image functions.

    While it is imported, AugLy asks libmagic, a system library that not every machine has, whether its own files are
    pictures. Where libmagic is missing, a stand-in that goes by the files' endings answers until the import is done.
    """
    try:
        import magic  # noqa: F401
    except ImportError:
        stand_in = ModuleType("magic")
        stand_in.from_file = lambda path, mime=True: mimetypes.guess_type(path)[0] or ""  # type: ignore[attr-defined]
        sys.modules["magic"] = stand_in
        try:
            return import_module("augly.image.functional")
        finally:
            del sys.modules["magic"]
    return import_module("augly.image.functional")


@cache
def _template(path: str, boxes_path: str) -> tuple[Image.Image, tuple[int, int, int, int]]:
    template, box = _functional().imutils.get_template_and_bbox(path, boxes_path)
    template.load()
    return template, box


def _fresh_template(path: str, boxes_path: str) -> tuple[Image.Image, tuple[int, int, int, int]]:
    template, box = _template(path, boxes_path)
    return template.copy(), box


class _RowShuffler(np.random.RandomState):
    """A random state whose `shuffle` of a matrix draws the same numbers, but moves each row once."""

    def shuffle(self, rows: Any) -> None:
        order = np.arange(len(rows))
        super().shuffle(order)
        rows[:] = rows[order]


def shuffle_pixels(image: Image.Image, *, factor: float, seed: int) -> Image.Image:
    """AugLy's `shuffle_pixels`, with a random state of its own instead of numpy's global one, several times faster.

    Args:
        image: any picture.
        factor: share of the pixels that change places, 0 to 1.
        seed: 32-bit seed.
    """
    own_numpy = _overlay(np, random=_RowShuffler())
    shuffle: Callable[..., Image.Image] = _rebind(_functional().shuffle_pixels, np=own_numpy)
    return shuffle(image, factor=factor, seed=seed)


@cache
def augly_function(name: str) -> Callable[..., Image.Image]:
    """An image function of AugLy by name, repaired where it had to be."""
    functional = _functional()
    function: Callable[..., Image.Image] = getattr(functional, name)
    match name:
        case "meme_format" | "overlay_text":
            return _rebind(function, ImageFont=_overlay(ImageFont, truetype=_Font))
        case "perspective_transform":
            solve = _rebind(functional.imutils.compute_transform_coeffs, np=_overlay(np, float=float))
            return _rebind(function, imutils=_overlay(functional.imutils, compute_transform_coeffs=solve))
        case "overlay_onto_screenshot":  # decodes a template once and not for every picture
            return _rebind(
                function, imutils=_overlay(functional.imutils, get_template_and_bbox=_fresh_template)
            )
        case "shuffle_pixels":
            return shuffle_pixels
        case _:
            return function


@cache
def _assets() -> Path:
    spec = find_spec("augly")
    assert spec is not None, "augly is a dependency"
    assert spec.origin is not None
    return Path(spec.origin).parent / "assets"


@cache
def emoji_names() -> tuple[str, ...]:
    """The emoji that AugLy ships, as paths relative to its emoji folder, sorted."""
    folder = _assets() / "twemojis"
    return tuple(sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.png")))


def emoji_path(name: str) -> str:
    """The file of an emoji named as in `emoji_names`."""
    return str(_assets() / "twemojis" / name)


@cache
def font_names() -> tuple[str, ...]:
    """The fonts that AugLy ships together with a list of their glyphs, sorted."""
    folder = _assets() / "fonts"
    return tuple(sorted(path.name for path in folder.glob("*.ttf") if path.with_suffix(".pkl").exists()))


def font_path(name: str) -> str:
    """The file of a font named as in `font_names`."""
    return str(_assets() / "fonts" / name)


@cache
def template_names() -> tuple[str, ...]:
    """The screenshot templates that AugLy ships, without their ending, sorted."""
    boxes = json.loads((_assets() / "screenshot_templates" / "bboxes.json").read_text())
    return tuple(sorted(Path(name).stem for name in boxes))


def template_path(name: str) -> str:
    """The file of a screenshot template named as in `template_names`."""
    return str(_assets() / "screenshot_templates" / f"{name}.png")


def on_screenshot(image: Image.Image, template: str) -> Image.Image:
    """The picture on a screenshot template named as in `template_names`."""
    return augly_function("overlay_onto_screenshot")(image, template_filepath=template_path(template))
