import filecmp
import json
import re
import shutil
import signal
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from aindex.callbacks import picture_writer
from aindex.callbacks.evaluate import Evaluate
from aindex.callbacks.write_images import WriteImages
from aindex.cli import COMMANDS, main
from aindex.data.parts import PartFiles
from aindex.edits.named import Attack, default_attacks, full_attacks, unseen_attacks
from aindex.errors import OutputError
from aindex.evaluation.retrieval import RETRIEVAL_COLUMNS

NO_EVALUATION = "--trainer.limit_val_batches=0"


def pixels(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path)) for path in sorted((folder / "imgs").glob("*.png"))}


def same_pixels(a: Path, b: Path) -> bool:
    one, other = pixels(a), pixels(b)
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def same_rows(a: Path, b: Path) -> bool:
    return filecmp.cmp(a / "retr_df.csv", b / "retr_df.csv", shallow=False)


def fails(capsys: pytest.CaptureFixture[str], args: list[str], code: int = 1) -> str:
    """Run, expect one line on the error stream and nothing that looks like a traceback."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(args)
    assert exit_.value.code == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("aindex: error:")]
    assert len(lines) == 1
    return lines[0]


def test_help_lists_the_commands(capsys):
    main(["--help"])
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)


def test_unknown_command_names_the_known_ones(capsys):
    line = fails(capsys, ["fitt"], code=2)
    assert "'fitt'" in line
    assert "evaluate" in line


def test_fit_writes_all_that_a_run_holds(tiny_pipeline, capsys):
    folder = tiny_pipeline.run("fit", "--retrieval.passive=true", "--report.html=true")
    out = capsys.readouterr().out
    assert "passive → active" in out
    assert "PSNR" in out
    assert "tensorboard --logdir" in out
    rows = pd.read_csv(folder / "retr_df.csv")
    assert tuple(rows.columns) == RETRIEVAL_COLUMNS
    assert len(rows) == 7 * len(default_attacks())
    assert sorted(rows["image_index"].unique()) == list(range(12, 19))
    assert rows.groupby("image_index").size().eq(15).all()
    assert len(pd.read_csv(folder / "retr_df_passive.csv")) == 7 * len(default_attacks())
    images = pd.read_csv(folder / "images_df.csv")
    assert list(images["image_index"]) == list(range(12, 19))
    assert list(images["file"]) == sorted(pixels(folder))
    assert yaml.safe_load((folder / "config.yaml").read_text())["index"]["idx_factory"] == "IVF4,PQ4x4"
    assert json.loads((folder / "summary.json").read_text())["images"] == 7
    assert list((folder / "tensorboard").glob("events*"))


def test_released_images_differ_little_and_have_the_sources_size(finished_fit):
    for name, released in pixels(finished_fit).items():
        original = np.asarray(Image.open(finished_fit.parent / "originals" / name))
        assert released.shape == original.shape
        assert 0 < np.abs(released.astype(int) - original).max() < 60


def test_signals_end_a_run_as_they_end_any_program(tiny_pipeline, monkeypatch):
    found = []
    for callback, hook in ((WriteImages, "on_train_batch_start"), (Evaluate, "on_validation_batch_start")):
        monkeypatch.setattr(
            callback, hook, lambda *_: found.append(signal.getsignal(signal.SIGTERM)), raising=False
        )
    before = signal.getsignal(signal.SIGTERM)
    tiny_pipeline.run("fit", "--model.iterations=1")
    assert len(found) > 2
    assert set(found) == {before}


def test_passive_control_leaves_the_pixels(tiny_pipeline):
    folder = tiny_pipeline.run("fit", "--model.active=false")
    assert same_pixels(folder, _as_run(tiny_pipeline.folder / "originals", tiny_pipeline.folder / "plain"))
    assert len(pd.read_csv(folder / "retr_df.csv")) == 7 * len(default_attacks())


def _as_run(originals: Path, folder: Path) -> Path:
    shutil.copytree(originals, folder / "imgs")
    return folder


def test_workers_do_not_change_pixels_and_rows(tiny_pipeline, finished_fit):
    folder = tiny_pipeline.run("fit", "--data.num_workers=2")
    assert same_pixels(finished_fit, folder)
    assert same_rows(finished_fit, folder)


@pytest.mark.parametrize("order", [(6, 0, 5, 3, 2), (4,)])
def test_order_and_company_do_not_change_pixels(tiny_pipeline, finished_fit, order):
    originals = tiny_pipeline.folder / "originals"
    names = [str(originals / f"O{number:06d}.png") for number in order]
    some = tiny_pipeline.folder / "lists" / "some.txt"
    some.parent.mkdir()
    some.write_text("\n".join(names))
    folder = tiny_pipeline.run("fit", f"--data.data_dir={some}", NO_EVALUATION)
    assert len(pixels(folder)) == len(order)
    for name, image in pixels(folder).items():
        assert np.array_equal(image, pixels(finished_fit)[name])


def test_evaluate_gives_the_rows_of_fit(tiny_pipeline, finished_fit):
    folder = tiny_pipeline.run("evaluate", f"--retrieval.released_dir={finished_fit / 'imgs'}")
    assert same_rows(finished_fit, folder)


def test_evaluate_plain_originals(tiny_pipeline, capsys):
    # an index that has no target for activation can still be searched
    folder = tiny_pipeline.run("evaluate", "--index.idx_factory=Flat")
    assert len(pd.read_csv(folder / "retr_df.csv")) == 7 * len(default_attacks())
    assert not (folder / "imgs").exists()
    assert "average" in capsys.readouterr().out


def test_interrupted_run_goes_on_where_it_was(tiny_pipeline, finished_fit, capsys, monkeypatch):
    write, written = picture_writer.write_png, []

    def broken(path: Path, *args: object) -> None:
        if path.name == "O000005.png":
            raise OutputError("cannot write: No space left on device")
        written.append(path.name)
        write(path, *args)

    monkeypatch.setattr(picture_writer, "write_png", broken)
    line = fails(capsys, ["fit", *tiny_pipeline.args()])
    assert "No space left" in line
    before = set(written)
    assert {"O000000.png", "O000001.png", "O000002.png"} <= before
    written.clear()
    monkeypatch.setattr(
        picture_writer, "write_png", lambda *args: (written.append(args[0].name), write(*args))
    )
    folder = tiny_pipeline.run("fit")
    assert "continuing" in capsys.readouterr().err
    assert not {"O000000.png", "O000001.png", "O000002.png"} & set(written)
    assert same_pixels(finished_fit, folder)
    assert same_rows(finished_fit, folder)


def test_interrupted_evaluation_goes_on_where_it_was(tiny_pipeline, finished_fit, capsys, monkeypatch):
    append, calls = PartFiles.append, []

    def breaks(self: PartFiles, batch: int, record: dict[str, object]) -> None:
        calls.append((self.name, batch))
        if self.name.startswith("retrieval") and batch == 2:
            raise OutputError("cannot write: No space left on device")
        append(self, batch, record)

    monkeypatch.setattr(PartFiles, "append", breaks)
    fails(capsys, ["fit", *tiny_pipeline.args()])
    monkeypatch.setattr(
        PartFiles, "append", lambda *args: (calls.append((args[0].name, args[1])), append(*args))
    )
    calls.clear()
    folder = tiny_pipeline.run("fit")
    assert calls == [("retrieval_active", 2), ("retrieval_active", 3)]
    assert same_rows(finished_fit, folder)


def test_finished_run_is_not_overwritten_unasked(tiny_pipeline, capsys):
    folder = tiny_pipeline.run("fit", "--model.iterations=1", NO_EVALUATION)
    line = fails(capsys, ["fit", *tiny_pipeline.args("--model.iterations=1", NO_EVALUATION)])
    assert "finished run" in line
    assert "--overwrite" in line
    before = pixels(folder)
    (folder / "mine.txt").write_text("not aindex's")
    tiny_pipeline.run("fit", "--model.iterations=2", "--overwrite=true", NO_EVALUATION)
    assert any(not np.array_equal(before[name], image) for name, image in pixels(folder).items())
    assert (folder / "mine.txt").exists()


def test_interrupted_run_of_another_configuration_is_refused(tiny_pipeline, capsys):
    folder = tiny_pipeline.run("fit", "--model.iterations=1", NO_EVALUATION)
    (folder / "summary.json").unlink()
    options = ("--model.iterations=2", "--data.num_workers=1", NO_EVALUATION)
    line = fails(capsys, ["fit", *tiny_pipeline.args(*options)])
    assert "model.iterations: 1 → 2" in line
    assert "num_workers" not in line


def test_foreign_folder_is_refused_and_left_alone(tiny_pipeline, capsys):
    (tiny_pipeline.folder / "run").mkdir()
    (tiny_pipeline.folder / "run" / "thesis.tex").write_text("x")
    for options in ([], ["--overwrite=true"]):
        assert "thesis.tex" in fails(capsys, ["fit", *tiny_pipeline.args(*options)])
    assert [path.name for path in (tiny_pipeline.folder / "run").iterdir()] == ["thesis.tex"]


def test_unreadable_images_are_recorded_and_skipped(tiny_pipeline, capsys):
    originals = tiny_pipeline.folder / "mixed"
    shutil.copytree(tiny_pipeline.folder / "originals", originals)
    (originals / "O000003.png").write_bytes(b"no picture")
    folder = tiny_pipeline.run("fit", f"--data.data_dir={originals}")
    assert "1 unreadable" in capsys.readouterr().out
    assert "O000003" in (folder / "skipped.csv").read_text()
    assert len(pixels(folder)) == 6
    assert len(pd.read_csv(folder / "retr_df.csv")) == 6 * len(default_attacks())


def test_images_that_the_index_holds_already_keep_their_rows(tiny_pipeline):
    references = f"--data.data_dir={tiny_pipeline.folder / 'references'}"
    folder = tiny_pipeline.run("fit", references, "--index.kneighbors=12")
    assert sorted(pd.read_csv(folder / "retr_df.csv")["image_index"].unique()) == list(range(12))


def test_index_of_a_run_can_be_used_again(tiny_pipeline, finished_fit):
    args = [
        argument
        for argument in tiny_pipeline.args(f"--index.path={finished_fit / 'index'}", output="again")
        if not argument.startswith(("--index.fts_", "--index.idx_factory"))
    ]
    main(["fit", *args])
    assert same_rows(finished_fit, tiny_pipeline.folder / "again")


def _without(arguments: list[str], *starts: str) -> list[str]:
    return [
        argument for argument in arguments if not argument.startswith(tuple(f"--{start}" for start in starts))
    ]


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--data.data_dir=absent", ["absent", "does not exist"]),
        ("--model.extractor=nothing", ["nothing", "aindex_small"]),
        ("--index.idx_factory=IVF4,PQ5x4", ["dimension 16", "5"]),
        ("--index.idx_factory=Quark7", ["Quark7", "cannot be parsed"]),
        ("--index.idx_factory=IVF64,Flat", ["40 training descriptors", "64"]),
        ("--index.kneighbors=20", ["kneighbors", "20", "19"]),
        ("--index.nprobe=9", ["nprobe", "4"]),
        ("--index.idx_factory=Flat", ["pq_recons", "ori_ft"]),
        ("--index.idx_factory=PQ4x4 --model.target=ivf_cluster", ["coarse cell", "IndexPQ"]),
        ("--index.idx_factory=PCA8,LSH --model.loss_f=mse", ["mse", "cossim"]),
        ("--index.fts_training_path=absent.npy", ["absent.npy"]),
        ("--index.path=absent", ["index.path", "fts_training_path"]),
        ("--model.iterations=-1", ["iterations", "-1"]),
        ("--data.batch_size=0", ["batch_size"]),
        ("--trainer.precision=16-mixed", ["16-mixed", "bf16-mixed"]),
        ("--trainer.limit_train_batches=0.5", ["limit_train_batches", "data_dir"]),
        ("--trainer.accelerator=quantum", ["quantum"]),
        ("--model.scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau", ["ReduceLROnPlateau"]),
        ("--retrieval.released_dir=imgs", ["released_dir", "evaluate"]),
    ],
)
def test_bad_input_is_one_line(tiny_pipeline, capsys, option, words):
    line = fails(capsys, ["fit", *tiny_pipeline.args(*option.split(" "))])
    for word in words:
        assert word in line
    assert not (tiny_pipeline.folder / "run" / "retr_df.csv").exists()
    assert not (tiny_pipeline.folder / "run" / "summary.json").exists()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--model.target=pq", ["pq_recons", "ivf_cluster_half"]),
        ("--model.iteration=3", ["did you mean --model.iterations", "--model.scaling"]),
        ("--modle.iterations=3", ["--model.*"]),
        ("--index.quant=cosine", ["L2", "IP"]),
        ("--model.optimizer=Adm", ["Adam"]),
        ("--config=configs/nothing.yaml", ["demo.yaml"]),
        ("--model.iterations=many", ["many", "int"]),
    ],
)
def test_wrong_options_name_the_allowed_ones(tiny_pipeline, capsys, option, words):
    line = fails(capsys, ["fit", *tiny_pipeline.args(option)], code=2)
    for word in words:
        assert word in line


def test_descriptors_with_nan_or_of_another_dimension(tiny_pipeline, capsys):
    bad = np.ones((50, 16), np.float32)
    bad[3, 3] = np.nan
    np.save(tiny_pipeline.folder / "nan.npy", bad)
    np.save(tiny_pipeline.folder / "dim.npy", np.ones((50, 12), np.float32))
    for name, word in (("nan.npy", "NaN"), ("dim.npy", "dimension 12")):
        path = tiny_pipeline.folder / name
        assert word in fails(capsys, ["fit", *tiny_pipeline.args(f"--index.fts_reference_path={path}")])


def test_empty_folder_and_folder_without_a_readable_image(tiny_pipeline, capsys):
    empty = tiny_pipeline.folder / "empty"
    empty.mkdir()
    assert "no picture" in fails(capsys, ["fit", *tiny_pipeline.args(f"--data.data_dir={empty}")])
    (empty / "a.png").write_bytes(b"x")
    line = fails(capsys, ["fit", *tiny_pipeline.args(f"--data.data_dir={empty}", output="other")])
    assert "none of the 1 pictures can be read" in line


def test_unwritable_output(tiny_pipeline, capsys):
    (tiny_pipeline.folder / "file").write_text("x")
    line = fails(capsys, ["fit", *tiny_pipeline.args(output="file/run")])
    assert "cannot be used" in line or "cannot write" in line


def test_released_folder_that_lacks_an_image(tiny_pipeline, finished_fit, capsys):
    released = tiny_pipeline.folder / "released"
    shutil.copytree(finished_fit / "imgs", released)
    (released / "O000004.png").unlink()
    option = f"--retrieval.released_dir={released}"
    assert "O000004" in fails(capsys, ["evaluate", *tiny_pipeline.args(option, output="other")])


def test_images_that_are_not_to_be_kept_are_evaluated_and_removed(tiny_pipeline, finished_fit):
    folder = tiny_pipeline.run("fit", "--images.save_imgs=false")
    assert same_rows(finished_fit, folder)
    assert not (folder / "imgs").exists()


@pytest.mark.parametrize(
    ("option", "attacks"),
    [
        ("--retrieval.use_attacks_2=true", full_attacks()),
        ("--retrieval.attacks=full", full_attacks()),
        ("--retrieval.attacks=unseen", unseen_attacks()),
    ],
)
def test_other_lists_of_attacks(tiny_pipeline, option, attacks):
    some = tiny_pipeline.folder / "originals" / "O000003.png"
    folder = tiny_pipeline.run("evaluate", option, f"--data.data_dir={some}", "--report.html=true")
    rows = pd.read_csv(folder / "retr_df.csv", dtype={"attack_param": float})
    assert len(rows) == len(attacks)
    params = rows["attack_param"].astype(object).where(rows["attack_param"].notna(), None)
    assert [Attack(*one) for one in zip(rows["attack"], params, strict=True)] == attacks
    report = (folder / "report.html").read_text()
    assert all(str(attack) in report for attack in attacks)


def test_two_lists_of_attacks_are_refused(tiny_pipeline, capsys):
    options = ["--retrieval.use_attacks_2=true", "--retrieval.attacks=unseen"]
    assert "give one of the two" in fails(capsys, ["evaluate", *tiny_pipeline.args(*options)])


def test_prepare_and_extract(tiny_pipeline, tmp_path, capsys):
    (tmp_path / "truth.csv").write_text("Q1,R000003\nQ2,R000005\n")
    options = [
        f"--data_dir={tmp_path}",
        f"--output_dir={tmp_path}",
        f"--groundtruth={tmp_path / 'truth.csv'}",
    ]
    main(["prepare", *options, "--queries=5", "--progress=false"])
    assert "references_10k: 2 images" in capsys.readouterr().out
    options = [
        f"--extractor={tiny_pipeline.extractor}",
        "--resize_size=32",
        "--num_workers=0",
        "--progress=false",
    ]
    folder = tmp_path / "described"
    main(["extract", f"--data_dir={tmp_path / 'references_10k'}", f"--output_dir={folder}", *options])
    assert torch.load(folder / "fts.pth", weights_only=True).shape == (2, 16)
    assert (folder / "filenames.txt").read_text().split() == ["R000003.png", "R000005.png"]
    line = fails(capsys, ["extract", f"--data_dir={tmp_path}", f"--output_dir={folder}", "--device=tpu9"])
    assert "tpu9" in line


@pytest.mark.parametrize("command", ["fit", "evaluate", "extract", "prepare"])
def test_every_option_has_a_help_text(capsys, command):
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert "--" in out
    undocumented = re.findall(r"^  (--[\w.]+) [A-Z_{][^\n]*\n\s+\((?:type|required)", out, re.MULTILINE)
    assert not [option for option in undocumented if not option.startswith("--trainer")]


def test_stored_configuration_repeats_a_run(tiny_pipeline, finished_fit):
    again = tiny_pipeline.folder / "again"
    main(["fit", f"--config={finished_fit / 'config.yaml'}", f"--output_dir={again}"])
    assert same_pixels(finished_fit, again)
    assert same_rows(finished_fit, again)


def test_configuration_is_printed_and_understood_again(tiny_pipeline, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["fit", *tiny_pipeline.args("--model.scaling=2.5"), "--print_config"])
    assert exit_.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["scaling"] == 2.5
    assert printed["model"]["optimizer"] == {"class_path": "torch.optim.Adam", "init_args": ANY}
    assert printed["model"]["optimizer"]["init_args"]["lr"] == 1.0
    assert printed["index"]["kneighbors"] == 10
