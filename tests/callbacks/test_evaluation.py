"""A run's evaluation: its csv files against what they are said to hold, its numbers against the csv files."""

import contextlib
import filecmp
import io
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from aindex.cli import main
from aindex.data.parts import PartFiles
from aindex.descriptors.files import read_descriptors
from aindex.descriptors.preprocess import prepare
from aindex.descriptors.registry import load_extractor
from aindex.edits.named import Attack, apply_attack, default_attacks
from aindex.edits.random_edit import draw_random_edits
from aindex.errors import OutputError
from aindex.evaluation.analyses import QUERY_COLUMNS
from aindex.evaluation.intervals import wilson
from aindex.evaluation.retrieval import read_results
from aindex.index.reference_index import ReferenceIndex
from aindex.seeding import derive_seed
from tests.conftest import TinyPipeline, write_pictures

IMAGES, QUERIES, REFERENCES = 7, 18, 12
UNREADABLE = "Q000004.png"
TABLES = ("retr_df", "queries_df", "icd_df")
KINDS = {"passive": "_passive", "active": ""}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory, tiny_data, tiny_script):
    folder = tmp_path_factory.mktemp("evaluation")
    for name in ("originals", "references", "train"):
        (folder / name).symlink_to(tiny_data / name)
    write_pictures(folder / "queries", QUERIES, seed=9, prefix="Q")
    (folder / "queries" / UNREADABLE).write_bytes(b"no picture")
    return TinyPipeline(folder, tiny_script)


def _options(pipeline):
    return [
        f"--data.query_nonmatch_dir={pipeline.folder / 'queries'}",
        "--retrieval.passive=true",
        "--trainer.precision=32-true",
        "--data.batch_size_eval=1",
    ]


@pytest.fixture(scope="module")
def run(pipeline):
    """A finished run's folder, and what it printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        folder = pipeline.run("fit", *_options(pipeline), "--report.html=true", "--report.examples=3")
    return folder, out.getvalue()


@pytest.fixture(scope="module")
def tools(pipeline, run):
    """The run's index and an extractor, to recompute rows with."""
    extractor = load_extractor(str(pipeline.extractor), resize_size=32)
    index = ReferenceIndex.open(run[0] / "index", extractor, read_only=True)

    def describe(image):
        return extractor(prepare(image, 32)[None]).numpy()

    return index, describe


def _icd(folder, kind="active"):
    return read_results(folder / f"icd_df{KINDS[kind]}.csv")


def test_copy_detection_rows(run):
    rows = _icd(run[0])
    assert list(rows.columns) == [
        "batch", "image_index", "attack", "retrieved_distances", "retrieved_indices",
    ]  # fmt: skip
    ids = range(REFERENCES, REFERENCES + IMAGES)
    assert rows["image_index"].tolist() == [*ids, *[-1] * (QUERIES - 1)]
    assert rows["batch"].tolist() == [0] * IMAGES + [1] * 15 + [2] * 2
    assert {len(found) for found in rows["retrieved_indices"]} == {10}
    names = [f"O{i:06d}.png" for i in range(IMAGES)]
    names += [f"Q{i:06d}.png" for i in range(QUERIES) if f"Q{i:06d}.png" != UNREADABLE]
    for name, drawn in zip(names, rows["attack"], strict=True):
        edits = draw_random_edits(derive_seed(0, name, "copy detection"))
        assert json.loads(drawn) == [edit.as_dict() for edit in edits]


def test_queries_that_match_nothing_are_the_same_for_active_and_passive(run):
    active, passive = (_icd(run[0], kind) for kind in ("active", "passive"))
    assert active["attack"].equals(passive["attack"])
    assert active[IMAGES:].equals(passive[IMAGES:])
    assert not active[:IMAGES]["retrieved_distances"].equals(passive[:IMAGES]["retrieved_distances"])


def test_unreadable_queries_are_recorded(run):
    folder, out = run
    assert UNREADABLE in (folder / "skipped.csv").read_text()
    assert "1 unreadable" in out
    assert json.loads((folder / "summary.json").read_text())["skipped_queries"] == 1


def _pairs(rows, normalised):
    pairs = []
    for true, distances, ids in zip(
        rows["image_index"], rows["retrieved_distances"], rows["retrieved_indices"], strict=True
    ):
        near = np.array(distances, dtype=np.float32)
        for place, found in enumerate(ids):
            if found < 0 or (normalised and (place + 1 == len(ids) or ids[place + 1] < 0)):
                continue
            score = near[place + 1] - near[place] if normalised else -near[place]
            pairs.append((-score, found == true))
    return sorted(pairs)


def _copy_detection(rows, normalised):
    """µAP and recall at 90 % precision, pair by pair, false pairs first among equal ones."""
    pairs, true_pairs = _pairs(rows, normalised), (rows["image_index"] >= 0).sum()
    hits, total, recall = 0, 0.0, 0.0
    for count, (score, true) in enumerate(pairs, 1):
        hits += true
        total += true * hits / count
        ends_a_tie = count == len(pairs) or pairs[count][0] != score
        if ends_a_tie and hits / count >= 0.9:
            recall = hits / true_pairs
    return total / true_pairs, recall


def _per_attack(table, column):
    return table.groupby(["attack", "attack_param"], dropna=False)[column].mean()


def _expected(folder, kind):
    """The run's numbers, worked out from its csv files alone."""
    tables = {name: pd.read_csv(folder / f"{name}{KINDS[kind]}.csv") for name in TABLES}
    queries = tables["queries_df"]
    edited = queries[queries["attack"] != "none"]
    of_index = pd.read_csv(folder / "index_df.csv").iloc[0]
    numbers = {name: _per_attack(tables["retr_df"], name).mean() for name in ("r@1", "r@10", "ap")}
    numbers["r@1_without_screenshot"] = (
        _per_attack(tables["retr_df"], "r@1").drop("overlay_onto_screenshot").mean()
    )
    for score in ("plain", "normalised"):
        uap, recall = _copy_detection(_icd(folder, kind), score == "normalised")
        numbers |= {f"uap_{score}": uap, f"recall_at_p90_{score}": recall}
    numbers["exhaustive_r@1"] = _per_attack(queries.assign(hit=queries["exhaustive_rank"] == 0), "hit").mean()
    numbers |= {
        "same_cell": _per_attack(queries, "same_cell").mean(),
        "scanned_rows": _per_attack(queries, "scanned_rows").mean(),
        "rows_per_picture": of_index["rows_per_picture"],
        "bytes_per_picture": of_index["bytes_per_picture"],
        "code_distance_edited": edited["code_distance"].mean(),
    }
    if kind == "active":
        images, search = pd.read_csv(folder / "images_df.csv"), pd.read_csv(folder / "search_df.csv")
        same_names = ("psnr_db", "ssim", "linf", "activation_seconds")
        columns = [*same_names, "code_distance_original", "code_distance_released"]
        numbers |= {name: images[name].mean() for name in columns}
        for row in search.itertuples():
            numbers[f"search_ms_nprobe{row.nprobe}_k{row.k}"] = row.ms_per_query
    return numbers


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_is_recomputed_from_the_csv_files(run, kind):
    folder, _ = run
    shown = json.loads((folder / "summary.json").read_text())["measures"][kind]
    expected = _expected(folder, kind)
    assert shown.keys() == expected.keys()
    for key, value in expected.items():
        assert shown[key] == pytest.approx(value, abs=1e-9), key


def test_printed_table_holds_these_numbers(run):
    folder, out = run
    passive, active = (_expected(folder, kind) for kind in KINDS)
    width = len("copies in their original's cell, average over edits")
    lines = {line[:width].strip(): line[width:] for line in out.splitlines()}
    for label, key, form in (
        ("µAP, plain score", "uap_plain", ".3f"),
        ("recall at 90 % precision, normalised score", "recall_at_p90_normalised", ".3f"),
        ("R@1 of an exhaustive search, average over edits", "exhaustive_r@1", ".3f"),
        ("copies in their original's cell, average over edits", "same_cell", ".3f"),
        ("rows scanned per query, average over edits", "scanned_rows", ".1f"),
        ("squared distance to the code, edited images", "code_distance_edited", ".4f"),
    ):
        shown = re.sub(r"\(.*?\)", "", lines[label]).split()
        assert shown == [format(passive[key], form), format(active[key], form)]
    interval = wilson(active["same_cell"], IMAGES * 15).text
    assert lines["copies in their original's cell, average over edits"].endswith(f"({interval})")
    assert lines["PSNR (dB), mean"].split() == ["–", format(active["psnr_db"], ".2f")]
    rows = [pd.read_csv(folder / f"retr_df{suffix}.csv") for suffix in KINDS.values()]
    before, after = (_per_attack(table, "r@1")["rotation", 25] for table in rows)
    line = next(line for line in out.splitlines() if line.startswith("rotation 25 "))
    assert f" {before:.3f} → {after:.3f} " in line


def _logged(folder, name="."):
    log = EventAccumulator(str(folder / "tensorboard" / name), size_guidance={"scalars": 0, "images": 0})
    return log.Reload()


def test_tensorboard_shows_the_same(run):
    folder, _ = run
    tags = {}
    for kind in KINDS:
        log = _logged(folder, kind)
        tags[kind] = log.Tags()
        for key, value in _expected(folder, kind).items():
            (point,) = log.Scalars(f"summary/{key}")
            assert point.value == pytest.approx(value, rel=1e-6), key
        queries = pd.read_csv(folder / f"queries_df{KINDS[kind]}.csv")
        (point,) = log.Scalars("queries/same_cell/contrast 2")
        assert point.value == pytest.approx(_per_attack(queries, "same_cell")["contrast", 2])
        assert "copy detection/plain" in tags[kind]["tensors"]
        plugin = log.SummaryMetadata("_hparams_/session_start_info").plugin_data
        (start,) = (HParamsPluginData.FromString(plugin.content).session_start_info,)
        assert start.hparams["images"].string_value == kind
        assert start.hparams["index.nprobe"].number_value == 1
    # the same tags, so that the two overlay
    assert set(tags["passive"]["scalars"]) <= set(tags["active"]["scalars"])
    assert "most changed images/text_summary" in tags["active"]["tensors"]
    assert {"released images/psnr_db", "distance to the code/released"} <= set(tags["active"]["histograms"])
    main = _logged(folder).Tags()
    assert "configuration/text_summary" in main["tensors"]
    assert [tag for tag in main["images"] if tag.startswith("examples/")] == [
        f"examples/O{number:06d}.png" for number in (0, 3, 6)
    ]


def test_the_run_says_what_its_index_is_and_costs(run):
    folder, _ = run
    (row,) = pd.read_csv(folder / "index_df.csv").to_dict("records")
    assert (row["idx_factory"], row["metric"], row["nprobe"], row["cells"]) == ("IVF4,PQ4x4", "L2", 1, 4)
    assert (row["pictures"], row["rows"], row["rows_per_picture"]) == (REFERENCES + IMAGES,) * 2 + (1,)
    assert row["bytes_per_picture"] == 2 + 8
    head = (folder / "config.yaml").read_text()
    assert "# command: aindex fit --output_dir=" in head
    assert re.search(r"# started: \d{4}-\d\d-\d\d \d\d:\d\d UTC", head)


def test_report_shows_examples_with_verdicts(run):
    html = (run[0] / "report.html").read_text(encoding="utf-8")
    assert html.count("<article>") == 3
    assert "O000003.png" in html
    assert "heatmap" in html
    assert "active: <b" in html


def test_images_are_measured_as_they_lie_on_the_disk(pipeline, run, tools):
    metrics = pytest.importorskip("skimage.metrics")
    index, describe = tools
    for row in pd.read_csv(run[0] / "images_df.csv").to_dict("records"):
        before, after = (
            Image.open(folder / row["name"]) for folder in (pipeline.folder / "originals", run[0] / "imgs")
        )
        a, b = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
        assert row["psnr_db"] == pytest.approx(
            metrics.peak_signal_noise_ratio(a, b, data_range=255), abs=1e-3
        )
        assert row["linf"] == np.abs(a - b).max()
        ssim = metrics.structural_similarity(
            a, b, data_range=255, channel_axis=2, gaussian_weights=True, use_sample_covariance=False
        )
        assert row["ssim"] == pytest.approx(ssim, abs=1e-4)
        for name, image in (("original", before), ("released", after)):
            distance = index.quantiser.code_distance(describe(image))
            assert row[f"code_distance_{name}"] == pytest.approx(distance[0], abs=1e-5)


def test_copies_are_measured_against_the_index(pipeline, run, tools):
    index, describe = tools
    stores = {len(read_descriptors(path)): path for path in (pipeline.folder / "indexes").glob("*/fts.pth")}
    references = read_descriptors(stores[REFERENCES])
    originals = read_descriptors(run[0] / "originals" / "fts.pth")
    everything = np.concatenate([references, originals])
    rows = pd.read_csv(run[0] / "queries_df.csv")
    assert tuple(rows.columns) == QUERY_COLUMNS
    assert len(rows) == IMAGES * len(default_attacks())
    for row in rows[rows["image_index"] < REFERENCES + 3].itertuples():
        position = row.image_index - REFERENCES
        attack = Attack(row.attack, None if np.isnan(row.attack_param) else row.attack_param)
        name = f"O{position:06d}.png"
        copy = apply_attack(
            Image.open(run[0] / "imgs" / name), attack, seed=derive_seed(0, name, str(attack))
        )
        query, original = describe(copy), originals[position : position + 1]
        assert row.same_cell == (index.quantiser.cells(query) == index.quantiser.cells(original))[0]
        cell = index.quantiser.cells(query)[0]
        assert row.scanned_rows == index.quantiser.ivf.invlists.list_size(int(cell))
        assert row.code_distance == pytest.approx(index.quantiser.code_distance(query)[0], abs=1e-5)
        stored = index.quantiser.stored(original)
        assert row.stored_distance == pytest.approx(np.square(query - stored).sum(), abs=1e-5)
        distances = np.square(everything - query).sum(axis=1)
        assert row.exhaustive_rank == (distances < distances[row.image_index] - 1e-7).sum()


def test_workers_do_not_change_a_row(pipeline, run):
    other = pipeline.run("fit", *_options(pipeline), "--data.num_workers=2", output="other")
    for name in TABLES:
        for suffix in KINDS.values():
            assert filecmp.cmp(run[0] / f"{name}{suffix}.csv", other / f"{name}{suffix}.csv", shallow=False)
    one, two = (pd.read_csv(folder / "images_df.csv") for folder in (run[0], other))
    assert one.drop(columns="activation_seconds").equals(two.drop(columns="activation_seconds"))


def test_interrupted_copy_detection_goes_on_where_it_was(pipeline, run, monkeypatch, capsys):
    append, calls = PartFiles.append, []

    def breaks(self, batch, record):
        if self.name == "copy_detection_queries" and batch == 1:
            raise OutputError("cannot write: No space left on device")
        append(self, batch, record)

    monkeypatch.setattr(PartFiles, "append", breaks)
    with pytest.raises(SystemExit):
        main(["fit", *pipeline.args(*_options(pipeline), output="broken")])
    monkeypatch.setattr(
        PartFiles, "append", lambda self, *args: (calls.append((self.name, args[0])), append(self, *args))
    )
    folder = pipeline.run("fit", *_options(pipeline), output="broken")
    assert calls == [("copy_detection_queries", 1)]
    assert filecmp.cmp(run[0] / "icd_df.csv", folder / "icd_df.csv", shallow=False)
    assert filecmp.cmp(run[0] / "queries_df.csv", folder / "queries_df.csv", shallow=False)
    assert not list((folder / "progress").glob("copy_detection*"))


def test_released_images_are_measured_in_evaluate_too(pipeline, run):
    """With the index of the run, which has no descriptors to search exhaustively."""
    args = [
        argument
        for argument in pipeline.args(output="evaluated")
        if not argument.startswith(("--index.fts_", "--index.idx_factory"))
    ]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        main(
            [
                "evaluate",
                *args,
                f"--index.path={run[0] / 'index'}",
                f"--retrieval.released_dir={run[0] / 'imgs'}",
                "--trainer.precision=32-true",
                "--report.html=true",
            ]
        )
    folder = pipeline.folder / "evaluated"
    assert not (folder / "icd_df.csv").exists()
    columns = ["image_index", "name", "psnr_db", "ssim", "linf"]
    one, two = (pd.read_csv(path / "images_df.csv")[columns] for path in (run[0], folder))
    assert one.equals(two)
    rows, known = (pd.read_csv(path / "queries_df.csv") for path in (folder, run[0]))
    assert rows["exhaustive_rank"].isna().all()
    assert rows["same_cell"].equals(known["same_cell"])
    assert "left out: R@1 of an exhaustive search" in out.getvalue()
    assert "exhaustive search reaches is not known" in (folder / "report.html").read_text()


def test_plain_images_are_passive_and_unchanged(pipeline, capsys):
    folder = pipeline.run("evaluate", "--retrieval.exhaustive=false", output="plain")
    assert pd.read_csv(folder / "queries_df.csv")["exhaustive_rank"].isna().all()
    images = pd.read_csv(folder / "images_df.csv")
    assert (images["linf"] == 0).all()
    assert np.isinf(images["psnr_db"]).all()
    assert list(json.loads((folder / "summary.json").read_text())["measures"]) == ["passive"]
    out = capsys.readouterr().out
    assert "passive" in out
    assert "left out" not in out


def test_released_image_of_another_size_is_an_error(pipeline, run, tmp_path, capsys):
    shutil.copytree(run[0] / "imgs", tmp_path / "imgs")
    Image.open(tmp_path / "imgs" / "O000002.png").resize((20, 20)).save(tmp_path / "imgs" / "O000002.png")
    with pytest.raises(SystemExit):
        main(["evaluate", *pipeline.args(f"--retrieval.released_dir={tmp_path / 'imgs'}", output="sizes")])
    line = capsys.readouterr().err
    assert "O000002.png" in line
    assert "20×20" in line


def test_a_failed_edit_is_recorded_and_costs_no_other_row(tmp_path, tiny_data, tiny_script):
    """A sliver of a picture is too narrow for a banner with text."""
    (tmp_path / "originals").mkdir()
    for path in sorted((tiny_data / "originals").iterdir())[:3]:
        (tmp_path / "originals" / path.name).symlink_to(path)
    sliver = tmp_path / "originals" / "A_sliver.png"
    Image.new("RGB", (4, 300), "green").save(sliver)
    for name in ("references", "train"):
        (tmp_path / name).symlink_to(tiny_data / name)
    write_pictures(tmp_path / "queries", 3, seed=9, prefix="Q")
    pipeline = TinyPipeline(tmp_path, tiny_script)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        folder = pipeline.run("fit", *_options(pipeline), "--report.html=true", "--report.examples=4")
    for kind in KINDS.values():
        rows = pd.read_csv(folder / f"retr_df{kind}.csv")
        assert (
            len(rows) == len(pd.read_csv(folder / f"queries_df{kind}.csv")) == 4 * len(default_attacks()) - 1
        )
        assert rows["attack"].value_counts()["meme_format"] == 3
        assert rows["attack"].value_counts()["none"] == 4
    skipped = pd.read_csv(folder / "skipped.csv")
    assert skipped["reason"].str.contains("edit meme_format failed").sum() == 2
    assert "2 edited copies left out" in out.getvalue()
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["skipped"], summary["failed_edits"]) == (0, 2)


def test_an_edit_that_fails_on_every_image_is_an_error(tmp_path, tiny_data, tiny_script, capsys):
    """Else an average would quietly be one over fewer edits."""
    (tmp_path / "originals").mkdir()
    Image.new("RGB", (4, 300), "green").save(tmp_path / "originals" / "sliver.png")
    for name in ("references", "train"):
        (tmp_path / name).symlink_to(tiny_data / name)
    with pytest.raises(SystemExit):
        TinyPipeline(tmp_path, tiny_script).run("fit")
    assert "edit meme_format failed on every image" in capsys.readouterr().err
