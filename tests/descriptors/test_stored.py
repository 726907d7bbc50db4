import json
import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from aindex.data.images import read_names, write_names
from aindex.descriptors import stored
from aindex.descriptors.extraction import ExtractionSettings
from aindex.descriptors.extractor import Extractor
from aindex.descriptors.files import read_descriptors, write_descriptors
from aindex.descriptors.stored import descriptors_for, extract_to_folder, read_extraction
from aindex.errors import ConfigError, DataError, DescriptorError, OutputError

QUIET = {"num_workers": 0, "batch_size": 4, "progress": False}


@pytest.fixture
def pictures(make_pictures, tmp_path):
    make_pictures("p/b", 6)
    make_pictures("p/a", 9, seed=1)
    (tmp_path / "p" / "a" / "P000002.png").write_bytes(b"broken")
    return tmp_path / "p"


def run(source, extractor, output, *, root=None, overwrite=False, flush_seconds=0, **options):
    settings = ExtractionSettings(**(QUIET | options))
    return extract_to_folder(
        source, extractor, output, settings, root=root, overwrite=overwrite, flush_seconds=flush_seconds
    )


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_files_agree_row_by_row(pictures, tiny_extractor, tmp_path):
    result = run(pictures, tiny_extractor, tmp_path / "out")
    tensor = torch.load(tmp_path / "out" / "fts.pth", weights_only=True)
    names = (tmp_path / "out" / "filenames.txt").read_text().splitlines()
    assert tensor.shape == (14, 16)
    assert tensor.dtype == torch.float32
    assert names == [f"a/P{i:06d}.png" for i in range(9) if i != 2] + [f"b/P{i:06d}.png" for i in range(6)]
    assert np.array_equal(result.descriptors, tensor.numpy())
    assert result.names == names
    assert [name for name, _ in result.skipped.rows] == ["a/P000002.png"]
    assert "a/P000002.png" in (tmp_path / "out" / "skipped.csv").read_text()
    assert sorted(contents(tmp_path / "out")) == [
        ".lock",
        "extract.json",
        "filenames.txt",
        "fts.pth",
        "skipped.csv",
    ]


def test_sources(pictures, tiny_extractor, tmp_path):
    write_names(tmp_path / "list.txt", ["p/b/P000001.png", "p/a/P000000.png"])
    from_list = run(tmp_path / "list.txt", tiny_extractor, tmp_path / "1")
    assert from_list.names == ["p/b/P000001.png", "p/a/P000000.png"]
    from_paths = run([pictures / "b" / "P000001.png"], tiny_extractor, tmp_path / "2", root=pictures)
    assert from_paths.names == ["b/P000001.png"]


def killed_after(shards, source, extractor, output):
    write, left = stored.write_shard, iter(range(shards, -1, -1))

    def write_shard(*args):
        write(*args)
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    stored.write_shard = write_shard
    run(source, extractor, output)


@pytest.mark.parametrize("shards", [0, 2])
def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(
    shards, pictures, tiny_extractor, tmp_path, monkeypatch
):
    run(pictures, tiny_extractor, tmp_path / "whole")
    process = multiprocessing.get_context("fork").Process(
        target=killed_after, args=(shards, pictures, tiny_extractor, tmp_path / "out")
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "out" / "fts.pth").exists()
    starts = spy_on_batches(monkeypatch)
    run(pictures, tiny_extractor, tmp_path / "out")
    assert starts == [4 * (shards + 1)]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def spy_on_batches(monkeypatch):
    describe, starts = stored.describe, []

    def spy(images, extractor, batches, **options):
        starts.append(batches[0].start)
        return describe(images, extractor, batches, **options)

    monkeypatch.setattr(stored, "describe", spy)
    return starts


@pytest.mark.parametrize("step", ["write_names", "write_descriptors"])
def test_killed_while_finishing(step, pictures, tiny_extractor, tmp_path, monkeypatch):
    run(pictures, tiny_extractor, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(stored, step, lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(pictures, tiny_extractor, tmp_path / "out")
    starts = spy_on_batches(monkeypatch)
    run(pictures, tiny_extractor, tmp_path / "out")
    assert starts == []
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_finished_extraction_is_not_repeated(pictures, tiny_extractor, tmp_path, monkeypatch):
    first = run(pictures, tiny_extractor, tmp_path / "out")
    (tmp_path / "out" / "shards").mkdir()
    starts = spy_on_batches(monkeypatch)
    again = run(pictures, tiny_extractor, tmp_path / "out", num_workers=1)
    assert starts == []
    assert not (tmp_path / "out" / "shards").exists()
    assert np.array_equal(again.descriptors, first.descriptors)
    assert again.skipped.rows == first.skipped.rows


def test_a_changed_configuration_is_refused_with_the_difference(
    pictures, tiny_module, tiny_extractor, tmp_path
):
    run(pictures, tiny_extractor, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(ConfigError, match="stored → given: precision fp32 → bf16, batch_size 4 → 8"):
        run(pictures, tiny_extractor, tmp_path / "out", batch_size=8, precision="bf16")
    other = Extractor(type(tiny_module)(seed=5), name="other", input_size=32)
    with pytest.raises(ConfigError, match="extractor tiny → other"):
        run(pictures, other, tmp_path / "out")
    (pictures / "b" / "P000000.png").unlink()
    with pytest.raises(ConfigError, match="images 15 → 14"):
        run(pictures, tiny_extractor, tmp_path / "out")
    assert contents(tmp_path / "out") == before
    renamed = Extractor(type(tiny_module)(), name="renamed", input_size=32)
    assert len(run(pictures, renamed, tmp_path / "out", overwrite=True).names) == 13


def test_descriptors_from_elsewhere_are_not_overwritten(pictures, tiny_extractor, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "fts.pth").write_text("precious")
    with pytest.raises(OutputError, match="give another folder"):
        run(pictures, tiny_extractor, tmp_path / "out")
    assert (tmp_path / "out" / "fts.pth").read_text() == "precious"
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write into"):
        run(pictures, tiny_extractor, tmp_path / "file" / "out")


def test_damaged_state(pictures, tiny_extractor, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(stored, "_finish", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(pictures, tiny_extractor, tmp_path / "out")
    shard = next((tmp_path / "out" / "shards").glob("000000000004-*"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-3])
    with pytest.raises(DescriptorError, match="remove it and run again"):
        run(pictures, tiny_extractor, tmp_path / "out")
    shard.unlink()
    assert len(run(pictures, tiny_extractor, tmp_path / "out").names) == 14
    (tmp_path / "out" / "extract.json").write_text("[]")
    with pytest.raises(ConfigError, match="damaged"):
        run(pictures, tiny_extractor, tmp_path / "out")


def test_no_readable_picture_leaves_room_for_another_try(make_pictures, tiny_extractor, tmp_path):
    (path,) = make_pictures("p", 1)
    content, times = path.read_bytes(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(b"x" * len(content))
    os.utime(path, ns=times)
    with pytest.raises(DataError, match="none of the 1 pictures"):
        run(tmp_path / "p", tiny_extractor, tmp_path / "out")
    path.write_bytes(content)
    os.utime(path, ns=times)
    assert run(tmp_path / "p", tiny_extractor, tmp_path / "out").names == ["P000000.png"]


def test_read_extraction_checks_rows_and_extractor(pictures, tiny_module, tiny_extractor, tmp_path):
    run(pictures, tiny_extractor, tmp_path / "out")
    assert len(read_extraction(tmp_path / "out", extractor=tiny_extractor)[1]) == 14
    other = Extractor(type(tiny_module)(seed=5), name="other", input_size=32)
    with pytest.raises(DescriptorError, match="of 'tiny' at 32 pixels, not of 'other' at 32"):
        read_extraction(tmp_path / "out", extractor=other)
    write_names(tmp_path / "out" / "filenames.txt", read_names(tmp_path / "out" / "filenames.txt")[1:])
    with pytest.raises(DescriptorError, match="14 descriptors and 13 names"):
        read_extraction(tmp_path / "out")


def test_descriptors_for_files(tiny_extractor, pictures, tmp_path):
    run(pictures, tiny_extractor, tmp_path / "out")
    expected = read_descriptors(tmp_path / "out" / "fts.pth")
    for source in (tmp_path / "out", str(tmp_path / "out" / "fts.pth")):
        found, names = descriptors_for(
            source, tiny_extractor, tmp_path / "cache", ExtractionSettings(**QUIET)
        )
        assert np.array_equal(found, expected)
        assert names is not None
        assert names[-1] == "b/P000005.png"
    write_descriptors(tmp_path / "plain.npy", expected)
    assert descriptors_for(tmp_path / "plain.npy", tiny_extractor, tmp_path / "cache")[1] is None
    write_descriptors(tmp_path / "narrow.npy", expected[:, :3].copy())
    with pytest.raises(DescriptorError, match="dimension 3, expected 16"):
        descriptors_for(tmp_path / "narrow.npy", tiny_extractor, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_descriptors_for_pictures_are_cached_until_something_changes(
    tiny_module, tiny_extractor, pictures, make_picture, tmp_path, monkeypatch
):
    starts = spy_on_batches(monkeypatch)

    def describe(source=pictures, extractor=tiny_extractor, **options):
        settings = ExtractionSettings(**(QUIET | options))
        found, names = descriptors_for(source, extractor, tmp_path / "cache", settings)
        assert names is not None
        assert len(names) == len(found)
        return found, names, len(starts)

    first, names, _ = describe()
    assert (len(names), len(starts)) == (14, 1)
    assert np.array_equal(describe()[0], first)
    assert np.array_equal(describe(num_workers=2)[0], first)
    assert len(starts) == 1
    make_picture(99).save(pictures / "b" / "P000000.png")
    changed, _, count = describe()
    assert count == 2
    assert not np.array_equal(changed[8], first[8])
    assert np.array_equal(np.delete(changed, 8, 0), np.delete(first, 8, 0))
    (pictures / "b" / "P000005.png").rename(pictures / "b" / "P000009.png")
    assert describe()[2] == 3
    assert describe(extractor=Extractor(type(tiny_module)(5), name="tiny", input_size=32))[2] == 4
    assert describe(extractor=Extractor(type(tiny_module)(), name="tiny", input_size=40))[2] == 5
    assert describe(precision="bf16")[2] == 6
    assert describe(source=sorted((pictures / "b").iterdir()))[2] == 7
    Image.new("RGB", (20, 20)).save(pictures / "a" / "P000002.png")
    assert (len(describe()[1]), len(starts)) == (15, 8)


def test_configuration_is_readable(pictures, tiny_extractor, tmp_path):
    run(pictures, tiny_extractor, tmp_path / "out")
    configuration = json.loads((tmp_path / "out" / "extract.json").read_text())
    assert configuration["extractor"] == "tiny"
    assert configuration["fingerprint"] == tiny_extractor.fingerprint
    assert (configuration["images"], configuration["dim"]) == (15, 16)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["fts.pth", "filenames.txt", "skipped.csv", "shards"])
def test_what_no_extraction_made_is_never_removed(pictures, tiny_extractor, tmp_path, name, overwrite):
    out = tmp_path / "out"
    (out / "Downloads").mkdir(parents=True)
    foreign = [out / "Downloads" / ".video.partial.mkv", out / ".backup.partial", out / ".lock"]
    foreign.append(out / name / "mine" if name == "shards" else out / name)
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    with pytest.raises(OutputError, match=f"holds a {name} that no extraction here made"):
        run(pictures, tiny_extractor, out, overwrite=overwrite)
    assert all(path.read_text() == "mine" for path in foreign)


def test_an_extraction_beside_other_things_leaves_them(pictures, tiny_extractor, tmp_path):
    out = tmp_path / "out"
    (out / "Downloads").mkdir(parents=True)
    foreign = [out / "Downloads" / ".video.partial.mkv", out / ".backup.partial", out / "extract.txt"]
    for path in foreign:
        path.write_text("mine")
    run(pictures, tiny_extractor, out)
    run(pictures, tiny_extractor, out, batch_size=2, overwrite=True)
    assert all(path.read_text() == "mine" for path in foreign)


def test_a_foreign_configuration_is_not_taken_for_ours(pictures, tiny_extractor, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "extract.json").write_text('{"archive": "mine"}')
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="is damaged"):
            run(pictures, tiny_extractor, tmp_path / "out", overwrite=overwrite)
    assert (tmp_path / "out" / "extract.json").read_text() == '{"archive": "mine"}'
