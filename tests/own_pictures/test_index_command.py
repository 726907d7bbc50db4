"""`aindex index build|add|info`, in-process, on tiny pictures."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from aindex.cli import main
from aindex.collection import building
from aindex.collection.building import add_to_index, build_index
from aindex.descriptors.extraction import ExtractionSettings
from aindex.descriptors.small import SmallConfig, SmallExtractor, save_small
from aindex.errors import ConfigError, DataError, ExtractorError, OutputError
from aindex.index.reference_index import ReferenceIndex
from aindex.matching.searching import search

QUIET = ["--num_workers", "0", "--device", "cpu", "--progress", "false", "--batch_size", "4"]
MakePictures = Callable[..., list[Path]]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_build_then_info_and_add(
    tmp_path: Path, make_pictures: MakePictures, tiny_script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_pictures("train", 40, seed=1)
    make_pictures("references", 5, seed=2)
    (tmp_path / "references" / "broken.jpg").write_bytes(b"no picture")
    folder = str(tmp_path / "index")
    sources = ["--train", str(tmp_path / "train"), "--references", str(tmp_path / "references")]
    options = ["--idx_factory", "IVF4,PQ4x4", "--extractor", str(tiny_script), "--resize_size", "32"]
    main(["index", "build", "--output", folder, *sources, *options, *QUIET])
    said = capsys.readouterr()
    assert "5 rows added" in said.out
    assert "1 unreadable picture(s) skipped" in said.err
    assert not list(tmp_path.glob(".*")), "the work folder is left"

    main(["index", "info", "--index", folder])
    content = yaml.safe_load(capsys.readouterr().out)
    assert content["rows"] == 5
    assert content["extractor"]["input_size"] == 32

    make_pictures("more", 3, seed=3, prefix="M")
    trusted = ["--extractor", str(tiny_script)]  # a TorchScript file is not loaded because an index names it
    main(["index", "add", "--index", folder, "--references", str(tmp_path / "more"), *trusted, *QUIET])
    assert "3 rows added, 8 rows in all" in capsys.readouterr().out
    main(["index", "info", "--index", folder, "--format", "json"])
    assert json.loads(capsys.readouterr().out)["rows"] == 8
    assert list(ReferenceIndex.open(folder).names)[-3:] == ["M000000.png", "M000001.png", "M000002.png"]


def test_pictures_find_themselves_and_descriptor_files_do_as_well(
    tmp_path: Path, tiny_index: Path, tiny_script: Path, quiet: ExtractionSettings
) -> None:
    rows = np.random.default_rng(0).normal(size=(7, 16)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    added = add_to_index(tiny_index, tmp_path / "rows.npy", settings=quiet)
    assert added.ids.tolist() == list(range(12, 19))
    assert added.index.names[12] == "rows.npy#0"
    assert added.index.search(rows, 1, nprobe=4)[1].ravel().tolist() == added.ids.tolist()

    (tmp_path / "names.txt").write_text("\n".join("abcdefg"))
    named = add_to_index(tiny_index, tmp_path / "rows.npy", names=tmp_path / "names.txt", settings=quiet)
    assert named.index.names[19] == "a"
    (tmp_path / "names.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match="2 names for 7 descriptors"):
        add_to_index(tiny_index, tmp_path / "rows.npy", names=tmp_path / "names.txt", settings=quiet)


def test_names_that_are_there_already(tmp_path: Path, tiny_index: Path, quiet: ExtractionSettings) -> None:
    again = tmp_path / "references"
    before = files_of(tiny_index)
    with pytest.raises(DataError, match="12 of the 12 names are in the index already"):
        add_to_index(tiny_index, again, settings=quiet)
    assert files_of(tiny_index) == before
    assert len(add_to_index(tiny_index, again, duplicates="skip", settings=quiet).ids) == 0
    assert len(add_to_index(tiny_index, again, prefix="again/", settings=quiet).ids) == 12
    assert add_to_index(tiny_index, again, duplicates="add", settings=quiet).index.ntotal == 36


def test_like_takes_the_quantiser_and_its_extractor(
    tmp_path: Path, tiny_index: Path, quiet: ExtractionSettings
) -> None:
    made = build_index(tmp_path / "mine", like=tiny_index, references=tmp_path / "train", settings=quiet)
    known = ReferenceIndex.open(tiny_index)
    queries = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    np.testing.assert_array_equal(made.index.quantiser.targets(queries), known.quantiser.targets(queries))
    assert (made.index.ntotal, made.index.extractor) == (40, known.extractor)
    with pytest.raises(ConfigError, match="to be like has 'IVF4,PQ4x4'"):
        build_index(tmp_path / "other", like=tiny_index, idx_factory="IVF8,Flat", settings=quiet)


def test_an_index_that_suits_is_chosen_and_said(
    tmp_path: Path, make_pictures: MakePictures, tiny_script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_pictures("train", 40, seed=1)
    make_pictures("references", 5, seed=2)
    source = ["--train", str(tmp_path / "train"), "--extractor", str(tiny_script), "--resize_size", "32"]
    references = ["--references", str(tmp_path / "references")]
    for name, options, factory, said in (
        ("exact", references, "Flat", "chosen for 5 pictures: idx_factory Flat (an exact search"),
        ("rows", [*references, "--rows", "2"], "IVF2,Flat", "chosen for 5 pictures: idx_factory IVF2,Flat"),
        ("empty", [], "IVF2,Flat", "chosen for pictures that come later: idx_factory IVF2,Flat"),
        ("named", [*references, "--idx_factory", "PQ4x4"], "PQ4x4", ""),
    ):
        main(["index", "build", "--output", str(tmp_path / name), *source, *options, *QUIET])
        lines = capsys.readouterr().err
        assert said in lines
        assert ("chosen" in lines) == bool(said)
        assert ReferenceIndex.open(tmp_path / name).idx_factory == factory


def test_wrong_options_are_clear(
    tmp_path: Path, tiny_index: Path, tiny_script: Path, quiet: ExtractionSettings
) -> None:
    with pytest.raises(ConfigError, match="either train"):
        build_index(tmp_path / "new", references=tmp_path / "train", settings=quiet)
    with pytest.raises(OutputError, match="holds an index already"):
        build_index(tiny_index, like=tiny_index, settings=quiet)
    with pytest.raises(ExtractorError, match="input size 32, not 40"):
        add_to_index(tiny_index, tmp_path / "train", resize_size=40, settings=quiet)
    assert ReferenceIndex.open(tiny_index).ntotal == 12


def test_a_build_that_broke_off_goes_on_and_leaves_no_half(
    tmp_path: Path,
    tiny_index: Path,
    make_pictures: MakePictures,
    quiet: ExtractionSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_pictures("more", 3, seed=3, prefix="M")
    before = files_of(tiny_index)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ReferenceIndex, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            add_to_index(tiny_index, tmp_path / "more", settings=quiet)
    assert files_of(tiny_index) == before
    assert (building.work_folder(tiny_index) / "references" / "fts.pth").is_file()
    assert add_to_index(tiny_index, tmp_path / "more", settings=quiet).index.ntotal == 15
    assert not building.work_folder(tiny_index).exists()


def test_unknown_action(capsys: pytest.CaptureFixture[str]) -> None:
    main(["index"])
    assert "build|add|remove|info" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["index", "make"])
    assert stopped.value.code == 2
    assert "expected one of build, add, remove, info, adopt, export, check" in capsys.readouterr().err


def test_an_index_may_name_a_file_that_holds_numbers_only(
    tmp_path: Path, make_pictures: MakePictures, quiet: ExtractionSettings
) -> None:
    pictures = make_pictures("pictures", 5)[0].parent
    config = SmallConfig(channels=(8, 8, 8, 8), layers=(1, 1, 1, 1), stem_width=8, dim=16, input_size=32)
    save_small(SmallExtractor(config).eval(), tmp_path / "mine.safetensors", name="mine")
    build_index(
        tmp_path / "index", train=pictures, references=pictures, idx_factory="Flat",
        extractor=tmp_path / "mine.safetensors", settings=quiet,
    )  # fmt: skip
    found = search(tmp_path / "index", pictures, k=1, settings=quiet)
    assert found.best["row"].tolist() == list(range(5))


@pytest.mark.parametrize("idx_factory", ["L2norm,IVF4,PQ4x4", "L2norm,Flat", "L2norm,PCA8,IVF4,Flat"])
def test_like_an_index_that_normalises(
    tmp_path: Path,
    make_pictures: MakePictures,
    tiny_script: Path,
    idx_factory: str,
    quiet: ExtractionSettings,
) -> None:
    make_pictures("train", 40, seed=1)
    make_pictures("references", 5, seed=2)
    common = {"extractor": str(tiny_script), "references": tmp_path / "references", "settings": quiet}
    first = build_index(
        tmp_path / "first", train=tmp_path / "train", idx_factory=idx_factory, resize_size=32, **common
    ).index
    second = build_index(tmp_path / "second", like=tmp_path / "first", **common).index
    queries = np.random.default_rng(0).standard_normal((4, first.dim)).astype(np.float32)
    for found, expected in zip(second.search(queries, 3), first.search(queries, 3), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_names_that_no_folder_can_have(
    tmp_path: Path, tiny_index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = str(tmp_path / ("a" * 300))
    for command in (
        ["index", "build", "--like", str(tiny_index), "--output", long],
        ["index", "info", "--index", long],
        ["index", "add", "--index", long, "--references", str(tmp_path)],
        ["index", "remove", "--index", long, "x"],
        ["extract", "--data_dir", str(tmp_path / "train"), "--output_dir", long],
        ["augment", "--data_dir", str(tmp_path / "train"), "--output_dir", long],
        ["search", str(tmp_path), "--index", long],
        ["activate", "--images", str(tmp_path / "train"), "--index", str(tiny_index), "--out", long],
    ):
        with pytest.raises(SystemExit) as exit_:
            main(command)
        assert exit_.value.code == 1
        lines = capsys.readouterr().err.splitlines()
        assert "cannot be a path (File name too long)" in lines[-1], command
