"""The random edit `auto` of copy detection: one to four edits of different families, drawn under a seed."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from aindex.edits import augly_repairs
from aindex.errors import EditError

EDIT_COUNT_PROBABILITIES = (0.1, 0.2, 0.3, 0.4)
_SEED_LIMIT = 2**32


@dataclass(frozen=True)
class DrawnEdit:
    """One edit with the parameters drawn for it; `params` holds JSON values only."""

    name: str
    params: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """The form in which edits stand in csv and JSON-lines files."""
        return {"edit": self.name, **self.params}


def _color(rng: np.random.Generator) -> list[int]:
    return [int(value) for value in rng.integers(0, 256, size=3)]


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return round(float(rng.uniform(low, high)), 6)


def _choice(rng: np.random.Generator, values: tuple[str, ...]) -> str:
    return values[int(rng.integers(len(values)))]


def _draw_emoji(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "emoji": _choice(rng, augly_repairs.emoji_names()),
        "x_pos": _uniform(rng, 0, 0.8),
        "y_pos": _uniform(rng, 0, 0.8),
        "opacity": _uniform(rng, 0.5, 1),
        "emoji_size": _uniform(rng, 0.4, 0.8),
    }


def _draw_text(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "font": _choice(rng, augly_repairs.font_names()),
        "text": [int(glyph) for glyph in rng.integers(0, 10_000, size=rng.integers(5, 16))],
        "font_size": _uniform(rng, 0.1, 0.3),
        "color": _color(rng),
        "x_pos": _uniform(rng, 0, 0.6),
        "y_pos": _uniform(rng, 0, 0.6),
    }


def _draw_crop(rng: np.random.Generator) -> dict[str, Any]:
    width, height = _uniform(rng, 0.3, 0.6), _uniform(rng, 0.3, 0.6)
    x1, y1 = _uniform(rng, 0, 1 - width), _uniform(rng, 0, 1 - height)
    return {"x1": x1, "y1": y1, "x2": round(x1 + width, 6), "y2": round(y1 + height, 6)}


Draw = Callable[[np.random.Generator], dict[str, Any]]

FAMILIES: dict[str, dict[str, Draw]] = {
    "color": {
        "brightness": lambda rng: {"factor": _uniform(rng, 0.1, 1.9)},
        "grayscale": lambda rng: {},
        "saturation": lambda rng: {"factor": _uniform(rng, 2, 5)},
    },
    "overlay": {"overlay_emoji": _draw_emoji, "overlay_text": _draw_text},
    "pixel": {
        "blur": lambda rng: {"radius": _uniform(rng, 5, 10)},
        "convert_color": lambda rng: {"colors": int(rng.integers(2, 17))},
        "encoding_quality": lambda rng: {"quality": int(rng.integers(5, 26))},
        "apply_pil_filter": lambda rng: {},
        "pixelization": lambda rng: {"ratio": _uniform(rng, 0.2, 0.5)},
        "shuffle_pixels": lambda rng: {
            "factor": _uniform(rng, 0.1, 0.3),
            "seed": int(rng.integers(_SEED_LIMIT)),
        },
    },
    "spatial": {
        "crop": _draw_crop,
        "hflip": lambda rng: {},
        "change_aspect_ratio": lambda rng: {"ratio": _uniform(rng, 0.5, 2)},
        "overlay_onto_screenshot": lambda rng: {"template": _choice(rng, augly_repairs.template_names())},
        "pad_square": lambda rng: {"color": _color(rng)},
        "perspective_transform": lambda rng: {
            "sigma": _uniform(rng, 30, 60),
            "seed": int(rng.integers(_SEED_LIMIT)),
        },
        "rotate": lambda rng: {"degrees": _uniform(rng, -90, 90)},
    },
}


def draw_random_edits(seed: int) -> list[DrawnEdit]:
    """One to four edits of different families, in the order in which they are applied.

    A crop goes first (positions of the others then refer to what is left) and a palette conversion last (what comes
    after it would be drawn in few colours or undo it).
    """
    rng = np.random.default_rng(seed)
    count = 1 + int(rng.choice(len(EDIT_COUNT_PROBABILITIES), p=EDIT_COUNT_PROBABILITIES))
    families = list(FAMILIES)
    edits = []
    for index in rng.choice(len(families), size=count, replace=False):
        kinds = FAMILIES[families[int(index)]]
        name = _choice(rng, tuple(kinds))
        edits.append(DrawnEdit(name, kinds[name](rng)))
    rank = {"crop": 0, "convert_color": 2}
    return sorted(edits, key=lambda edit: rank.get(edit.name, 1))


def _feasible_perspective(image: Image.Image, sigma: float, seed: int) -> int:
    """The first seed from `seed` on whose corners leave an eighth of each side when the border is cropped away.

    AugLy's corners move by pixels, so on a small picture many draws leave nothing or a sliver. Such a draw is
    repeated: the corners then follow their law under the condition that a picture is left.
    """
    width, height = image.size
    for candidate in range(seed, seed + 10_000):
        # the draws of augly.image.functional.perspective_transform: x and y of each corner in turn
        rng = np.random.RandomState(candidate % _SEED_LIMIT)
        corners = [(0, 0), (width, 0), (width, height), (0, height)]
        moved = [(rng.normal(x, sigma), rng.normal(y, sigma)) for x, y in corners]
        left, right = max(0, moved[0][0], moved[3][0]), min(width, moved[1][0], moved[2][0])
        top, bottom = max(0, moved[0][1], moved[1][1]), min(height, moved[2][1], moved[3][1])
        if right - left >= max(2, width / 8) and bottom - top >= max(2, height / 8):
            return candidate % _SEED_LIMIT
    raise EditError(
        f"perspective_transform with sigma {sigma:g} pixels leaves nothing of a picture of {width}×{height} pixels; "
        "use a larger picture"
    )


def _augly_arguments(image: Image.Image, edit: DrawnEdit) -> dict[str, Any]:
    """The keyword arguments of AugLy's function of the same name."""
    params = dict(edit.params)
    match edit.name:
        case "overlay_emoji":
            params["emoji_path"] = augly_repairs.emoji_path(params.pop("emoji"))
        case "overlay_text":
            params["font_file"] = augly_repairs.font_path(params.pop("font"))
            params["color"] = tuple(params["color"])
            params["font_size"] = max(
                params["font_size"], 1.01 / min(image.size)
            )  # glyphs of at least one pixel
        case "convert_color":
            params |= {"mode": "P", "palette": int(Image.Palette.ADAPTIVE)}
        case "overlay_onto_screenshot":
            params["template_filepath"] = augly_repairs.template_path(params.pop("template"))
            params["crop_src_to_fit"] = True
        case "pad_square":
            params["color"] = tuple(params["color"])
        case "perspective_transform":
            params["seed"] = _feasible_perspective(image, params["sigma"], params["seed"])
            params["crop_out_black_border"] = True
    return params


def apply_drawn_edits(image: Image.Image, edits: list[DrawnEdit]) -> Image.Image:
    """The picture after the edits, one after the other, as RGB.

    Raises:
        EditError: names the edit that failed, with its parameters.
    """
    for edit in edits:
        size = f"{image.width}×{image.height}"
        try:
            function = augly_repairs.augly_function(edit.name)
            image = function(image, **_augly_arguments(image, edit)).convert("RGB")
            if 0 in image.size:
                raise ValueError("nothing is left of it")
        except Exception as error:
            raise EditError(
                f"edit {json.dumps(edit.as_dict())} failed on a picture of {size}: {type(error).__name__}: {error}"
            ) from error
    return image


def apply_random_edits(image: Image.Image, *, seed: int) -> tuple[Image.Image, list[dict[str, Any]]]:
    """Draw and apply in one call.

    Returns:
        The edited picture (RGB) and what was done, each edit as a JSON-able dictionary.
    """
    edits = draw_random_edits(seed)
    return apply_drawn_edits(image, edits), [edit.as_dict() for edit in edits]
