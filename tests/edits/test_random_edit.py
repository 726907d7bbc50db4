import json
from collections import Counter

import numpy as np
import PIL.ImageFont
import pytest
from PIL import Image

from aindex.edits import augly_repairs
from aindex.edits.random_edit import (
    EDIT_COUNT_PROBABILITIES,
    FAMILIES,
    DrawnEdit,
    apply_drawn_edits,
    apply_random_edits,
    draw_random_edits,
)
from aindex.errors import EditError

FAMILY_OF = {name: family for family, kinds in FAMILIES.items() for name in kinds}
UNIFORM = {
    ("brightness", "factor"): (0.1, 1.9), ("saturation", "factor"): (2, 5), ("overlay_emoji", "x_pos"): (0, 0.8),
    ("overlay_emoji", "y_pos"): (0, 0.8), ("overlay_emoji", "opacity"): (0.5, 1),
    ("overlay_emoji", "emoji_size"): (0.4, 0.8), ("overlay_text", "font_size"): (0.1, 0.3),
    ("overlay_text", "x_pos"): (0, 0.6), ("overlay_text", "y_pos"): (0, 0.6), ("blur", "radius"): (5, 10),
    ("convert_color", "colors"): (2, 16), ("encoding_quality", "quality"): (5, 25),
    ("pixelization", "ratio"): (0.2, 0.5), ("shuffle_pixels", "factor"): (0.1, 0.3),
    ("change_aspect_ratio", "ratio"): (0.5, 2), ("perspective_transform", "sigma"): (30, 60),
    ("rotate", "degrees"): (-90, 90),
}  # fmt: skip


@pytest.fixture(scope="module")
def draws():
    return [draw_random_edits(seed) for seed in range(8000)]


@pytest.fixture(scope="module")
def picture():
    coarse = np.random.default_rng(3).integers(0, 256, size=(6, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((240, 160), Image.Resampling.BICUBIC)


def within(count, total, probability):
    """Four standard deviations of a binomial: fails by chance once in 16,000 looks."""
    return abs(count - total * probability) <= 4 * (total * probability * (1 - probability)) ** 0.5


def test_number_of_edits_and_families_have_the_given_frequencies(draws):
    sizes = Counter(len(edits) for edits in draws)
    for count, probability in enumerate(EDIT_COUNT_PROBABILITIES, start=1):
        assert within(sizes[count], len(draws), probability)
    names = Counter(edit.name for edits in draws for edit in edits)
    for family, kinds in FAMILIES.items():
        total = sum(names[name] for name in kinds)
        assert within(total, len(draws), 0.75), family  # the mean count, 3, over four families
        for name in kinds:
            assert within(names[name], total, 1 / len(kinds)), name


def test_families_do_not_repeat_and_crop_is_first_and_palette_last(draws):
    for edits in draws:
        names = [edit.name for edit in edits]
        assert len({FAMILY_OF[name] for name in names}) == len(names)
        assert "crop" not in names[1:]
        assert "convert_color" not in names[:-1]


def test_parameters_fill_their_ranges(draws):
    seen = {}
    for edit in (edit for edits in draws for edit in edits):
        for key, value in edit.params.items():
            seen.setdefault((edit.name, key), []).append(value)
    for key, (low, high) in UNIFORM.items():
        values = np.array(seen[key], dtype=float)
        assert values.min() >= low
        assert values.max() <= high
        width = high - low
        assert values.min() < low + 0.05 * width
        assert values.max() > high - 0.05 * width
        # mean and spread of a uniform law
        assert abs(values.mean() - (low + high) / 2) < 4.5 * width / (12 * len(values)) ** 0.5, key
    lengths = Counter(len(text) for text in seen["overlay_text", "text"])
    assert set(lengths) == set(range(5, 16))
    assert len(set(seen["overlay_text", "font"])) > 0.9 * len(augly_repairs.font_names())
    assert set(seen["overlay_onto_screenshot", "template"]) == {"web", "mobile"}
    for x1, x2 in zip(seen["crop", "x1"], seen["crop", "x2"], strict=True):
        assert x1 >= 0
        assert x2 <= 1
        assert 0.3 - 1e-5 <= x2 - x1 <= 0.6 + 1e-5


@pytest.mark.parametrize("name", sorted(FAMILY_OF))
def test_every_edit_works_and_changes_the_picture(picture, name):
    edit = next(e for seed in range(10_000) for e in draw_random_edits(seed) if e.name == name)
    edited = apply_drawn_edits(picture, [edit])
    assert edited.mode == "RGB"
    assert edited.size != picture.size or edited.tobytes() != picture.tobytes()
    json.dumps(edit.as_dict())


def test_palette_has_the_drawn_number_of_colours(picture):
    edited = apply_drawn_edits(picture, [DrawnEdit("convert_color", {"colors": 5})])
    assert len(edited.getcolors()) == 5


def test_same_seed_same_pixels_in_any_order_and_global_random_state_untouched(picture):
    seeds = list(range(60))
    np.random.seed(11)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    forward = {seed: apply_random_edits(picture, seed=seed)[0].tobytes() for seed in seeds}
    backward = {seed: apply_random_edits(picture, seed=seed)[0].tobytes() for seed in reversed(seeds)}
    assert forward == backward
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_repairs_leave_pillow_numpy_and_augly_as_they_were(picture):
    augly_repairs.augly_function("meme_format")(picture)
    augly_repairs.augly_function("perspective_transform")(picture, sigma=10.0, seed=1)
    augly_repairs.augly_function("overlay_text")(picture, text=[1, 2, 3])
    assert not hasattr(np, "float")
    assert not hasattr(PIL.ImageFont.FreeTypeFont, "getsize_multiline")
    from augly.image import functional

    with pytest.raises(AttributeError):
        functional.meme_format(picture)


@pytest.mark.parametrize("font", augly_repairs.font_names()[::7])
def test_fonts_can_write(picture, font):
    edit = DrawnEdit("overlay_text", {"font": font, "text": list(range(3, 12)), "font_size": 0.2, "color": [1, 2, 3],
                                      "x_pos": 0.1, "y_pos": 0.1})  # fmt: skip
    apply_drawn_edits(picture, [edit])


def test_perspective_on_a_small_picture_is_drawn_again_until_something_is_left():
    small = Image.new("RGB", (60, 40), (200, 30, 60))
    for seed in range(20):
        edit = DrawnEdit("perspective_transform", {"sigma": 55.0, "seed": seed})
        assert min(apply_drawn_edits(small, [edit]).size) >= 1


def test_an_edit_that_cannot_work_is_an_error_with_its_parameters():
    with pytest.raises(EditError, match=r'"edit": "perspective_transform".*1×1'):
        apply_drawn_edits(
            Image.new("RGB", (1, 1)), [DrawnEdit("perspective_transform", {"sigma": 60.0, "seed": 1})]
        )


@pytest.mark.parametrize("size", [(1, 50), (50, 1), (1, 1)])
def test_edits_that_leave_nothing_are_errors(size):
    nothing = Image.new("RGB", size, (90, 120, 30))
    refused = 0
    for seed in range(12):
        try:
            edited, _ = apply_random_edits(nothing, seed=seed)
        except EditError as error:
            refused += "nothing is left of it" in str(error)
        else:
            assert min(edited.size) > 0
    assert refused


@pytest.mark.parametrize(("factor", "seed"), [(0.1, 3), (0.27, 2**32 - 1), (1.0, 0)])
def test_shuffle_pixels_is_auglys(factor, seed):
    pixels = np.random.default_rng(1).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    state = np.random.get_state()  # noqa: NPY002
    expected = augly_repairs._functional().shuffle_pixels(Image.fromarray(pixels), factor=factor, seed=seed)
    np.random.set_state(state)  # noqa: NPY002
    found = augly_repairs.shuffle_pixels(Image.fromarray(pixels), factor=factor, seed=seed)
    assert np.array_equal(np.asarray(found), np.asarray(expected))
