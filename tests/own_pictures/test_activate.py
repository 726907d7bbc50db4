"""`aindex activate` and `activate()`, on tiny pictures."""

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from aindex.activation.perceptual import linf_grey_levels, psnr_db, ssim
from aindex.cli import main
from aindex.collection.building import build_index
from aindex.data.images import read_image, to_tensor
from aindex.descriptors.extraction import ExtractionSettings, extract
from aindex.descriptors.registry import load_extractor
from aindex.errors import ConfigError, DataError, OutputError
from aindex.index.reference_index import ReferenceIndex
from aindex.release import batch, under_way
from aindex.release.activating import activate
from aindex.release.planning import Job, batches
from aindex.shipped import resolve_config
from tests.conftest import Holed, draw_picture, save_script, write_pictures

Options = dict[str, Any]


@pytest.fixture
def holiday(tmp_path: Path) -> Path:
    """Six pictures in a tree, two of the same name."""
    folder = tmp_path / "holiday"
    names = ["a.png", "beach/a.png", "beach/b.jpg", "beach/far/c é.webp", "d.bmp", "d.png"]
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        draw_picture(50 + seed, 40 + 4 * seed, 36).save(folder / name)
    return folder


@pytest.fixture
def options(tiny_index: Path, quiet: ExtractionSettings) -> Options:
    return {"index": tiny_index, "settings": quiet, "effort": "paper", "iterations": 3}


def pixels(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.suffix in (".png", ".webp", ".tiff", ".jpg")]
    return {path.relative_to(folder).as_posix(): read_image(path).tobytes() for path in sorted(files)}


def test_the_tree_is_kept_and_the_manifest_is_true(
    tmp_path: Path, holiday: Path, options: Options, tiny_script: Path
) -> None:
    before = {path: path.read_bytes() for path in holiday.rglob("*") if path.is_file()}
    released = activate(holiday, tmp_path / "out", **options)
    assert {path: path.read_bytes() for path in holiday.rglob("*") if path.is_file()} == before
    assert sorted(pixels(tmp_path / "out")) == [
        "a.png", "beach/a.png", "beach/b.png", "beach/far/c é.png", "d.bmp.png", "d.png.png",
    ]  # fmt: skip
    table = pd.read_csv(tmp_path / "out" / "manifest.csv")
    assert table.columns.tolist() == released.table.columns.tolist()
    assert table["name"].tolist() == sorted(path.relative_to(holiday).as_posix() for path in before)
    assert released.table["row"].isna().all()

    index = ReferenceIndex.open(options["index"])
    extractor = load_extractor(tiny_script, resize_size=32)
    for line in table.itertuples():
        original = to_tensor(read_image(holiday / line.name))
        saved = to_tensor(read_image(tmp_path / "out" / line.file))
        assert float(psnr_db(original, saved)) == pytest.approx(line.psnr_db, abs=1e-3)
        assert ssim(original, saved) == pytest.approx(line.ssim, abs=1e-4)
        assert round(float(linf_grey_levels(original, saved))) == line.linf_grey_levels
        paths = [holiday / line.name, tmp_path / "out" / line.file]
        descriptors = extract(paths, extractor, num_workers=0, progress=False).descriptors
        target = index.quantiser.targets(descriptors[:1])
        distances = np.square(descriptors - target).sum(axis=1)
        assert distances[0] == pytest.approx(line.distance_before, abs=1e-4)
        assert distances[1] == pytest.approx(line.distance_after, abs=1e-4)
        assert line.distance_after < line.distance_before


@pytest.mark.parametrize("format", ["png", "webp", "tiff", "jpeg"])
@pytest.mark.filterwarnings("ignore:format jpeg")
def test_the_budget_holds_on_the_saved_file(
    tmp_path: Path, holiday: Path, options: Options, format: Any
) -> None:
    free = activate(holiday, tmp_path / "free", **options)
    bound = free.table["psnr_db"] < 39.7
    assert bound.any()
    released = activate(holiday, tmp_path / "out", min_psnr=40.0, format=format, jpeg_quality=98, **options)
    for line, was_bound in zip(released.table.itertuples(), bound, strict=True):
        original = to_tensor(read_image(holiday / line.name))
        found = float(psnr_db(original, to_tensor(read_image(tmp_path / "out" / line.file))))
        assert found >= 40.0
        if was_bound:
            assert found <= 40.3
            assert line.scale < 1


def test_jpeg_that_cannot_keep_the_budget_is_left_out_and_said(
    tmp_path: Path, holiday: Path, options: Options
) -> None:
    with pytest.warns(UserWarning, match="format jpeg"):
        released = activate(holiday, tmp_path / "out", min_psnr=60, format="jpeg", jpeg_quality=30, **options)
    assert released.skipped.count == 6
    assert "jpeg alone brings" in (tmp_path / "out" / "skipped.csv").read_text()
    assert "6 picture(s)" not in released.summary().split("\n")[0]


def test_one_bad_picture_changes_nothing_about_the_others(
    tmp_path: Path, holiday: Path, options: Options, tiny_index: Path
) -> None:
    good = activate(holiday, tmp_path / "good", **options)
    (holiday / "b_broken.jpg").write_bytes(b"\xff\xd8 no picture")
    (holiday / "beach" / "empty.png").touch()
    mixed = activate(holiday, tmp_path / "mixed", add=True, **options)
    assert pixels(tmp_path / "good") == pixels(tmp_path / "mixed")
    columns = [column for column in good.table if column != "row"]
    pd.testing.assert_frame_equal(good.table[columns], mixed.table[columns])
    assert mixed.table["row"].tolist() == list(range(12, 18))
    assert [name for name, _ in mixed.skipped.rows] == ["b_broken.jpg", "beach/empty.png"]
    assert "2 picture(s)" not in mixed.summary().split("\n")[0]
    assert ReferenceIndex.open(tiny_index).ntotal == 18


def test_a_picture_does_not_depend_on_the_others_nor_on_the_batch_size(
    tmp_path: Path, holiday: Path, options: Options, quiet: ExtractionSettings
) -> None:
    together = activate(holiday, tmp_path / "together", **options)
    (tmp_path / "list.txt").write_text("holiday/beach/b.jpg\n")
    alone = activate(holiday / "beach", tmp_path / "alone", **options)
    assert len(together.table) == 6
    assert len(alone.table) == 3
    # names count: they seed the start of the optimisation
    activate(tmp_path / "list.txt", tmp_path / "listed", **options)
    small = {**options, "settings": quiet._replace(batch_size=2, num_workers=2)}
    activate(holiday, tmp_path / "small", **small)
    first, second = pixels(tmp_path / "together"), pixels(tmp_path / "small")
    for name in first:
        a, b = (np.frombuffer(data[name], np.uint8).astype(int) for data in (first, second))
        # kernels round differently for other batch sizes
        assert np.abs(a - b).mean() < 0.02


def test_original_rows_are_added_once(
    tmp_path: Path, holiday: Path, options: Options, tiny_index: Path
) -> None:
    first = activate(holiday, tmp_path / "out", add=True, prefix="holiday/", **options)
    again = activate(holiday, tmp_path / "out", add=True, prefix="holiday/", **options)
    index = ReferenceIndex.open(tiny_index)
    assert index.ntotal == 18
    assert list(index.names)[12] == "holiday/a.png"
    assert first.table["row"].tolist() == again.table["row"].tolist() == list(range(12, 18))
    # another picture of the same name
    draw_picture(99).save(holiday / "a.png")
    with pytest.raises(DataError, match=r"'holiday/a.png' has the name of another picture"):
        activate(holiday, tmp_path / "other", add=True, prefix="holiday/", **options)
    assert ReferenceIndex.open(tiny_index).ntotal == 18


def test_interrupted_it_goes_on_and_ends_the_same(
    tmp_path: Path, holiday: Path, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    activate(holiday, tmp_path / "whole", **options)
    done = 0
    real = under_way.batch_changes

    def interrupted(*args: Any, **more: Any) -> Any:
        nonlocal done
        done += 1
        if done == 2:
            raise KeyboardInterrupt
        return real(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(under_way, "batch_changes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            activate(holiday, tmp_path / "out", **options)
    kept = set(pixels(tmp_path / "out"))
    treated = []
    monkeypatch.setattr(
        under_way,
        "batch_changes",
        lambda p, names, *a, **k: treated.extend(names) or real(p, names, *a, **k),
    )
    activate(holiday, tmp_path / "out", **options)
    assert len(kept) + len(treated) >= 6
    assert len(treated) < 6 or not kept
    assert pixels(tmp_path / "out") == pixels(tmp_path / "whole")
    whole, resumed = (pd.read_csv(tmp_path / name / "manifest.csv") for name in ("whole", "out"))
    pd.testing.assert_frame_equal(whole, resumed)
    treated.clear()
    activate(holiday, tmp_path / "out", **options)
    assert treated == []


def test_new_and_replaced_pictures_are_treated_at_the_next_call(
    tmp_path: Path, holiday: Path, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    activate(holiday, tmp_path / "out", **options)
    draw_picture(91).save(holiday / "new.png")
    draw_picture(92).save(holiday / "d.bmp")
    treated: list[str] = []
    real = under_way.batch_changes
    monkeypatch.setattr(
        under_way,
        "batch_changes",
        lambda p, names, *a, **k: treated.extend(names) or real(p, names, *a, **k),
    )
    released = activate(holiday, tmp_path / "out", **options)
    assert sorted(treated) == ["d.bmp", "new.png"]
    assert len(released.table) == 7


def test_other_settings_and_foreign_folders_are_refused(
    tmp_path: Path, holiday: Path, options: Options
) -> None:
    activate(holiday, tmp_path / "out", **options)
    with pytest.raises(ConfigError, match=r"other settings \(stored → given: scaling 3.0 → 2.0\)"):
        activate(holiday, tmp_path / "out", scaling=2.0, **options)
    activate(holiday, tmp_path / "out", scaling=2.0, overwrite=True, **options)
    with pytest.raises(OutputError, match="is the folder of the pictures"):
        activate(holiday, holiday, **options)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    with pytest.raises(OutputError, match=r"holds other things \('diary.txt'\)"):
        activate(holiday, tmp_path / "mine", **options)
    with pytest.raises(ConfigError, match="min_psnr 500"):
        activate(holiday, tmp_path / "new", min_psnr=500, **options)
    with pytest.raises(ConfigError, match="comes with aindex is not added to"):
        activate(holiday, tmp_path / "new", index="shipped", add=True)


def test_released_pictures_inside_the_folder_are_not_taken_for_new_ones(
    holiday: Path, options: Options
) -> None:
    for _ in range(2):
        released = activate(holiday, holiday / "released", **options)
        assert len(released.table) == 6


def test_dry_run_writes_nothing(
    tmp_path: Path, holiday: Path, tiny_index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("CMYK", (8, 8)).save(holiday / "print.tif")
    (holiday / "broken.png").touch()
    places = ["--images", str(holiday), "--out", str(tmp_path / "out"), "--index", str(tiny_index)]
    main(["activate", *places, "--dry_run", "true", "--device", "cpu"])
    said = capsys.readouterr().out
    assert "7 pictures would be released" in said
    assert "CMYK released as RGB" in said
    assert "1 picture(s) left out" in said
    assert not (tmp_path / "out").exists()


def test_command_line_and_notebook(
    tmp_path: Path, holiday: Path, tiny_index: Path, options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--images", str(holiday), "--out", str(tmp_path / "out"), "--index", str(tiny_index)]
    options_given = ["--effort", "paper", "--iterations", "3", "--min_psnr", "38", "--precision", "fp32"]
    machine = ["--device", "cpu", "--num_workers", "0", "--batch_size", "4", "--progress", "false"]
    main(["activate", *places, *options_given, *machine])
    assert "6 pictures released, PSNR" in capsys.readouterr().out
    released = activate(holiday, tmp_path / "out", min_psnr=38, **options)
    shown = released._repr_html_()
    assert "<table" in shown
    assert "c é.webp" in shown


@pytest.mark.parametrize("effort", ["fast", "robust"])
def test_efforts_are_the_configurations_of_their_names(
    tmp_path: Path, holiday: Path, options: Options, effort: str
) -> None:
    given = {**options, "effort": effort}
    released = activate(holiday, tmp_path / "out", **given)
    assert len(released.table) == 6
    assert pixels(tmp_path / "out") != pixels(holiday)
    stored = json.loads((tmp_path / "out" / ".aindex" / "release.json").read_text())
    model = yaml.safe_load(Path(resolve_config(f"configs/{effort}.yaml")).read_text())["model"]
    assert (stored["effort"], stored["loop"], stored["iterations"]) == (effort, model, 3)
    with pytest.raises(ConfigError, match=r"target 'ori_ft' with effort .*take effort paper"):
        activate(holiday, tmp_path / "other", **given, target="ori_ft")
    with pytest.raises(ConfigError, match="other settings"):
        activate(holiday, tmp_path / "out", **{**given, "effort": "paper"})


def test_a_budget_is_optimised_for(tmp_path: Path, holiday: Path, options: Options) -> None:
    """A strong change keeps the budget without being cut afterwards, or nearly so."""
    table = activate(holiday, tmp_path / "out", **options, scaling=12.0, min_psnr=40).table
    assert table["psnr_db"].between(40, 41).all()
    assert table["scale"].gt(0.9).all()


def test_batches_hold_no_more_than_memory_bears() -> None:
    def job(name: str, megapixels: float) -> Job:
        return Job(name=name, path=Path(name), file=name, position=0, state=[], pixels=int(megapixels * 1e6))

    jobs = [job("a", 0.1), job("b", 12), job("c", 0.1), job("d", 20), job("e", 12), job("f", 0.1)]
    groups = [[j.name for j in group] for group in batches(jobs, 2)]
    assert groups == [["a", "b"], ["c", "d"], ["e", "f"]]
    assert [[j.name for j in group] for group in batches(jobs, 3)] == [["a", "b", "c"], ["d"], ["e", "f"]]


def test_wide_and_narrow_pictures(tmp_path: Path, options: Options) -> None:
    folder = tmp_path / "shapes"
    folder.mkdir()
    for name, size in {"narrow": (1, 30), "tiny": (1, 1), "wide": (3000, 4)}.items():
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(
            folder / f"{name}.png"
        )
    released = activate(folder, tmp_path / "out", **options)
    assert len(released.table) == 3
    for name in ("narrow", "tiny", "wide"):
        assert read_image(tmp_path / "out" / f"{name}.png").size == read_image(folder / f"{name}.png").size
    assert torch.isfinite(torch.tensor(released.table["distance_after"].tolist())).all()


def test_measures_by_strips_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    a = torch.randint(0, 256, (57, 31, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    b = (
        (a.int() + torch.randint(-9, 10, a.shape, generator=torch.Generator().manual_seed(1)))
        .clamp(0, 255)
        .byte()
    )
    whole = ssim(a.permute(2, 0, 1), b.permute(2, 0, 1))
    for pixels in (31, 31 * 7, 31 * 46, 31 * 1000):
        monkeypatch.setattr("aindex.release.pictures._STRIP_PIXELS", pixels)
        assert batch._ssim(a, b) == pytest.approx(whole, abs=1e-6)
        assert batch._linf(a, b) == 9
        assert batch._psnr(b, SimpleNamespace(seen=a)) == pytest.approx(float(psnr_db(a, b)), abs=1e-4)


def test_a_picture_that_fails_is_recorded_and_costs_the_others_nothing(
    tmp_path: Path, holiday: Path, quiet: ExtractionSettings
) -> None:
    script = save_script(Holed(), tmp_path / "holed.pt")
    write_pictures(tmp_path / "train", 40, seed=1)
    made = build_index(
        tmp_path / "index", train=tmp_path / "train", idx_factory="IVF4,PQ4x4", extractor=script, resize_size=32,
        settings=quiet,
    )  # fmt: skip
    how: Options = {"index": made.index, "extractor": script, "settings": quiet, "effort": "fast"}
    good = activate(holiday, tmp_path / "good", **how)
    Image.new("RGB", (40, 36), (128, 128, 128)).save(holiday / "b_flat.png")
    mixed = activate(holiday, tmp_path / "mixed", **how)
    assert pixels(tmp_path / "mixed") == pixels(tmp_path / "good")
    assert len(good.table) == len(mixed.table) == 6
    ((name, reason),) = mixed.skipped.rows
    assert name == "b_flat.png"
    assert "activation failed" in reason
    assert "b_flat.png" in (tmp_path / "mixed" / "skipped.csv").read_text()


def test_what_cannot_be_found_is_said_before_the_work(
    tmp_path: Path, holiday: Path, options: Options
) -> None:
    with pytest.warns(UserWarning, match="6 of 6 pictures are not in the index .*--add true"):
        activate(holiday, tmp_path / "out", **options)
    opened = activate(holiday, tmp_path / "added", add=True, **options)
    assert opened.table["row"].notna().all()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not in the index")
        activate(holiday, tmp_path / "again", **options)


@pytest.mark.parametrize("command", [["search", "x"], ["calibrate", "--negatives=x"]])
def test_no_index_is_taken_that_was_not_named(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 2
    assert "required: index; make an index of your pictures" in capsys.readouterr().err


def test_without_an_index_the_originals_get_one_of_their_own(
    tmp_path: Path, holiday: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, own = tmp_path / "out", tmp_path / "out.index"
    command = ["activate", f"--images={holiday}", f"--out={out}", "--effort=fast", "--progress=false"]
    main([*command, "--dry_run=true"])
    assert not out.exists()
    assert not own.exists()
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not in the index")
        main(command)
    assert f"aindex search COPIES --index {own}" in capsys.readouterr().out
    names = list(ReferenceIndex.open(own).names)
    assert len(names) == 6
    # the same again, and anew, in the same index
    main(command)
    main([*command, "--overwrite=true", "--scaling=1"])
    assert list(ReferenceIndex.open(own).names) == names
