"""Every form in which a container holds pixels, made by hand: read as it should be, or refused; never as another."""

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aindex.data.images import read_image, read_picture
from aindex.data.pixels import bits_per_sample
from aindex.errors import ImageReadError
from tests.conftest import draw_picture
from tests.data.png_files import write_bmp, write_png
from tests.data.tiff_files import write_tiff

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
RGB = np.asarray(draw_picture(3, 32, 24))
GREY = np.asarray(draw_picture(3, 32, 24).convert("L"))
UNSIGNED = {1: np.uint8, 2: np.uint8, 4: np.uint8, 8: np.uint8, 12: np.uint16, 16: np.uint16, 32: np.uint32}

# photometric interpretation: bits that may be read, bits that are refused whatever else holds
TIFF_KINDS = {
    0: ((1, 2, 4, 8, 16, 32), (12,)),
    1: ((1, 2, 4, 8, 16, 32), (12,)),
    2: ((8, 16, 32), (4,)),
    3: ((1, 2, 4, 8, 16), ()),
    5: ((8, 16), ()),
}
LAYOUTS = [
    {"order": order, "compression": compression, "planar": planar, "strips": strips, "tiled": tiled}
    for order, compression, planar, (strips, tiled) in itertools.product(
        "<>", ("none", "deflate", "packbits", "lzw"), (False, True), ((1, False), (3, False), (1, True))
    )
]


def in_depth(pixels: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples of a depth, and the 8 bits that they mean."""
    full = 2**bits - 1
    samples = np.rint(pixels / 255.0 * full).astype(UNSIGNED[bits])
    return samples, as_rgb(np.rint(samples / full * 255.0))


def as_rgb(values: np.ndarray) -> np.ndarray:
    return (values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)).astype(int)


def read(path: Path) -> np.ndarray | None:
    """Pixels; None where it is refused."""
    try:
        return np.asarray(read_image(path)).astype(int)
    except ImageReadError:
        return None


def tiff_samples(photometric: int, bits: int) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Samples, the pixels that they mean, and a palette."""
    samples, shown = in_depth(RGB if photometric in (2, 5) else GREY, bits)
    full = 2**bits - 1
    if photometric == 0:
        samples = (full - samples.astype(np.uint64)).astype(samples.dtype)
    if photometric == 5:
        samples = np.concatenate([full - samples, np.zeros_like(samples[..., :1])], axis=2)
    if photometric != 3:
        return samples, shown, {}
    colours = np.random.default_rng(0).integers(0, 256, (3, 2**bits)).astype(np.uint16)
    return samples, colours.T[samples].astype(int), {"colours": colours * 257}


@pytest.mark.parametrize("photometric", TIFF_KINDS)
def test_tiff_of_every_depth_and_layout(photometric, tmp_path):
    fitting, refused = TIFF_KINDS[photometric]
    for bits in (*fitting, *refused):
        samples, shown, palette = tiff_samples(photometric, bits)
        was_read = []
        for layout in LAYOUTS:
            if layout["planar"] and samples.ndim == 2:
                continue
            path = write_tiff(
                tmp_path / "a.tif", samples, bits=bits, photometric=photometric, **layout, **palette
            )
            pixels = read(path)
            was_read.append(pixels is not None)
            if pixels is not None:
                assert np.abs(pixels - shown).max() <= 1, (bits, layout)
        # LZW that Pillow does not read rightly needs another package
        assert (sum(was_read) >= 0.7 * len(was_read)) if bits in fitting else not any(was_read), bits


@pytest.mark.parametrize("extra", ["alpha", "premultiplied", "unspecified"])
@pytest.mark.parametrize(("photometric", "bits"), [(1, 8), (1, 16), (2, 8), (2, 16), (3, 8)])
def test_tiff_with_an_extra_sample(photometric, bits, extra, tmp_path):
    samples, shown, palette = tiff_samples(photometric, bits)
    colours = samples if samples.ndim == 3 else samples[..., None]
    alpha = np.full_like(colours[..., :1], 2**bits - 1)
    alpha[:8] = 0
    if extra == "premultiplied" and photometric != 3:
        colours = colours * (alpha > 0)
    if extra != "unspecified":
        shown = np.where(alpha > 0, shown, 255)
    meaning = {"unspecified": 0, "premultiplied": 1, "alpha": 2}[extra]
    found = 0
    for layout in LAYOUTS:
        path = write_tiff(
            tmp_path / "a.tif",
            np.concatenate([colours, alpha], axis=2).astype(samples.dtype),
            bits=bits,
            photometric=photometric,
            extra_samples=(meaning,),
            **layout,
            **palette,
        )
        pixels = read(path)
        found += pixels is not None
        if pixels is not None:
            assert np.abs(pixels - shown).max() <= 1, layout
    assert found >= 0.5 * len(LAYOUTS)


@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("photometric", [0, 1, 2])
def test_floating_point_tiff_is_black_at_0_and_white_at_1(photometric, bits, tmp_path):
    pixels = RGB if photometric == 2 else GREY
    values = (255 - pixels if photometric == 0 else pixels) / np.float64(255)
    for order, compression in itertools.product("<>", ("none", "deflate")):
        for factor in (1, 255):
            path = write_tiff(
                tmp_path / "a.tif",
                (values * factor).astype(f"f{bits // 8}"),
                bits=bits,
                photometric=photometric,
                order=order,
                compression=compression,
                sample_format=3,
            )
            found = read(path)
            if factor == 1:
                assert found is not None
                assert np.abs(found - as_rgb(pixels)).max() <= 1
            else:
                with pytest.raises(ImageReadError, match=r"expected 0 \(black\) to 1 \(white\)"):
                    read_image(path)


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_signed_tiff_says_no_white_and_is_refused(bits, tmp_path):
    samples = GREY.astype(f"i{bits // 8}")
    with pytest.raises(ImageReadError, match="signed samples"):
        read_image(write_tiff(tmp_path / "a.tif", samples, bits=bits, photometric=1, sample_format=2))


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_tiff_with_the_bits_of_each_byte_reversed(bits, tmp_path):
    samples, shown = in_depth(GREY, bits)
    found = read(write_tiff(tmp_path / "a.tif", samples, bits=bits, photometric=1, fill_order=2))
    assert found is not None
    assert np.abs(found - shown).max() <= 1


def test_tiff_of_other_colour_spaces_is_refused_with_the_reason(tmp_path):
    for photometric in (4, 8, 9, 32803, 34892):
        path = write_tiff(tmp_path / "a.tif", RGB, bits=8, photometric=photometric)
        with pytest.raises(ImageReadError, match="cannot read picture"):
            read_image(path)


def test_orientation_and_profile_of_a_tiff_that_pillow_does_not_read(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    samples = (65535 - GREY.astype(np.uint16) * 257).astype(np.uint16)
    tifffile.imwrite(
        tmp_path / "a.tif",
        samples,
        photometric="miniswhite",
        extratags=[(274, "H", 1, 6, True)],
        iccprofile=b"profile",
    )
    assert (
        np.abs(np.asarray(read_image(tmp_path / "a.tif")).astype(int) - as_rgb(np.rot90(GREY, -1))).max() <= 1
    )


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("colour_type", "bits"),
    [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (4, 8), (4, 16), (6, 8), (6, 16)],
)
def test_png_of_every_depth(colour_type, bits, interlaced, tmp_path):
    samples, shown = in_depth(RGB if colour_type in (2, 6) else GREY, bits)
    if colour_type in (4, 6):
        colours = samples if samples.ndim == 3 else samples[..., None]
        alpha = np.full_like(colours[..., :1], 2**bits - 1)
        alpha[:8] = 0
        samples, shown = np.concatenate([colours, alpha], axis=2), np.where(alpha > 0, shown, 255)
    path = write_png(tmp_path / "a.png", samples, bits=bits, colour_type=colour_type, interlaced=interlaced)
    found = read(path)
    assert found is not None
    assert np.abs(found - shown).max() <= 1
    with Image.open(path) as image:
        assert bits_per_sample(image) == bits


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_one_transparent_grey_of_a_png_in_the_depth_of_its_samples(bits, tmp_path):
    samples, shown = in_depth(GREY, bits)
    for key in {0, 1, int(samples.max()), int(samples[5, 5])}:
        path = write_png(tmp_path / "a.png", samples, bits=bits, colour_type=0, transparent=(key,))
        found = read(path)
        assert found is not None
        assert np.abs(found - np.where(as_rgb(samples) == key, 255, shown)).max() <= 1, key


def test_one_transparent_colour_of_a_png(tmp_path):
    key = RGB[3, 4].tolist()
    found = read(write_png(tmp_path / "a.png", RGB, bits=8, colour_type=2, transparent=key))
    assert np.array_equal(found, np.where((key == RGB).all(axis=2)[..., None], 255, RGB))
    deep = RGB.astype(np.uint16) * 257
    path = write_png(tmp_path / "b.png", deep, bits=16, colour_type=2, transparent=deep[3, 4].tolist())
    with pytest.raises(ImageReadError, match="save it with an alpha channel"):
        read_image(path)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_of_a_png_with_transparent_colours(bits, tmp_path):
    samples, _ = in_depth(GREY, bits)
    palette = np.random.default_rng(1).integers(0, 256, (2**bits, 3))
    for alphas in (b"", b"\0", b"\xff\0"):
        path = write_png(
            tmp_path / "a.png", samples, bits=bits, colour_type=3, palette=palette, transparent=alphas
        )
        shown = palette.copy()
        shown[[number for number, alpha in enumerate(alphas) if alpha == 0]] = 255
        assert np.array_equal(read(path), shown[samples])


@pytest.mark.parametrize("maxval", [1, 3, 100, 255, 256, 1000, 4095, 65535])
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("colour", [False, True])
def test_pnm_of_every_largest_value(colour, plain, maxval, tmp_path):
    for brightest in (255, 40):  # a dark picture must not be stretched
        pixels = (RGB if colour else GREY) * (brightest / 255)
        samples = np.rint(pixels / 255 * maxval).astype(np.uint16)
        kind = {(False, False): 5, (False, True): 2, (True, False): 6, (True, True): 3}[colour, plain]
        head = f"P{kind}\n# made by hand\n{GREY.shape[1]} {GREY.shape[0]}\n{maxval}\n".encode()
        words = " ".join(map(str, samples.ravel())).encode()
        path = tmp_path / "a.pnm"
        path.write_bytes(
            head + (words if plain else samples.astype(">u2" if maxval > 255 else "u1").tobytes())
        )
        found = read(path)
        assert found is not None
        assert np.abs(found - as_rgb(samples / maxval * 255)).max() <= 1, brightest


def test_bitmaps_of_pnm_are_black_at_1(tmp_path):
    bits = (GREY < 128).astype(np.uint8)
    head = f"{GREY.shape[1]} {GREY.shape[0]}\n".encode()
    (tmp_path / "a.pbm").write_bytes(b"P4\n" + head + np.packbits(bits, axis=1).tobytes())
    (tmp_path / "b.pbm").write_bytes(b"P1\n" + head + " ".join(map(str, bits.ravel())).encode())
    for name in ("a.pbm", "b.pbm"):
        assert np.array_equal(read(tmp_path / name), as_rgb((1 - bits) * 255))


@pytest.mark.parametrize("scale", [-1.0, 1.0])
def test_floating_point_pnm_is_white_at_1(scale, tmp_path):
    for factor in (1, 200):
        values = (GREY / np.float32(255) * factor).astype("<f4" if scale < 0 else ">f4")
        head = f"Pf\n{GREY.shape[1]} {GREY.shape[0]}\n{scale}\n".encode()
        (tmp_path / "a.pfm").write_bytes(head + values[::-1].tobytes())
        found = read(tmp_path / "a.pfm")
        if factor == 1:
            assert found is not None
            assert np.abs(found - as_rgb(GREY)).max() <= 1
        else:
            assert found is None


@pytest.mark.parametrize("upwards", [True, False])
def test_bmp(upwards, tmp_path):
    assert np.array_equal(read(write_bmp(tmp_path / "a.bmp", RGB, bits=24, upwards=upwards)), RGB)
    red, green, blue = (RGB[..., place].astype(np.uint32) for place in range(3))
    words = red << 16 | green << 8 | blue
    assert np.array_equal(read(write_bmp(tmp_path / "b.bmp", words, bits=32, upwards=upwards)), RGB)
    five = (red >> 3) << 10 | (green >> 3) << 5 | blue >> 3
    found = read(write_bmp(tmp_path / "c.bmp", five, bits=16, upwards=upwards))
    assert found is not None
    assert np.abs(found - np.rint((RGB >> 3) * (255 / 31))).max() <= 1
    six = (red >> 3) << 11 | (green >> 2) << 5 | blue >> 3
    found = read(write_bmp(tmp_path / "d.bmp", six, bits=16, masks=(0xF800, 0x7E0, 0x1F), upwards=upwards))
    assert found is not None
    assert np.abs(found - np.rint((RGB >> (3, 2, 3)) * (255 / np.array([31, 63, 31])))).max() <= 1


@pytest.mark.parametrize("form", ["jp2", "j2k"])
def test_jpeg_2000_of_16_bits(form, tmp_path):
    deep = GREY.astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / f"a.{form}")
    with Image.open(tmp_path / f"a.{form}") as image:
        assert bits_per_sample(image) == 16
    found = read(tmp_path / f"a.{form}")
    assert found is not None
    assert np.abs(found - as_rgb(GREY)).max() <= 1


def of_every_kind(folder: Path) -> list[Path]:
    """Files whose pixels Pillow alone would show as others."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(folder / "turned.jpg", exif=exif, quality=95)
    Image.fromarray(GREY.astype(np.uint16) * 257).save(folder / "deep.png")
    Image.fromarray(GREY / np.float32(255)).save(folder / "float.tif")
    Image.fromarray(RGB).convert("CMYK").save(folder / "cmyk.tif")
    alpha = np.dstack([RGB, np.where(np.arange(32) < 9, 0, 255)[None].repeat(24, 0)]).astype(np.uint8)
    Image.fromarray(alpha).save(folder / "alpha.png")
    Image.fromarray(alpha).convert("LA").save(folder / "grey_alpha.png")
    Image.fromarray(alpha).convert("P").save(folder / "palette.gif")
    write_png(folder / "keyed.png", in_depth(GREY, 2)[0], bits=2, colour_type=0, transparent=(1,))
    write_tiff(folder / "inverted.tif", GREY.astype(np.uint16) * 257, bits=16, photometric=0)
    return sorted(folder.iterdir())


def test_a_pil_picture_is_its_file(tmp_path):
    for path in of_every_kind(tmp_path):
        expected = np.asarray(read_image(path))
        assert np.array_equal(read_picture(Image.open(path)), expected), path.name
        assert np.array_equal(read_picture(Image.open(io.BytesIO(path.read_bytes()))), expected), path.name
        loaded = Image.open(path)
        loaded.load()
        assert np.array_equal(read_picture(loaded), expected), path.name
        # what was read stays usable
        assert np.array_equal(read_picture(loaded), expected), path.name


def test_a_pil_picture_that_was_changed_is_what_it_shows(tmp_path):
    (path,) = [path for path in of_every_kind(tmp_path) if path.name == "alpha.png"]
    small = Image.open(path)
    small.thumbnail((8, 8))
    assert read_picture(small).size == small.size
    grey = Image.open(path).convert("L")
    assert np.array_equal(read_picture(grey), as_rgb(np.asarray(grey)))
    second = Image.open(path.with_name("palette.gif"))
    assert read_picture(second.copy()).mode == "RGB"


def test_a_pil_picture_that_says_no_white_is_refused():
    with pytest.raises(ImageReadError, match="which of them is white"):
        read_picture(Image.fromarray(GREY.astype(np.int32)))
    closed = Image.new("RGB", (4, 4))
    closed.close()
    with pytest.raises(ImageReadError, match="cannot read picture"):
        read_picture(closed)
