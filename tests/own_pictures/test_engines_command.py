"""`aindex index adopt|export|check`, in-process, on tiny pictures; the examples of docs/engines.md as they stand."""

import base64
import json
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import faiss
import lance
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import aindex
from aindex.cli import main
from aindex.collection.adopting import adopt_index
from aindex.collection.building import add_to_index, build_index
from aindex.collection.exporting import check_against, export_index
from aindex.descriptors.extraction import ExtractionSettings, extract
from aindex.descriptors.registry import load_extractor
from aindex.errors import (
    AindexError,
    ConfigError,
    DataError,
    DescriptorError,
    ExtractorError,
    FaissIndexError,
    OutputError,
)
from aindex.index.lance_export import COLUMN
from aindex.index.lance_search import LanceReferenceIndex
from aindex.index.reference_index import ReferenceIndex
from aindex.matching.searching import search
from tests.conftest import CACHED, TinyNet, save_script
from tests.index.conftest import unit_rows

DOCUMENT = Path(aindex.__file__).parent.parent / "docs" / "engines.md"
QUIET = ["--num_workers", "0", "--device", "cpu", "--progress", "false", "--precision", "fp32"]
MakePictures = Callable[..., list[Path]]


@pytest.fixture(autouse=True)
def _few_training_rows_are_fine() -> None:
    import warnings

    warnings.filterwarnings("ignore", message=".*FAISS recommends")


@pytest.fixture
def pq8(tmp_path: Path, tiny_script: Path, quiet: ExtractionSettings) -> Path:
    """An index folder over unit vectors whose codes have 8 bits, as engines like them."""
    np.save(tmp_path / "train.npy", unit_rows(600, 1))
    np.save(tmp_path / "rows.npy", unit_rows(300, 2))
    (tmp_path / "names.txt").write_text("\n".join(f"pictures/{i}.jpg" for i in range(300)))
    build_index(
        tmp_path / "pq8",
        train=tmp_path / "train.npy",
        references=tmp_path / "rows.npy",
        names=tmp_path / "names.txt",
        idx_factory="IVF8,PQ4x8",
        extractor=tiny_script,
        resize_size=32,
        settings=quiet,
    )
    return tmp_path / "pq8"


def same_index(one: Path, other: Path) -> None:
    mine, theirs = ReferenceIndex.open(one), ReferenceIndex.open(other)
    queries = unit_rows(40, 7)
    np.testing.assert_array_equal(mine.quantiser.targets(queries), theirs.quantiser.targets(queries))
    assert list(mine.names) == list(theirs.names)
    assert mine.extractor == theirs.extractor
    for a, b in zip(mine.search(queries, 7, 3), theirs.search(queries, 7, 3), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("form", ["faiss", "lance"])
def test_export_and_adopt_give_the_same_index(
    pq8: Path, tmp_path: Path, tiny_script: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    target = str(tmp_path / ("out/index.faiss" if form == "faiss" else "out/rows.lance"))
    main(["index", "export", str(pq8), "--to", form, target])
    assert capsys.readouterr().out == f"{target}: 300 rows of {pq8} (IVF8,PQ4x8)\n"
    names = ["--names", str(tmp_path / "out" / "names.parquet")] if form == "faiss" else []
    options = ["--extractor", str(tiny_script), "--resize_size", "32", *names, *QUIET]
    main(["index", "adopt", target, "--output", str(tmp_path / "again"), *options])
    said = capsys.readouterr().out
    assert "300 rows adopted (IVF8,PQ4x8, L2, dimension 16)" in said
    assert "the extractor was compared by its dimension alone" in said
    same_index(tmp_path / "again", pq8)
    main(["index", "check", target, "--against", str(pq8)])
    assert capsys.readouterr().out == f"{target}: the quantiser of {pq8} (IVF8,PQ4x8)\n"
    main(["index", "info", "--index", str(tmp_path / "again")])
    assert "rows: 300" in capsys.readouterr().out


def test_an_untouched_file_is_copied_as_it_is(
    pq8: Path, tmp_path: Path, tiny_script: Path, quiet: ExtractionSettings
) -> None:
    export_index(pq8, "faiss", tmp_path / "index.faiss")
    adopt_index(
        tmp_path / "index.faiss", tmp_path / "again", extractor=tiny_script, resize_size=32, settings=quiet
    )
    (copy,) = (tmp_path / "again").glob("index.*.faiss")
    assert copy.read_bytes() == (tmp_path / "index.faiss").read_bytes()
    assert ReferenceIndex.open(tmp_path / "again").names[17] == "17"


def test_names_in_all_their_forms(
    pq8: Path, tmp_path: Path, tiny_script: Path, quiet: ExtractionSettings
) -> None:
    whole = faiss.read_index(str(next(pq8.glob("index.*.faiss"))))
    bare = faiss.clone_index(whole)
    bare.reset()
    ids = np.random.default_rng(0).permutation(300) * 3 + 5
    bare.add_with_ids(unit_rows(300, 2), ids)
    faiss.write_index(bare, str(tmp_path / "ids.faiss"))
    table = pd.DataFrame({"id": ids, "name": [f"pictures/{i}.jpg" for i in range(300)]})
    table.sample(frac=1, random_state=0).to_csv(tmp_path / "names.csv", index=False)
    table.to_parquet(tmp_path / "names.parquet")
    table.sort_values("id")[["name"]].to_csv(tmp_path / "alone.csv", index=False)
    (tmp_path / "list.txt").write_text("\n".join(table.sort_values("id")["name"]))
    options = {"extractor": tiny_script, "resize_size": 32, "settings": quiet, "overwrite": True}
    known = ReferenceIndex.open(pq8)
    for file in ("names.csv", "names.parquet", "alone.csv", "list.txt"):
        adopt_index(tmp_path / "ids.faiss", tmp_path / "again", names=tmp_path / file, **options)
        again = ReferenceIndex.open(tmp_path / "again")
        queries = unit_rows(40, 7)
        found = [again.names[i] for i in again.search(queries, 1, 8)[1].ravel()]
        assert found == [known.names[i] for i in known.search(queries, 1, 8)[1].ravel()]


def test_names_that_are_not_enough_are_one_line(
    pq8: Path, tmp_path: Path, tiny_script: Path, quiet: ExtractionSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_index(pq8, "faiss", tmp_path / "index.faiss")
    table = pd.DataFrame({"id": range(300), "name": [f"{i}" for i in range(300)]})
    table[:200].to_csv(tmp_path / "few.csv", index=False)
    table[["name"]][:200].to_csv(tmp_path / "fewer.csv", index=False)
    table.rename(columns={"name": "path"}).to_csv(tmp_path / "other.csv", index=False)
    (tmp_path / "few.txt").write_text("a\nb\n")
    (tmp_path / "no.parquet").write_bytes(b"PAR1 is how they begin")
    for file, words in (
        ("few.csv", "names 200 of 300 rows, not the one with id 200"),
        ("fewer.csv", "holds 200 names for 300 rows"),
        ("few.txt", "holds 2 names for 300 rows"),
        ("other.csv", "has the columns id, path: expected name, and id"),
        ("no.parquet", "cannot be read as a table"),
        ("absent.csv", "does not exist"),
        ("absent.txt", "cannot be read"),
    ):
        with pytest.raises(DataError, match=words) as raised:
            adopt_index(
                tmp_path / "index.faiss",
                tmp_path / "again",
                extractor=tiny_script,
                resize_size=32,
                names=tmp_path / file,
                settings=quiet,
            )
        assert "\n" not in str(raised.value)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'aindex\[lance\]'"):
        export_index(pq8, "faiss", tmp_path / "other.faiss")
    assert not (tmp_path / "again").exists()
    assert not (tmp_path / "other.faiss").exists()


def test_a_sample_of_pictures_tells_the_extractor(
    tiny_index: Path, tmp_path: Path, quiet: ExtractionSettings
) -> None:
    export_index(tiny_index, "faiss", tmp_path / "out" / "index.faiss")
    options = {"names": tmp_path / "out" / "names.parquet", "resize_size": 32, "settings": quiet}
    source, pictures = tmp_path / "out" / "index.faiss", tmp_path / "references"
    found = adopt_index(source, tmp_path / "again", extractor=CACHED, sample=pictures, **options)
    assert (found.sampled, found.near) == (12, 12)
    same_index(tmp_path / "again", tiny_index)
    matches = search(tmp_path / "again", pictures, k=1, settings=quiet)
    assert matches.best["query"].map(lambda path: Path(path).name).tolist() == matches.best["name"].tolist()

    other = save_script(TinyNet(seed=5), tmp_path / "other.torchscript.pt")
    with pytest.raises(
        ExtractorError, match=r"of 12 pictures whose names the index has, .* lie near their rows"
    ):
        adopt_index(source, tmp_path / "wrong", extractor=other, sample=pictures, **options)
    wide = save_script(TinyNet(dim=24), tmp_path / "wide.torchscript.pt")
    with pytest.raises(ExtractorError, match=r"gives dimension 24, .* holds 16"):
        adopt_index(source, tmp_path / "wrong", extractor=wide, **options)
    with pytest.raises(DataError, match=r"no picture in .* has the name of a row .'R000000.png'"):
        adopt_index(source, tmp_path / "wrong", extractor=CACHED, sample=tmp_path / "train", **options)
    assert not (tmp_path / "wrong").exists()


def test_pictures_are_activated_and_added_against_an_adopted_index(
    tiny_index: Path,
    tmp_path: Path,
    quiet: ExtractionSettings,
    make_pictures: MakePictures,
) -> None:
    from aindex.release.activating import activate

    export_index(tiny_index, "faiss", tmp_path / "out" / "index.faiss")
    adopt_index(
        tmp_path / "out" / "index.faiss",
        tmp_path / "again",
        names=tmp_path / "out" / "names.parquet",
        extractor=CACHED,
        resize_size=32,
        settings=quiet,
    )
    for folder, output in ((tiny_index, "one"), (tmp_path / "again", "two")):
        activate(tmp_path / "references", tmp_path / output, index=folder, effort="fast", settings=quiet)
    names = sorted(path.name for path in (tmp_path / "one").glob("*.png"))
    assert len(names) == 12
    assert all((tmp_path / "one" / n).read_bytes() == (tmp_path / "two" / n).read_bytes() for n in names)
    make_pictures("more", 2, seed=5, prefix="M")
    assert add_to_index(tmp_path / "again", tmp_path / "more", settings=quiet).index.ntotal == 14


def test_a_model_of_opensearch_becomes_an_index_without_rows(
    pq8: Path, tmp_path: Path, tiny_script: Path, quiet: ExtractionSettings
) -> None:
    trained = ReferenceIndex.open(pq8).empty_copy()
    blob = base64.b64encode(faiss.serialize_index(trained.faiss_index).tobytes()).decode()
    (tmp_path / "model.json").write_text(json.dumps({"model_id": "m", "model_blob": blob, "engine": "faiss"}))
    found = adopt_index(
        tmp_path / "model.json", tmp_path / "again", extractor=tiny_script, resize_size=32, settings=quiet
    )
    queries = unit_rows(9, 4)
    np.testing.assert_array_equal(found.index.quantiser.targets(queries), trained.quantiser.targets(queries))
    assert (ReferenceIndex.open(tmp_path / "again").ntotal, found.index.idx_factory) == (0, "IVF8,PQ4x8")
    assert "the quantiser of" in check_against(tmp_path / "model.json", pq8)


@pytest.mark.parametrize("form", ["faiss", "lance"])
def test_what_is_trained_can_be_taken_without_rows(
    pq8: Path, tmp_path: Path, tiny_script: Path, quiet: ExtractionSettings, form: str
) -> None:
    export_index(pq8, "faiss" if form == "faiss" else "lance", tmp_path / "out" / form)
    found = adopt_index(
        tmp_path / "out" / form,
        tmp_path / "again",
        extractor=tiny_script,
        resize_size=32,
        rows=False,
        settings=quiet,
    )
    assert found.index.ntotal == 0
    assert "the quantiser of" in check_against(
        tmp_path / "again" / next((tmp_path / "again").glob("*.faiss")), pq8
    )


def test_an_engine_that_trained_anew_is_noticed(
    pq8: Path,
    tmp_path: Path,
    tiny_script: Path,
    quiet: ExtractionSettings,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = tmp_path / "rows.lance"
    export_index(pq8, "lance", target, descriptors=tmp_path / "rows.npy")
    new = lance.dataset(str(target)).to_table().slice(0, 5)
    lance.write_dataset(new, str(target), mode="append")
    assert "5 rows wait for the index" in check_against(target, pq8)
    options = {"extractor": tiny_script, "resize_size": 32, "settings": quiet}
    assert adopt_index(target, tmp_path / "adopted", **options).encoded == 5
    lance.dataset(str(target)).optimize.optimize_indices(retrain=True)
    with pytest.raises(SystemExit):
        main(["index", "check", str(target), "--against", str(pq8)])
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "has another quantiser than" in said
    with pytest.warns(UserWarning, match="had another quantiser"):
        adopt_index(target, tmp_path / "adopted", overwrite=True, **options)


def test_descriptors_of_other_rows_are_refused(pq8: Path, tmp_path: Path) -> None:
    rows = unit_rows(300, 2)
    for content, words in (
        (rows[:299], "holds 299 descriptors of dimension 16: expected one for each of the 300 rows"),
        (rows[::-1].copy(), "of 64 descriptors lie near the rows of the same number"),
    ):
        np.save(tmp_path / "other.npy", content)
        with pytest.raises(DescriptorError, match=words):
            export_index(pq8, "lance", tmp_path / "rows.lance", descriptors=tmp_path / "other.npy")
    with pytest.raises(ConfigError, match="leave descriptors out"):
        export_index(pq8, "faiss", tmp_path / "a.faiss", descriptors=tmp_path / "rows.npy")
    assert not (tmp_path / "rows.lance").exists()


def test_descriptors_of_an_extraction_are_put_in_the_order_of_the_rows(
    tiny_index: Path,
    tmp_path: Path,
    tiny_script: Path,
    make_pictures: MakePictures,
    quiet: ExtractionSettings,
) -> None:
    build_index(
        tmp_path / "flat",
        train=tmp_path / "train",
        references=tmp_path / "references",
        idx_factory="IVF4,Flat",
        extractor=tiny_script,
        resize_size=32,
        settings=quiet,
    )
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(f"references/R{i:06d}.png" for i in reversed(range(12))))
    options = [
        "--extractor",
        str(tiny_script),
        "--resize_size",
        "32",
        "--num_workers",
        "0",
        "--progress",
        "false",
    ]
    main(["extract", "--data_dir", str(listed), "--output_dir", str(tmp_path / "fts"), *options])
    names = (tmp_path / "fts" / "filenames.txt").read_text().replace("references/", "")
    (tmp_path / "fts" / "filenames.txt").write_text(names)
    export_index(tmp_path / "flat", "lance", tmp_path / "rows.lance", descriptors=tmp_path / "fts")
    column = lance.dataset(str(tmp_path / "rows.lance")).to_table()[COLUMN].combine_chunks()
    paths = sorted((tmp_path / "references").glob("*.png"))
    expected = extract(paths, load_extractor(tiny_script, resize_size=32), **quiet._asdict()).descriptors
    np.testing.assert_allclose(np.asarray(column.flatten()).reshape(12, 16), expected, atol=0.02)
    (tmp_path / "fts" / "filenames.txt").write_text(names.replace("R000003", "other"))
    with pytest.raises(DescriptorError, match=r"has no descriptor of row 'R000003.png'"):
        export_index(tmp_path / "flat", "lance", tmp_path / "again.lance", descriptors=tmp_path / "fts")


def test_several_rows_of_a_picture_have_an_owner(
    tiny_index: Path, tmp_path: Path, tiny_script: Path, quiet: ExtractionSettings
) -> None:
    export_index(tiny_index, "faiss", tmp_path / "single" / "index.faiss")
    assert "owner" not in pd.read_parquet(tmp_path / "single" / "names.parquet")
    add_to_index(tiny_index, tmp_path / "references", prefix="again/", rows=3, settings=quiet)
    index = ReferenceIndex.open(tiny_index)
    export_index(tiny_index, "faiss", tmp_path / "out" / "index.faiss")
    names = tmp_path / "out" / "names.parquet"
    table = pd.read_parquet(names)
    assert table["id"].tolist() == list(range(index.ntotal))
    assert table["owner"].tolist() == index.owners.of_rows(np.arange(index.ntotal)).tolist()
    adopted = adopt_index(
        tmp_path / "out" / "index.faiss", tmp_path / "back", extractor=tiny_script, resize_size=32, names=names,
        settings=quiet,
    ).index  # fmt: skip
    assert list(adopted.names) == list(index.names)
    assert adopted.owners.to_bytes() == index.owners.to_bytes()


def test_an_engine_finds_each_picture_once(pq8: Path, tmp_path: Path) -> None:
    index = ReferenceIndex.open(pq8)
    index.add(unit_rows(30, 5), [f"several {i}" for i in range(10)], [3] * 10)
    index.save(pq8)
    export_index(pq8, "lance", tmp_path / "rows.lance")
    engine = LanceReferenceIndex.open(pq8)
    engine.search_in(tmp_path / "rows.lance")
    queries = unit_rows(10, 5)
    np.testing.assert_array_equal(engine.search(queries, 9, 2)[1], index.search(queries, 9, 2)[1])


def test_lists_on_the_disk_are_exported_whole(pq8: Path, tmp_path: Path) -> None:
    from aindex.index.on_disk import build_on_disk
    from aindex.index.rows import Batch

    opened = ReferenceIndex.open(pq8)
    rows = Batch(unit_rows(300, 2), list(opened.names))
    build_on_disk(opened.empty_copy(), [rows], tmp_path / "on_disk")
    export_index(tmp_path / "on_disk", "faiss", tmp_path / "out" / "index.faiss")
    (tmp_path / "on_disk").rename(tmp_path / "elsewhere")
    alone = faiss.read_index(str(tmp_path / "out" / "index.faiss"))
    queries = unit_rows(5, 3)
    np.testing.assert_array_equal(alone.search(queries, 3)[1], opened.search(queries, 3)[1])
    export_index(tmp_path / "elsewhere", "lance", tmp_path / "out" / "rows.lance")
    assert "the quantiser of" in check_against(tmp_path / "out" / "rows.lance", pq8)


def test_nothing_that_is_there_is_replaced_unasked(pq8: Path, tmp_path: Path) -> None:
    (tmp_path / "index.faiss").write_text("a thesis")
    with pytest.raises(OutputError, match="exists already"):
        export_index(pq8, "faiss", tmp_path / "index.faiss")
    assert not (tmp_path / "names.parquet").exists()
    export_index(pq8, "faiss", tmp_path / "index.faiss", overwrite=True)
    with pytest.raises(OutputError, match=r"names.parquet' exists already"):
        export_index(pq8, "faiss", tmp_path / "second.faiss")
    with pytest.raises(OutputError, match="exists already"):
        export_index(pq8, "faiss", tmp_path, overwrite=True)


def test_other_sources_and_options_are_one_line(
    pq8: Path, tmp_path: Path, tiny_script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.faiss").write_text("text")
    options = ["--extractor", str(tiny_script), "--resize_size", "32", *QUIET]
    for arguments, words in (
        (["adopt", str(pq8), *options], "is an index folder of aindex already"),
        (["adopt", str(tmp_path / "absent.faiss"), *options], "cannot be read: No such file"),
        (["adopt", str(tmp_path / "folder"), *options], "is no Lance dataset that can be read"),
        (["adopt", str(tmp_path / "text.faiss"), *options], "is no index that FAISS"),
        (["adopt", str(tmp_path / "text.faiss"), "--name_column", "a", *options], "is no index that FAISS"),
        (["adopt", str(pq8)], "extractor"),
    ):
        main_fails = [*arguments[:2], "--output", str(tmp_path / "again"), *arguments[2:]]
        with pytest.raises(SystemExit):
            main(["index", *main_fails])
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
    for arguments, words in (
        (["export", str(pq8), "--to", "milvus", "x"], "milvus"),
        (["export", str(pq8), "--to", "lance"], "destination"),
        (
            ["export", str(tmp_path / "folder"), "--to", "faiss", str(tmp_path / "a.faiss")],
            "holds no index.yaml",
        ),
    ):
        with pytest.raises(SystemExit):
            main(["index", *arguments])
        assert words in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


def test_datasets_whose_names_are_missing(
    pq8: Path, tmp_path: Path, tiny_script: Path, quiet: ExtractionSettings
) -> None:
    target = str(tmp_path / "rows.lance")
    export_index(pq8, "lance", target, descriptors=tmp_path / "rows.npy")
    options = {"extractor": tiny_script, "resize_size": 32, "settings": quiet}
    with pytest.raises(
        DataError, match=r"has no column 'file' .* expected one of id, name, descriptor as name_column"
    ):
        adopt_index(target, tmp_path / "again", name_column="file", **options)
    lance.dataset(target).update({"name": "null"}, where="id < 7")
    with pytest.raises(DataError, match=r"7 of 300 rows of .* have no name"):
        adopt_index(target, tmp_path / "again", **options)
    assert adopt_index(target, tmp_path / "again", name_column="id", **options).index.names[0] == "7"
    export_index(pq8, "faiss", tmp_path / "index.faiss")
    with pytest.raises(ConfigError, match="they are for Lance datasets"):
        adopt_index(tmp_path / "index.faiss", tmp_path / "third", name_column="id", **options)


def test_codes_that_are_not_those_of_the_column(
    pq8: Path, tmp_path: Path, tiny_script: Path, quiet: ExtractionSettings
) -> None:
    from aindex.index.lance_export import export_to_lance

    export_to_lance(ReferenceIndex.open(pq8), tmp_path / "rows.lance", descriptors=unit_rows(300, 77))
    with pytest.raises(FaissIndexError, match="lie near the code of it"):
        adopt_index(
            tmp_path / "rows.lance", tmp_path / "again", extractor=tiny_script, resize_size=32, settings=quiet
        )


def test_a_copy_that_breaks_off_leaves_nothing(
    pq8: Path, tmp_path: Path, tiny_script: Path, quiet: ExtractionSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aindex.index import folder as folders

    export_index(pq8, "faiss", tmp_path / "index.faiss")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders.os, "fsync", full)
    with pytest.raises(AindexError, match="No space left"):
        adopt_index(
            tmp_path / "index.faiss",
            tmp_path / "again",
            extractor=tiny_script,
            resize_size=32,
            settings=quiet,
        )
    assert not list((tmp_path / "again").iterdir())


@pytest.mark.skipif(not DOCUMENT.is_file(), reason="documentation is beside a checkout only")
def test_the_ten_lines_without_aindex(pq8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    export_index(pq8, "faiss", "exported/index.faiss")
    export_index(pq8, "lance", "exported/index.lance")
    queries = unit_rows(6, 9)
    np.save("queries.npy", queries)
    index = ReferenceIndex.open(pq8)
    expected = [[index.names[i] for i in row] for row in index.search(queries, 10, 4)[1]]
    examples = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    searches = [example for example in examples if "queries.npy" in example]
    assert len(searches) == 2
    for example in searches:
        assert "aindex" not in example
        assert len(example.strip().splitlines()) <= 10
        names: dict[str, object] = {}
        exec(compile(example, str(DOCUMENT), "exec"), names)
        found = names["found"]
        assert isinstance(found, list)
        # equally close rows may change places
        assert (
            sum(
                a == b
                for one, two in zip(found, expected, strict=True)
                for a, b in zip(one, two, strict=True)
            )
            >= 56
        )


@pytest.mark.skipif(not DOCUMENT.is_file(), reason="documentation is beside a checkout only")
def test_the_workers_of_the_documentation(pq8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/scale.md: the dataset's segments get the cells and codes of the index."""
    monkeypatch.chdir(tmp_path)
    rows = unit_rows(300, 2)
    table = pa.table(
        {
            "name": pa.array([f"pictures/{i}.jpg" for i in range(300)]),
            COLUMN: pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 16),
        }
    )
    lance.write_dataset(table, "rows.lance", max_rows_per_file=50)
    pq8.rename("trained")
    text = (DOCUMENT.parent / "scale.md").read_text(encoding="utf-8")
    (example,) = re.findall(r" *```python\n(.*?) *```", text, re.DOTALL)
    exec(compile(textwrap.dedent(example), str(DOCUMENT), "exec"), {})
    assert "the quantiser of" in check_against("rows.lance", "trained")
    found = lance.dataset("rows.lance").describe_indices()[0]
    assert len(found.segments) == 4
    assert found.num_rows_indexed == 300
