import numpy as np
import pytest
from PIL import Image, ImageOps

from aindex.edits.named import Attack, apply_attack, attacks_of, default_attacks, full_attacks, unseen_attacks


@pytest.fixture
def picture() -> Image.Image:
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, size=(6, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((180, 120), Image.Resampling.BICUBIC)


def edited(picture: Image.Image, name: str, param: float | None = None, seed: int = 0) -> np.ndarray:
    return np.asarray(apply_attack(picture, Attack(name, param), seed=seed), dtype=float)  # type: ignore[arg-type]


def test_the_lists() -> None:
    assert [str(attack) for attack in unseen_attacks()] == [
        "perspective 0.5", "gaussian_noise 0.1", "salt_and_pepper 0.05", "sharpen 5", "posterise 2", "vignette 0.8",
        "temperature 0.3", "hflip", "aspect 2", "swirl 1.5", "longest_side 128", "emoji 0.4", "text 0.2",
        "screenshot_mobile", "photographed_screen", "jpeg 20",
    ]  # fmt: skip
    assert attacks_of("unseen") == unseen_attacks()
    assert attacks_of("default") == default_attacks()
    assert attacks_of("full") == full_attacks()
    assert not set(unseen_attacks()) & set(default_attacks())


@pytest.mark.parametrize("attack", unseen_attacks(), ids=str)
@pytest.mark.parametrize("size", [(180, 120), (31, 200)])
def test_every_edit_gives_another_rgb_picture_and_leaves_the_original_alone(
    picture: Image.Image, attack: Attack, size: tuple[int, int]
) -> None:
    picture = picture.resize(size)
    before = picture.tobytes()
    copy = apply_attack(picture, attack, seed=5)
    assert copy.mode == "RGB"
    assert picture.tobytes() == before
    assert copy.size != picture.size or copy.tobytes() != before
    assert copy.tobytes() == apply_attack(picture, attack, seed=5).tobytes()


@pytest.mark.parametrize("name", ["gaussian_noise", "salt_and_pepper", "photographed_screen"])
def test_what_is_drawn_depends_on_the_seed(picture: Image.Image, name: str) -> None:
    param = {"gaussian_noise": 0.1, "salt_and_pepper": 0.05}.get(name)
    assert not np.array_equal(edited(picture, name, param, 1), edited(picture, name, param, 2))


def test_noise_is_as_strong_as_it_says(picture: Image.Image) -> None:
    grey = Image.new("RGB", (200, 200), (128,) * 3)
    assert edited(grey, "gaussian_noise", 0.1).std() == pytest.approx(25.5, rel=0.03)
    speckled = edited(grey, "salt_and_pepper", 0.05)
    assert (speckled == 255).mean() == pytest.approx(0.025, abs=0.005)
    assert (speckled == 0).mean() == pytest.approx(0.025, abs=0.005)


def test_colours_and_light_by_hand(picture: Image.Image) -> None:
    grey = Image.new("RGB", (101, 101), (100,) * 3)
    assert edited(grey, "temperature", 0.3)[0, 0].tolist() == [130, 100, 70]
    dark = edited(grey, "vignette", 0.8)[..., 0]
    assert dark[50, 50] == 100
    assert dark[0, 0] == pytest.approx(20, abs=2)
    assert len(np.unique(edited(picture, "posterise", 2))) <= 4


def test_shapes_by_hand(picture: Image.Image) -> None:
    np.testing.assert_array_equal(edited(picture, "hflip"), np.asarray(ImageOps.mirror(picture)))
    assert edited(picture, "aspect", 2).shape == (120, 360, 3)
    assert edited(picture, "longest_side", 128).shape == (85, 128, 3)
    tilted = edited(picture, "perspective", 0.5)
    assert not tilted[:28, 0].any()  # the left edge has lost half of its length
    assert not tilted[-28:, 0].any()
    assert tilted[40:80, 0].any()
    np.testing.assert_allclose(tilted[60, -1], np.asarray(picture, float)[60, -1], atol=12)
    swirled = edited(picture, "swirl", 1.5)
    np.testing.assert_allclose(swirled[0, 0], np.asarray(picture, float)[0, 0], atol=1)
    np.testing.assert_allclose(
        swirled[58:62, 88:92].mean(), np.asarray(picture, float)[58:62, 88:92].mean(), atol=12
    )
