"""Opening pictures with all they hold, and writing their released form."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from aindex.data.images import SkippedImages, open_image, read_image
from aindex.data.metadata import reset_orientation
from aindex.release.manifest import COLUMNS, Release, manifest_table
from aindex.release.pictures import (
    SUFFIXES,
    FileSettings,
    Format,
    OpenedPicture,
    PictureError,
    as_seen,
    changed_colours,
    decode,
    encode,
    form_notes,
    open_picture,
)
from tests.conftest import draw_picture
from tests.data.png_files import write_png
from tests.data.tiff_files import write_tiff

LOSSLESS: list[Format] = ["png", "webp", "tiff"]
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def exif_with(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "A Camera"
    exif[0x8298] = "© somebody"
    exif[0x8825] = {1: "N", 2: (52.0, 22.0, 12.0)}
    exif[0x8769] = {0x9286: b"ASCII\0\0\0hello"}
    return exif


def saved(picture: OpenedPicture, path: Path, format: Format, colours: torch.Tensor | None = None) -> Path:
    colours = picture.colours if colours is None else colours
    path = path.with_suffix(SUFFIXES[format])
    path.write_bytes(encode(picture, colours, FileSettings(format=format, compress_level=1)))
    return path


@pytest.mark.parametrize("target", ["png", "webp", "tiff", "jpeg"])
@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_metadata_go_along_and_orientation_is_applied_once(
    tmp_path: Path, source: str, target: Format
) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / f"a.{source.lower()}"
    options = {"xmp": XMP} if source in ("JPEG", "WEBP") else {}
    if source == "WEBP":
        options["lossless"] = True
    draw_picture(1, 30, 20).save(
        path, exif=exif_with(6).tobytes(), icc_profile=icc, dpi=(300, 300), **options
    )

    picture = open_picture(path)
    assert picture.seen.shape == (30, 20, 3)
    np.testing.assert_array_equal(picture.seen, np.asarray(read_image(path)))
    released = saved(picture, tmp_path / "b", target)
    with Image.open(released) as image:
        image.load()
        exif = image.getexif()
        assert exif.get(0x0112, 1) == 1
        assert exif[0x010F] == "A Camera"
        assert exif.get_ifd(0x8825)[2] == (52.0, 22.0, 12.0)
        assert exif.get_ifd(0x8769)[0x9286] == b"ASCII\0\0\0hello"
        assert image.info["icc_profile"] == icc
        if source in ("JPEG", "WEBP"):
            assert b'tiff:Orientation="1"' in bytes(image.info["xmp"])
        if source != "WEBP" and target != "webp":
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    if target != "jpeg":
        np.testing.assert_array_equal(np.asarray(read_image(released)), picture.seen)


def test_damaged_metadata_is_dropped_and_said(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    draw_picture(1).save(
        path, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff", icc_profile=b"\0" * 16 + b"CMYK" + b"\0" * 200
    )
    picture = open_picture(path)
    assert picture.notes == ("ICC profile for CMYK dropped", "damaged EXIF dropped")
    assert picture.metadata.icc is None
    assert picture.metadata.exif is None
    saved(picture, tmp_path / "b", "png")


def test_only_the_orientation_changes_in_exif_of_either_byte_order() -> None:
    for order, exif in (("big", exif_with(6).tobytes()), ("little", _little(6))):
        changed = reset_orientation(exif)
        assert sum(a != b for a, b in zip(exif, changed, strict=True)) == 1, order
        restored = Image.Exif()
        restored.load(changed)
        assert restored[0x0112] == 1


def _little(orientation: int) -> bytes:
    entry = b"\x12\x01\x03\x00\x01\x00\x00\x00" + bytes([orientation, 0, 0, 0])
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + entry + b"\0\0\0\0"


@pytest.mark.parametrize("format", LOSSLESS)
def test_transparency_is_kept_and_the_change_goes_where_something_shows(
    tmp_path: Path, format: Format
) -> None:
    rgba = np.array(draw_picture(2, 24, 16).convert("RGBA"))
    rgba[:, :8, 3] = 0
    rgba[:, 8:12, 3] = 128
    Image.fromarray(rgba).save(tmp_path / "a.png")
    picture = open_picture(tmp_path / "a.png")
    assert picture.alpha is not None
    colours = changed_colours(picture, torch.full((3, 16, 24), 0.2), 1.0)
    released = saved(picture, tmp_path / "b", format, colours)
    with Image.open(released) as image:
        found = np.asarray(image.convert("RGBA"))
    np.testing.assert_array_equal(found[..., 3], rgba[..., 3])
    np.testing.assert_array_equal(found[:, :8], rgba[:, :8])
    assert (found[:, 12:, :3] > rgba[:, 12:, :3]).any()
    np.testing.assert_array_equal(as_seen(picture, colours), np.asarray(read_image(released)))
    np.testing.assert_array_equal(decode(released.read_bytes()), np.asarray(read_image(released)))


def test_jpeg_has_no_transparency(tmp_path: Path) -> None:
    Image.new("RGBA", (16, 16), (255, 0, 0, 0)).save(tmp_path / "a.png")
    released = saved(open_picture(tmp_path / "a.png"), tmp_path / "b", "jpeg")
    assert np.asarray(read_image(released)).min() > 250


@pytest.mark.parametrize(
    ("mode", "note"),
    [
        ("L", None),
        ("CMYK", "CMYK released as RGB"),
        ("LA", None),
        ("I;16", "16 bits per sample released as 8"),
        ("P", None),
        ("1", "black and white released as grey"),
    ],
)
def test_other_modes_are_released_with_8_bits_and_said(tmp_path: Path, mode: str, note: str | None) -> None:
    grey = draw_picture(3).convert("L")
    image = (
        Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    )
    image.save(tmp_path / "a.tiff")
    picture = open_picture(tmp_path / "a.tiff")
    assert picture.notes == (() if note is None else (note,))
    np.testing.assert_array_equal(picture.seen, np.asarray(read_image(tmp_path / "a.tiff")))
    with Image.open(saved(picture, tmp_path / "b", "png")) as released:
        assert released.mode == ("LA" if mode == "LA" else "L")


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [draw_picture(seed).convert("P") for seed in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    picture = open_picture(tmp_path / "a.gif")
    assert picture.notes == ("first of 3 frames",)
    np.testing.assert_array_equal(picture.seen, np.asarray(read_image(tmp_path / "a.gif")))


def test_scale_zero_is_the_original_and_one_is_rounded_like_the_activation(tmp_path: Path) -> None:
    draw_picture(4).save(tmp_path / "a.png")
    picture = open_picture(tmp_path / "a.png")
    change = torch.randn(3, 40, 48, generator=torch.Generator().manual_seed(0)) * 0.1
    assert torch.equal(changed_colours(picture, change, 0.0), picture.seen)
    std = torch.tensor([0.229, 0.224, 0.225])
    by_hand = (
        (picture.seen / 255 + change.permute(1, 2, 0) * std).clamp(0, 1).mul(255).round().to(torch.uint8)
    )
    assert torch.equal(changed_colours(picture, change, 1.0), by_hand)


def test_what_a_format_cannot_hold(tmp_path: Path) -> None:
    Image.new("RGB", (17_000, 1)).save(tmp_path / "wide.png")
    picture = open_picture(tmp_path / "wide.png")
    with pytest.raises(
        PictureError, match=r"webp cannot hold the picture of 17000×1 pixels .* take format png"
    ):
        encode(picture, picture.colours, FileSettings(format="webp", compress_level=1))
    content = encode(picture, picture.colours, FileSettings(format="png", compress_level=1))
    assert Image.open(io.BytesIO(content)).size == (17_000, 1)


@pytest.mark.parametrize("format", ["png", "webp", "tiff", "jpeg"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "I;16"])
def test_grey_stays_grey(tmp_path: Path, mode: str, format: Format) -> None:
    grey = draw_picture(3).convert("L")
    image = (
        Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    )
    image.save(tmp_path / "a.png")
    picture = open_picture(tmp_path / "a.png")
    assert picture.is_grey
    change = torch.randn(3, 40, 48, generator=torch.Generator().manual_seed(0)) * 0.1
    colours = changed_colours(picture, change, 1.0)
    assert not torch.equal(colours, picture.colours)
    released = saved(picture, tmp_path / "b", format, colours)
    seen = np.asarray(read_image(released))
    assert (seen == seen[..., :1]).all()
    np.testing.assert_array_equal(decode(released.read_bytes()), seen)
    if format != "jpeg":
        np.testing.assert_array_equal(as_seen(picture, colours), seen)
    with Image.open(released) as image:
        # WebP knows no grey
        assert image.mode.startswith("RGB" if format == "webp" else "L")


@pytest.mark.parametrize("space", [b"GRAY", b"RGB "])
def test_a_grey_picture_keeps_its_profile_and_a_form_that_it_is_for(tmp_path: Path, space: bytes) -> None:
    icc = b"\0" * 16 + space + b"\0" * 200
    mode = "L" if space == b"GRAY" else "RGB"
    draw_picture(3).convert("L").convert(mode).save(tmp_path / "a.png", icc_profile=icc)
    picture = open_picture(tmp_path / "a.png")
    assert picture.notes == ()
    with Image.open(saved(picture, tmp_path / "b", "png")) as released:
        assert released.mode == mode
        assert released.info["icc_profile"] == icc


@pytest.mark.parametrize(
    ("name", "dtype", "bits"), [("a.png", np.uint16, 16), ("a.jp2", np.uint16, 16), ("a.tif", np.float32, 32)]
)
def test_depth_that_is_lost_is_said(tmp_path: Path, name: str, dtype: type, bits: int) -> None:
    grey = np.asarray(draw_picture(3).convert("L"))
    values = grey.astype(np.uint16) * 257 if dtype is np.uint16 else (grey / 255).astype(dtype)
    Image.fromarray(values).save(tmp_path / name)
    assert open_picture(tmp_path / name).notes == (f"{bits} bits per sample released as 8",)
    with open_image(tmp_path / name) as stored:
        assert form_notes(stored) == [f"{bits} bits per sample released as 8"]


def test_depth_of_colours_and_what_another_reader_leaves_are_said(tmp_path: Path) -> None:
    deep = np.asarray(draw_picture(3)).astype(np.uint16) * 257
    write_png(tmp_path / "a.png", deep, bits=16, colour_type=2)
    assert open_picture(tmp_path / "a.png").notes == ("16 bits per sample released as 8",)
    write_tiff(tmp_path / "b.tif", deep, bits=16, photometric=2, planar=True)
    picture = open_picture(tmp_path / "b.tif")
    assert picture.notes == ("16 bits per sample released as 8", "metadata but the ICC profile dropped")
    np.testing.assert_array_equal(picture.seen, np.asarray(read_image(tmp_path / "b.tif")))


def test_a_large_picture_is_changed_strip_by_strip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_picture(4).save(tmp_path / "a.png")
    picture = open_picture(tmp_path / "a.png")
    change = torch.randn(3, 40, 48, generator=torch.Generator().manual_seed(0)) * 0.1
    whole = changed_colours(picture, change, 0.7)
    monkeypatch.setattr("aindex.release.pictures._STRIP_PIXELS", 48 * 7)
    assert torch.equal(changed_colours(picture, change, 0.7), whole)


@pytest.mark.parametrize(("file", "hint"), [("a.png", True), ("a.webp", False)])
def test_files_much_larger_than_their_originals_are_said(tmp_path: Path, file: str, hint: bool) -> None:
    record = dict.fromkeys(COLUMNS, 1.0) | {"name": "a.jpg", "file": file, "bytes": 9_000_000, "notes": ""}
    for source_bytes, is_said in ((1_300_000, True), (5_000_000, False)):
        table = manifest_table({"a.jpg": {**record, "source": [source_bytes, 0]}}, ["a.jpg"], {})
        told = Release(tmp_path, table, SkippedImages()).summary()
        assert ("they take 9.0 MB, their originals 1.3 MB" in told) == is_said
        assert ("format webp keeps every pixel too" in told) == (is_said and hint)
        assert table["source_bytes"].tolist() == [source_bytes]
