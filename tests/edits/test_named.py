import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import functional as tvf

from aindex.edits import augly_repairs
from aindex.edits.named import Attack, apply_attack, default_attacks, full_attacks
from aindex.errors import EditError


@pytest.fixture
def picture():
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, size=(6, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((180, 120), Image.Resampling.BICUBIC)


def test_default_attacks_are_the_fifteen_of_the_protocol():
    assert [str(attack) for attack in default_attacks()] == [
        "none", "auto", "meme_format", "overlay_onto_screenshot", "rotation 25", "rotation 90", "center_crop 0.5",
        "resize 0.5", "blur 11", "jpeg 50", "hue 0.2", "contrast 0.5", "contrast 2", "brightness 0.5", "brightness 2",
    ]  # fmt: skip


def test_full_attacks_cover_the_grid():
    params = {}
    for attack in full_attacks():
        params.setdefault(attack.name, []).append(attack.param)
    assert params["rotation"] == list(range(-90, 91, 10))
    assert params["center_crop"] == params["resize"] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert params["blur"] == list(range(1, 30, 2))
    assert params["jpeg"] == list(range(10, 101, 10))
    assert params["contrast"] == params["brightness"]
    assert params["contrast"][0] == 0.5
    assert params["contrast"][-1] == 1.9
    assert len(params["contrast"]) == 15
    assert params["hue"] == [-0.5, -0.4, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5]


@pytest.mark.parametrize("attack", [*default_attacks(), *full_attacks()], ids=str)
def test_every_attack_gives_an_rgb_copy_and_leaves_the_original_alone(picture, attack):
    before = picture.tobytes()
    edited = apply_attack(picture, attack, seed=5)
    assert edited.mode == "RGB"
    assert picture.tobytes() == before
    identity = {
        ("none", None),
        ("rotation", 0),
        ("resize", 1.0),
        ("center_crop", 1.0),
        ("blur", 1),
        ("hue", 0.0),
    }
    identity |= {("contrast", 1.0), ("brightness", 1.0)}
    if (attack.name, attack.param) not in identity:
        assert edited.size != picture.size or edited.tobytes() != before


def test_crop_and_resize_parameters_are_shares_of_the_area(picture):
    for name in ("center_crop", "resize"):
        edited = apply_attack(picture, Attack(name, 0.5))
        assert edited.width * edited.height == pytest.approx(0.5 * picture.width * picture.height, rel=0.02)
    cropped = np.asarray(apply_attack(picture, Attack("center_crop", 0.25)))
    np.testing.assert_array_equal(cropped, np.asarray(picture)[30:90, 45:135])


def test_brightness_and_contrast_by_their_formulas(picture):
    pixels = np.asarray(picture, dtype=float)
    bright = np.asarray(apply_attack(picture, Attack("brightness", 0.5)), dtype=float)
    assert np.abs(bright - pixels * 0.5).max() <= 1
    mean_luminance = np.asarray(picture.convert("L"), dtype=float).mean().round()
    flat = np.asarray(apply_attack(picture, Attack("contrast", 0.5)), dtype=float)
    assert np.abs(flat - (mean_luminance + 0.5 * (pixels - mean_luminance))).max() <= 1


def test_rotation_is_expanded_and_turns_ninety_degrees_exactly(picture):
    turned = apply_attack(picture, Attack("rotation", 90))
    np.testing.assert_array_equal(np.asarray(turned), np.rot90(np.asarray(picture)))
    assert apply_attack(picture, Attack("rotation", 25)).width > picture.width


def test_meme_has_a_white_banner_of_250_pixels_with_black_text(picture):
    meme = np.asarray(apply_attack(picture, Attack("meme_format")))
    assert meme.shape == (120 + 250, 180, 3)
    np.testing.assert_array_equal(meme[250:], np.asarray(picture))
    banner = meme[:250]
    assert (banner == 255).mean() > 0.5
    assert (banner == 0).mean() > 0.02
    # the text is centred: as much white on the left as on the right
    ink = np.flatnonzero((banner < 128).any(axis=(0, 2)))
    assert abs(ink[0] - (180 - 1 - ink[-1])) <= 12


def test_screenshot_templates_differ(picture):
    web, mobile = (
        apply_attack(picture, Attack("overlay_onto_screenshot"), template=template)
        for template in ("web", "mobile")
    )
    assert web.size == (1200, 736)
    assert mobile.size == (414, 736)


def test_auto_depends_on_the_seed_only(picture):
    attack = Attack("auto")
    first, again, other = (apply_attack(picture, attack, seed=seed) for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes()
    assert first.size != other.size or first.tobytes() != other.tobytes()


def test_a_failing_edit_is_an_error_that_names_picture_and_edit():
    with pytest.raises(EditError, match=r"holiday\.jpg \(1×4\): edit meme_format failed"):
        apply_attack(Image.new("RGB", (1, 4)), Attack("meme_format"), name="holiday.jpg")
    with pytest.raises(EditError, match="'rotation' needs a parameter"):
        apply_attack(Image.new("RGB", (9, 9)), Attack("rotation"))
    with pytest.raises(EditError, match="there is no edit 'rotate'"):
        apply_attack(Image.new("RGB", (9, 9)), Attack("rotate", 25))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (3000, 2)])
def test_odd_sizes(size):
    for attack in default_attacks():
        if attack.name not in ("meme_format", "auto", "overlay_onto_screenshot"):
            edited = apply_attack(Image.new("RGB", size, (40, 90, 200)), attack)
            assert min(edited.size) >= 1


@pytest.mark.parametrize("kernel", [1, 3, 11, 29])
@pytest.mark.parametrize("size", [(180, 120), (41, 33), (200, 7), (1, 9), (1, 1)])
def test_blur_is_torchvisions(size, kernel):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    largest = 2 * min(size) - 1
    expected = np.asarray(tvf.gaussian_blur(image, [min(kernel, largest)] * 2), dtype=np.int16)
    change = np.abs(np.asarray(apply_attack(image, Attack("blur", kernel)), dtype=np.int16) - expected)
    assert change.max() <= 1, "more than rounding"
    assert (change > 0).mean() < 0.001


@pytest.mark.parametrize("template", ["web", "mobile"])
def test_screenshot_is_auglys_whatever_came_before(picture, template):
    attack = Attack("overlay_onto_screenshot")
    apply_attack(picture.transpose(Image.Transpose.ROTATE_90), attack, template=template)
    found = apply_attack(picture, attack, template=template)
    path = augly_repairs.template_path(template)
    expected = augly_repairs._functional().overlay_onto_screenshot(picture, template_filepath=path)
    assert np.array_equal(np.asarray(found), np.asarray(expected))
