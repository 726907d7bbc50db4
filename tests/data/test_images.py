import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from aindex.data.images import (
    SkippedImages,
    _formats,
    image_names,
    list_images,
    read_image,
    read_names,
    to_tensor,
    write_names,
)
from aindex.errors import DataError, ImageReadError

# Pillow warns about damaged metadata; the pixels decide here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
ODD_NAMES = [
    "new\nline.png",
    "quote'\".png",
    "emoji🦊.png",
    '"quoted".png',
    " space .png",
    "<b>&amp;.png",
    "a\\b.png",
]


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Permissions mean nothing to root, so root becomes nobody for a while."""
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)


def encoded(image: Image.Image, tmp_path: Path, name: str, **options: object) -> Path:
    path = tmp_path / name
    image.save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.webp", "a.jpg", "a.gif", "a.avif", "a.heic"])
def test_formats(name, make_picture, tmp_path):
    if name.endswith("heic"):
        pytest.importorskip("pillow_heif", reason="install pillow_heif to read HEIF").register_heif_opener()
    options = {"a.webp": {"lossless": True}, "a.jpg": {"quality": 95}}.get(name, {})
    picture = make_picture(1)
    result = read_image(encoded(picture, tmp_path, name, **options))
    assert result.mode == "RGB"
    error = np.abs(np.asarray(result, int) - np.asarray(picture, int))
    lossless = name in ("a.png", "a.bmp", "a.tif", "a.webp")
    assert error.max() == 0 if lossless else error.mean() < 20


def test_content_decides_the_format_not_the_name(make_picture, tmp_path):
    encoded(make_picture(1), tmp_path, "a.png").rename(tmp_path / "a.jpg")
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.jpg")), np.asarray(make_picture(1)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, make_picture, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = encoded(make_picture(2), tmp_path, "a.png", exif=exif)
    with Image.open(path) as image:
        expected = ImageOps.exif_transpose(image)
    assert np.array_equal(np.asarray(read_image(path)), np.asarray(expected))


def test_orientation_of_tiff_is_applied_once(make_picture, tmp_path):
    path = encoded(make_picture(2, 48, 40), tmp_path, "a.tif", tiffinfo={274: 6})
    assert np.array_equal(
        np.asarray(read_image(path)),
        np.asarray(make_picture(2, 48, 40).transpose(Image.Transpose.ROTATE_270)),
    )


def test_broken_exif_beside_good_pixels(make_picture, tmp_path):
    path = encoded(make_picture(2), tmp_path, "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_image(path).size == (48, 40)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_modes(mode, make_picture, tmp_path):
    path = encoded(make_picture(3).convert(mode), tmp_path, "a.tif")
    expected = make_picture(3).convert(mode).convert("RGB")
    assert np.abs(np.asarray(read_image(path), int) - np.asarray(expected, int)).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white(mode, tmp_path):
    image = Image.new("RGBA", (8, 8), (10, 10, 10, 255))
    image.paste((10, 10, 10, 0), (0, 0, 4, 8))
    pixels = np.asarray(read_image(encoded(image.convert(mode), tmp_path, "a.png")))
    assert (pixels[:, :4] == 255).all()
    assert np.abs(pixels[:, 4:].astype(int) - 10).max() <= 1


def test_half_transparent_pixels_are_blended_with_white(tmp_path):
    pixels = np.asarray(read_image(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), tmp_path, "a.png")))
    assert (pixels == 127).all()


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bit_grey_is_scaled_not_clipped(name, tmp_path):
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    pixels = np.asarray(read_image(encoded(Image.fromarray(values), tmp_path, name)))
    assert np.array_equal(pixels[..., 0], np.rint(values / 257).astype(np.uint8))
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


def test_float_picture_with_nan_is_an_error(tmp_path):
    path = encoded(Image.fromarray(np.full((4, 4), np.nan, np.float32)), tmp_path, "a.tif")
    with pytest.raises(ImageReadError, match="NaN"):
        read_image(path)


def test_first_frame_of_an_animation(make_picture, tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    path = encoded(frames[0], tmp_path, "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(path).getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize("size", [(1, 30), (30, 1), (1, 1), (20_000, 3)])
def test_extreme_sizes(size, make_picture, tmp_path):
    assert to_tensor(read_image(encoded(make_picture(1, *size), tmp_path, "a.png"))).shape == (
        3,
        size[1],
        size[0],
    )


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.webp", "a.tif", "a.bmp"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_truncated_file(name, share, make_picture, tmp_path):
    path = encoded(make_picture(1), tmp_path, name)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert_refused(path)


def test_decompression_bomb(make_picture, tmp_path, monkeypatch):
    path = encoded(make_picture(1), tmp_path, "a.png")
    for limit in (1000, 1900):  # Pillow itself raises above twice the limit and only warns above the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.warns(Image.DecompressionBombWarning) if limit == 1900 else contextlib.nullcontext():
            assert_refused(path)


def test_what_is_no_picture(tmp_path):
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "dangling.png").symlink_to("nowhere")
    (tmp_path / "loop.png").symlink_to("loop.png")
    for name in (
        "text.jpg",
        "script.png",
        "folder.png",
        "pipe.png",
        "dangling.png",
        "loop.png",
        "absent.png",
    ):
        assert_refused(tmp_path / name)
    assert_refused(Path("nul\0.png"))


def test_permission(make_picture, tmp_path):
    path = encoded(make_picture(1), tmp_path, "a.png")
    path.chmod(0)
    with without_privileges():
        assert "Permission" in assert_refused(path)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names(name, make_picture, tmp_path):
    path = encoded(make_picture(1), tmp_path, name, format="PNG")
    assert read_image(path).size == (48, 40)
    path.write_bytes(b"")
    assert_refused(path)


def assert_refused(path: Path) -> str:
    with pytest.raises(ImageReadError) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith("cannot read picture")
    assert "\n" not in message
    return message


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fuzzed_bytes_give_a_picture_or_an_error(data, make_picture, tmp_path):
    form = data.draw(st.sampled_from(["jpg", "png", "gif", "webp", "tif", "bmp", "ppm", "jp2"]))
    path = tmp_path / f"a.{form}"
    good = path.with_name(f"good.{form}")
    if not good.exists():
        make_picture(1, 24, 20).save(good)
    content = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(
        bytes(content[: data.draw(st.integers(0, len(content)))]) if data.draw(st.booleans()) else content
    )
    try:
        outcome = read_image(path).mode
    except ImageReadError as error:
        outcome = str(error)
    assert outcome == "RGB" or (outcome.startswith("cannot read picture") and "\n" not in outcome)


def test_to_tensor():
    tensor = to_tensor(Image.fromarray(np.array([[[0, 51, 255]]], np.uint8)))
    assert tensor.shape == (3, 1, 1)
    assert tensor.flatten().tolist() == pytest.approx([0, 0.2, 1])


def test_list_folder(make_pictures, tmp_path):
    make_pictures("top/b", 1)
    make_pictures("top/a", 1)
    (tmp_path / "top" / "Z.JPG").touch()
    (tmp_path / "top" / "notes.txt").touch()
    (tmp_path / "top" / ".hidden.png").touch()
    (tmp_path / "top" / ".hidden").mkdir()
    (tmp_path / "top" / ".hidden" / "x.png").touch()
    (tmp_path / "top" / "gone.png").symlink_to("nowhere")
    root = tmp_path / "top"
    assert image_names(list_images(root), root) == ["Z.JPG", "a/P000000.png", "b/P000000.png", "gone.png"]


def test_list_folder_with_looping_links(make_pictures, tmp_path):
    make_pictures("top/a", 1)
    make_pictures("top/b", 1)
    root = tmp_path / "top"
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "b").symlink_to(root / "b")
    (root / "b" / "a").symlink_to(root / "a")
    (root / "self").symlink_to("self")
    names = image_names(list_images(root), root)
    assert names == ["a/P000000.png", "a/b/P000000.png", "b/P000000.png", "b/a/P000000.png"]


def test_list_file(make_pictures, tmp_path):
    paths = make_pictures("p", 3)
    (tmp_path / "list.txt").write_text(f"p/P000002.png\r\n\n{paths[0]}\n")
    assert list_images(tmp_path / "list.txt") == [paths[2], paths[0]]
    assert list_images(paths[1]) == [paths[1]]


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"", b'"unfinished\n', b'"nul\\u0000"\n', b"nul\0\n"])
def test_list_file_that_is_none(content, tmp_path):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"list\.txt"):
        list_images(tmp_path / "list.txt")


def test_names_are_relative_to_the_root_where_they_lie_below_it(tmp_path, monkeypatch, make_pictures):
    make_pictures("p/a", 1)
    monkeypatch.chdir(tmp_path)
    for root in (Path("p"), Path("./p/"), tmp_path / "p"):
        assert image_names(list_images(root), root) == ["a/P000000.png"]
    assert image_names(list_images(Path(".")), Path(".")) == ["p/a/P000000.png"]
    assert image_names([Path("/x/p/1.png"), Path("/xp/2.png")], Path("/x")) == ["p/1.png", "/xp/2.png"]
    assert image_names([Path("/x/1.png")], Path("/")) == ["x/1.png"]


def test_folder_without_permission(make_pictures, tmp_path):
    make_pictures("p/a", 1)
    (tmp_path / "p" / "a").chmod(0)
    tmp_path.chmod(0o755)
    with without_privileges(), pytest.raises(DataError, match=r"cannot be listed|does not exist"):
        list_images(tmp_path / "p")
    with pytest.raises(DataError, match="does not exist"):
        list_images(Path("x" * 5000))


def test_missing_and_empty_folder(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        list_images(tmp_path / "absent")
    with pytest.raises(DataError, match="holds no picture"):
        list_images(tmp_path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.text(min_size=1).filter(lambda name: "\0" not in name)))
def test_names_survive_writing_and_reading(tmp_path, names):
    write_names(tmp_path / "names.txt", [*names, *ODD_NAMES, "caf\udce9.png"])
    assert read_names(tmp_path / "names.txt") == [*names, *ODD_NAMES, "caf\udce9.png"]


def test_skipped_images(tmp_path):
    skipped = SkippedImages()
    assert skipped.summary() == ""
    skipped.record("a\n.png", ImageReadError("no\ngood"))
    skipped.record("b.png", "bad")
    assert skipped.count == 2
    assert skipped.summary() == "2 unreadable picture(s) skipped: no good, and 1 more"
    skipped.write(tmp_path / "skipped.csv")
    assert SkippedImages.read(tmp_path / "skipped.csv").rows == [("a\n.png", "no good"), ("b.png", "bad")]
    assert SkippedImages.read(tmp_path / "none.csv").count == 0


def test_a_variable_lets_larger_pictures_in(make_picture, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    path = encoded(make_picture(1), tmp_path, "a.png")
    _formats.cache_clear()
    with pytest.warns(Image.DecompressionBombWarning):
        assert "AINDEX_MAX_PIXELS" in assert_refused(path)
    monkeypatch.setenv("AINDEX_MAX_PIXELS", "1920")
    _formats.cache_clear()
    assert read_image(path).size == (48, 40)
    monkeypatch.setenv("AINDEX_MAX_PIXELS", "lots")
    _formats.cache_clear()
    assert "expected a number of pixels" in assert_refused(path)
    monkeypatch.delenv("AINDEX_MAX_PIXELS")
    _formats.cache_clear()
