"""The index folder: saved, opened, added to, killed while writing, damaged in every part."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aindex.errors import AindexError, DescriptorError, ExtractorError, FaissIndexError, OutputError
from aindex.index.description import FORMAT_VERSION, ExtractorIdentity
from aindex.index.reference_index import ReferenceIndex

Make = Callable[..., ReferenceIndex]
EXTRACTOR = SimpleNamespace(name="tiny", fingerprint="ab" * 32, input_size=32, dim=16)


def described(folder: Path) -> dict:
    return yaml.safe_load((folder / "index.yaml").read_text())


def rewrite(folder: Path, **changes: object) -> None:
    (folder / "index.yaml").write_text(yaml.safe_dump({**described(folder), **changes}))


def replace_file(folder: Path, role: str, data: bytes) -> None:
    """Put other content under a file's name, with the right size and hash, so that only its meaning is wrong."""
    files = described(folder)["files"]
    (folder / files[role]["name"]).write_bytes(data)
    files[role] |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    rewrite(folder, files=files)


def file_of(folder: Path, role: str) -> Path:
    return folder / described(folder)["files"][role]["name"]


@pytest.fixture
def saved(tmp_path: Path, filled_index: Make) -> Path:
    filled_index("OPQ4_8,IVF8,PQ4x4", nprobe=3, extractor=EXTRACTOR).save(tmp_path / "index")
    return tmp_path / "index"


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    "idx_factory",
    ["IVF8,PQ4x4", "OPQ4_8,IVF8,PQ4x4", "PCA8,LSH", "Flat", "HNSW8", "IVF8,PQ4x4fs", "IVF8,SQ8,RFlat"],
)
def test_opened_is_what_was_saved(
    tmp_path, filled_index: Make, query_rows, idx_factory: str, read_only: bool
) -> None:
    index = filled_index(idx_factory, extractor=EXTRACTOR)
    index.calibration = {"threshold": 0.25, "kind": "distance"}
    index.save(tmp_path / "index")
    opened = ReferenceIndex.open(tmp_path / "index", EXTRACTOR, read_only=read_only)
    for found, expected in zip(opened.search(query_rows, 9), index.search(query_rows, 9), strict=True):
        assert np.array_equal(found, expected)
    assert list(opened.names) == list(index.names)
    assert opened.info() | {"bytes": {}} == index.info() | {"bytes": {}}
    assert opened.extractor == ExtractorIdentity.of(EXTRACTOR)
    if idx_factory not in ("Flat", "HNSW8"):
        assert np.array_equal(opened.quantiser.targets(query_rows), index.quantiser.targets(query_rows))


def test_the_yaml_says_it_all(saved: Path) -> None:
    content = described(saved)
    assert content["idx_factory"] == "OPQ4_8,IVF8,PQ4x4"
    assert (content["metric"], content["nprobe"], content["dim"], content["rows"]) == ("L2", 3, 16, 300)
    assert content["extractor"] == {"name": "tiny", "fingerprint": "ab" * 32, "input_size": 32}
    assert set(content["versions"]) == {"aindex", "faiss"}
    assert sorted(os.listdir(saved)) == sorted(
        ["index.yaml", *(file["name"] for file in content["files"].values())]
    )


def test_added_rows_are_saved(saved: Path, query_rows) -> None:
    index = ReferenceIndex.open(saved)
    old = set(os.listdir(saved))
    ids = index.add(query_rows, [f"Q{i}" for i in range(30)])
    assert ids.dtype == np.int64
    assert ids.tolist() == list(range(300, 330))
    index.save(saved)
    assert len(os.listdir(saved)) == 3
    assert set(os.listdir(saved)) != old
    again = ReferenceIndex.open(saved)
    assert again.ntotal == 330
    assert [again.names[int(i)] for i in ids] == [f"Q{i}" for i in range(30)]
    assert again.names.index("Q7") == 307


def test_the_same_rows_give_the_same_bytes(tmp_path, filled_index: Make) -> None:
    for name in ("one", "two"):
        filled_index().save(tmp_path / name)
    assert sorted(os.listdir(tmp_path / "one")) == sorted(os.listdir(tmp_path / "two"))
    for name in os.listdir(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_calibration_rewrites_the_yaml_alone(saved: Path) -> None:
    before = {name: (saved / name).stat().st_mtime_ns for name in os.listdir(saved)}
    index = ReferenceIndex.open(saved, read_only=True)
    index.calibration = {"threshold": 0.5, "false_positive_rate": 0.01}
    index.save(saved)
    assert ReferenceIndex.open(saved).calibration == {"threshold": 0.5, "false_positive_rate": 0.01}
    changed = {name for name in os.listdir(saved) if before[name] != (saved / name).stat().st_mtime_ns}
    assert changed == {"index.yaml"}


def test_other_extractors_are_refused(saved: Path, filled_index: Make, tmp_path) -> None:
    other = SimpleNamespace(**{**vars(EXTRACTOR), "name": "other", "fingerprint": "cd" * 32})
    with pytest.raises(ExtractorError, match=r"'tiny' \(abab.*'other' \(cdcd"):
        ReferenceIndex.open(saved, other)
    larger = SimpleNamespace(**{**vars(EXTRACTOR), "input_size": 64, "fingerprint": "ef" * 32})
    with pytest.raises(ExtractorError, match=r"input size 32, not 64.*resize_size 32"):
        ReferenceIndex.open(saved, larger)
    filled_index().save(tmp_path / "unknown")
    wider = SimpleNamespace(**{**vars(EXTRACTOR), "dim": 8})
    with pytest.raises(ExtractorError, match="dimension 8, the index holds 16"):
        ReferenceIndex.open(tmp_path / "unknown", wider)
    assert ReferenceIndex.open(tmp_path / "unknown", EXTRACTOR).extractor == ExtractorIdentity.of(EXTRACTOR)


def test_read_only_is_read_only(saved: Path, query_rows, tmp_path) -> None:
    index = ReferenceIndex.open(saved, read_only=True)
    with pytest.raises(FaissIndexError, match="read-only"):
        index.add(query_rows, ["x"] * 30)
    with pytest.raises(FaissIndexError, match="copy the folder"):
        index.save(tmp_path / "elsewhere")
    assert index.empty_copy().ntotal == 0
    assert index.ntotal == 300


def test_a_mapped_reader_outlives_a_writer(saved: Path, query_rows) -> None:
    reader = ReferenceIndex.open(saved, read_only=True)
    before = reader.search(query_rows, 5)
    writer = ReferenceIndex.open(saved)
    writer.add(query_rows, ["x"] * 30)
    writer.save(saved)
    assert np.array_equal(reader.search(query_rows, 5)[1], before[1])


def test_two_writers(saved: Path, query_rows) -> None:
    first, second = ReferenceIndex.open(saved), ReferenceIndex.open(saved)
    first.add(query_rows[:1], ["first"])
    second.add(query_rows[:1], ["second"])
    first.save(saved)
    with pytest.raises(OutputError, match="changed since it was opened"):
        second.save(saved)
    assert ReferenceIndex.open(saved).names[300] == "first"
    second.save(saved, overwrite=True)
    assert ReferenceIndex.open(saved).names[300] == "second"


def test_where_an_index_may_be_saved(saved: Path, filled_index: Make, tmp_path, monkeypatch) -> None:
    index = filled_index()
    with pytest.raises(OutputError, match="holds an index already"):
        index.save(saved)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "dog.jpg").write_bytes(b"x")
    with pytest.raises(OutputError, match=r"other things \('dog.jpg'\)"):
        index.save(tmp_path / "pictures")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OutputError, match="cannot be written"):
        index.save(tmp_path / "file")
    monkeypatch.chdir(tmp_path)
    index.save("relative")
    index.save(tmp_path / "relative")


def test_a_full_disk_leaves_the_old_index(saved: Path, query_rows, monkeypatch) -> None:
    index = ReferenceIndex.open(saved)
    index.add(query_rows, ["x"] * 30)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"No space left.*make room"):
            index.save(saved)
    assert ReferenceIndex.open(saved).ntotal == 300
    assert len(os.listdir(saved)) == 3
    index.save(saved)
    assert ReferenceIndex.open(saved).ntotal == 330


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
@pytest.mark.parametrize("is_new", [True, False])
def test_killed_at_any_step_of_saving(saved: Path, query_rows, tmp_path, is_new: bool) -> None:
    index = ReferenceIndex.open(saved)
    index.add(query_rows, ["x"] * 30)
    outcomes = []
    for step in range(40):
        folder = tmp_path / f"copy{step}"
        if not is_new:
            shutil.copytree(saved, folder)
        if process_dies_at(step, lambda folder=folder: index.save(folder, overwrite=True)):
            break
        if is_new and not (folder / "index.yaml").exists():
            outcomes.append(0)
        else:
            outcomes.append(ReferenceIndex.open(folder).ntotal)
        # The next writing works and leaves nothing behind.
        index.save(folder, overwrite=True)
        assert ReferenceIndex.open(folder).ntotal == 330
        assert len(os.listdir(folder)) == 3
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {0 if is_new else 300, 330}
    assert step >= 6


def process_dies_at(step: int, work: Callable[[], object]) -> bool:
    """Fork; the child dies before its step-th change on the disk. Whether it came to the end instead."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    try:
        left = [step]

        def deadly(function):
            def call(*args, **kwargs):
                left[0] -= 1
                if left[0] < 0:
                    os._exit(9)
                return function(*args, **kwargs)

            return call

        for name in ("replace", "fsync", "unlink"):
            setattr(os, name, deadly(getattr(os, name)))
        work()
        os._exit(0)
    finally:
        os._exit(8)


def damage_yaml(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "index.yaml").write_text(text)


def cut(role: str) -> Callable[[Path], object]:
    return lambda folder: os.truncate(file_of(folder, role), file_of(folder, role).stat().st_size // 2)


def flip(role: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        data = bytearray(file_of(folder, role).read_bytes())
        data[len(data) // 2] ^= 1
        file_of(folder, role).write_bytes(data)

    return change


def set_entry(**changes: object) -> Callable[[Path], object]:
    return lambda folder: rewrite(folder, **changes)


def set_file_name(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        files = described(folder)["files"]
        files["names"]["name"] = name
        rewrite(folder, files=files)

    return change


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda folder: shutil.rmtree(folder), "does not exist"),
        (lambda folder: (folder / "index.yaml").unlink(), "no index.yaml"),
        (lambda folder: file_of(folder, "index").unlink(), "lacks the file 'index"),
        (lambda folder: file_of(folder, "names").unlink(), "lacks the file 'names"),
        (cut("index"), "truncated"),
        (cut("names"), "truncated"),
        (flip("index"), "SHA-256"),
        (flip("names"), "SHA-256"),
        (lambda folder: replace_file(folder, "index", b""), "no index that FAISS"),
        (lambda folder: replace_file(folder, "index", b"\x89PNG\r\n" + b"0" * 999), "no index that FAISS"),
        (
            lambda folder: replace_file(folder, "index", file_of(folder, "index").read_bytes()[:700]),
            "no index that FAISS",
        ),
        (lambda folder: replace_file(folder, "names", b'"a"\n"b"\n'), "2 names for 300 rows"),
        (lambda folder: replace_file(folder, "names", b'"a"\n"b'), "break off"),
        (damage_yaml(""), "not the description"),
        (damage_yaml("- a\n- b\n"), "not the description"),
        (damage_yaml("a: [unclosed"), "no YAML"),
        (damage_yaml("[" * 5000), "no YAML|not the description"),
        (damage_yaml("\x00\x01"), "no YAML"),
        (lambda folder: (folder / "index.yaml").write_bytes(b"\xff\xfe\x00"), "no YAML"),
        (set_entry(format="something"), "not the description"),
        (set_entry(format_version=FORMAT_VERSION + 1), "update aindex"),
        (set_entry(format_version="1"), "format_version is '1', expected int"),
        (set_entry(rows=299), "says 299"),
        (set_entry(rows=-1), "at least 0"),
        (set_entry(rows=True), "expected int"),
        (set_entry(dim=8), "says 300 of dimension 8"),
        (set_entry(nprobe=99), "nprobe 99"),
        (set_entry(metric="cosine"), "expected L2 or IP"),
        (set_entry(idx_factory=7), "idx_factory is 7, expected str"),
        (set_entry(extractor="tiny"), "extractor is 'tiny'"),
        (set_entry(extractor={"name": "tiny"}), "fingerprint is None"),
        (set_entry(files={}), "names no index file"),
        (set_entry(files={"index": 3}), "expected a mapping"),
        (set_file_name("../names.txt"), "without folders"),
        (set_file_name("/etc/passwd"), "without folders"),
    ],
)
def test_damaged_folders_are_one_line_errors(
    saved: Path, damage: Callable[[Path], object], expected: str
) -> None:
    damage(saved)
    with pytest.raises(FaissIndexError, match=expected) as caught:
        ReferenceIndex.open(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_folder(saved: Path) -> None:
    file_of(saved, "index").chmod(0)
    with pytest.raises(FaissIndexError, match="permissions"):
        ReferenceIndex.open(saved)


def opened_or_one_line(folder: Path) -> None:
    message = ""
    try:
        index = ReferenceIndex.open(folder)
    except AindexError as error:
        message = str(error)
    assert "\n" not in message
    assert message or index.ntotal == len(index.names) == 300


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fuzzed_folders(saved: Path, tmp_path_factory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("fuzz") / "index"
    shutil.copytree(saved, folder)
    path = folder / data.draw(st.sampled_from(sorted(os.listdir(folder))))
    content = bytearray(path.read_bytes())
    start = data.draw(st.integers(0, len(content) - 1))
    content[start : start + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=40))
    path.write_bytes(content)
    opened_or_one_line(folder)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.dictionaries(
        st.sampled_from(
            ["format_version", "idx_factory", "metric", "rows", "extractor", "files", "calibration"]
        ),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=5) | st.floats(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
        ),
    )
)
def test_fuzzed_descriptions(saved: Path, tmp_path_factory, content: dict) -> None:
    folder = tmp_path_factory.mktemp("fuzz") / "index"
    shutil.copytree(saved, folder)
    rewrite(folder, **content)
    opened_or_one_line(folder)


def test_bad_rows_are_not_added(filled_index: Make, query_rows) -> None:
    index = filled_index()
    broken = query_rows.copy()
    broken[29, 0] = np.nan
    for rows, names, expected in [
        (broken, ["x"] * 30, "row 29"),
        (query_rows, ["x"] * 29, "29 names for 30 descriptors"),
        (query_rows, [7] * 30, "name is 7"),
        (query_rows[:, :4], ["x"] * 30, "dimension 4, expected 16"),
    ]:
        with pytest.raises(DescriptorError, match=expected):
            index.add(rows, names)
    assert index.ntotal == len(index.names) == 300
    assert index.add(query_rows[:0], []).tolist() == []


def test_names_and_rows_must_agree(trained_index) -> None:
    with pytest.raises(FaissIndexError, match="1 names for 0 rows"):
        ReferenceIndex(trained_index("IVF8,PQ4x4"), idx_factory="IVF8,PQ4x4", names=["x"])


def test_a_mapped_file_is_added_in_blocks(make_index: Make, tmp_path, query_rows, monkeypatch) -> None:
    rows = np.random.default_rng(5).standard_normal((700, 16)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    monkeypatch.setattr("aindex.index.rows.BLOCK_ROWS", 128)
    names = [str(i) for i in range(700)]
    mapped, whole = make_index(nprobe=8), make_index(nprobe=8)
    mapped.add(np.load(tmp_path / "rows.npy", mmap_mode="r"), names)
    whole.add(rows[:300], names[:300])
    whole.add(rows[300:], names[300:])
    assert np.array_equal(mapped.search(query_rows, 50)[1], whole.search(query_rows, 50)[1])
    assert list(mapped.names) == names
