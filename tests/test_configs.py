"""Every shipped configuration is found by its name, understood, and runs; and all of it is in the wheel."""

import configparser
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import aindex
from aindex.cli import main
from aindex.commands.config_files import resolve_config_arguments
from aindex.index.reference_index import ReferenceIndex
from aindex.shipped import resolve_config, shipped_configs

TINY_DIM = 16
ROOT = Path(aindex.__file__).resolve().parent.parent
TINY_FACTORIES = {
    "IVF4096,PQ8x8": "IVF4,PQ4x4",
    "IVF128,PQ8x8": "IVF4,PQ4x4",
    "IVF1024,Flat": "IVF4,Flat",
    "PCA64,LSH": "PCA8,LSH",
    "OPQ8_64,PQ8x8": "OPQ4_8,PQ4x4",
}
TRAINED_BY = "extractor.yaml"


def pipeline_configs() -> list[str]:
    return [name for name in shipped_configs() if name != TRAINED_BY]


def test_there_is_one_per_index_type_and_more():
    expected = {"ivf_pq.yaml", "ivf_flat.yaml", "pca_lsh.yaml", "opq_pq.yaml"}
    assert expected | {"passive.yaml", "disc21_small.yaml", "demo.yaml", TRAINED_BY} <= set(shipped_configs())


def assert_holds(stored, given):
    """What was given, beside defaults in what has a class and arguments."""
    if isinstance(given, dict):
        for key, value in given.items():
            assert_holds(stored[key], value)
    else:
        assert stored == given


@pytest.mark.parametrize("name", pipeline_configs())
def test_configuration_runs_at_tiny_scale(tiny_pipeline, name, monkeypatch):
    monkeypatch.chdir(tiny_pipeline.folder)
    config = yaml.safe_load(Path(resolve_config(name)).read_text())
    factory = TINY_FACTORIES[config.get("index", {}).get("idx_factory", "IVF4096,PQ8x8")]
    options = [option for option in tiny_pipeline.args() if "idx_factory" not in option]
    # OPQ asks for 256 training descriptors
    np.save("training.npy", np.random.default_rng(0).standard_normal((300, TINY_DIM), dtype=np.float32))
    options += ["--index.fts_training_path=training.npy", f"--index.idx_factory={factory}"]
    options += ["--index.path=null", "--model.iterations=1"]
    if name == "demo.yaml":
        # its pictures are large; what it does with them has a test of its own
        config["data"].pop("data_dir")
    main(["fit", f"--config=configs/{name}", *options])
    rows = pd.read_csv(tiny_pipeline.folder / "run" / "retr_df.csv")
    assert len(rows) == 7 * 15
    stored = yaml.safe_load((tiny_pipeline.folder / "run" / "config.yaml").read_text())
    for group, values in config.items():
        for key, value in values.items() if isinstance(values, dict) else ():
            if key not in ("data_dir", "extractor", "path", "iterations") and "fts" not in key:
                assert_holds(stored[group][key], factory if key == "idx_factory" else value)


def test_the_control_changes_nothing_else():
    assert yaml.safe_load(Path(resolve_config("passive.yaml")).read_text()) == {"model": {"active": False}}


def test_configurations_add_up(capsys):
    files = ["--config=configs/ivf_flat.yaml", "--config=configs/passive.yaml"]
    with pytest.raises(SystemExit):
        main(["fit", *files, "--data.data_dir=x", "--index.path=null", "--print_config"])
    told = capsys.readouterr()
    printed = yaml.safe_load(told.out)
    assert printed["model"]["active"] is False
    assert printed["model"]["extractor"] == "sscd_disc_mixup"
    assert printed["model"]["target"] == "ivf_cluster"
    assert printed["index"]["idx_factory"] == "IVF1024,Flat"
    assert "replaces" not in told.err


def test_what_a_later_configuration_replaces_is_said(capsys, tmp_path):
    (tmp_path / "mine.yaml").write_text("model:\n  extractor: mine.pt\nindex:\n  idx_factory: IVF64,Flat\n")
    with pytest.raises(SystemExit):
        main(["fit", f"--config={tmp_path / 'mine.yaml'}", "--config=ivf_pq.yaml", "--print_config"])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "replaces" in line]
    assert "model.extractor mine.pt of" in line
    assert "index.idx_factory IVF64,Flat of" in line


@pytest.mark.parametrize("given", [None, 1, 2])
def test_a_run_takes_what_its_index_has_and_says_so(tiny_pipeline, finished_fit, monkeypatch, given):
    index = ReferenceIndex.open(finished_fit / "index")
    index.nprobe = 3
    index.save(tiny_pipeline.folder / "three")
    options = [
        one for one in tiny_pipeline.args() if not one.startswith(("--index.fts", "--index.idx_factory"))
    ]
    options += [f"--index.path={tiny_pipeline.folder / 'three'}"]
    main(["evaluate", *options, *([] if given is None else [f"--index.nprobe={given}"])])
    stored = yaml.safe_load((tiny_pipeline.folder / "run" / "config.yaml").read_text())["index"]
    assert (stored["idx_factory"], stored["quant"], stored["nprobe"]) == ("IVF4,PQ4x4", "L2", given or 3)
    assert ReferenceIndex.open(tiny_pipeline.folder / "run" / "index").nprobe == (given or 3)
    like = ["index", "build", "--output=like", f"--like={tiny_pipeline.folder / 'three'}"]
    extractor = [
        one.replace("model.", "") for one in tiny_pipeline.args() if one.startswith("--model.extractor")
    ]
    size = [
        one.replace("model.", "") for one in tiny_pipeline.args() if one.startswith("--model.resize_size")
    ]
    monkeypatch.chdir(tiny_pipeline.folder)
    main([*like, *extractor, *size, *([] if given is None else [f"--nprobe={given}"])])
    assert ReferenceIndex.open("like").nprobe == (given or 3)


@pytest.mark.parametrize("command", ["train", "fit", "activate", "compare", "index build"])
def test_every_command_finds_configurations_and_reads_their_keys_once(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("twice.yaml").write_text("seed: 1\nseed: 2\n")
    for file, told in (
        ("twice.yaml", "key 'seed' twice"),
        ("configs/none.yaml", "demo.yaml"),
    ):
        with pytest.raises(SystemExit):
            main([*command.split(), "--config", file])
        (line,) = capsys.readouterr().err.splitlines()
        assert told in line


def test_the_extractor_is_trained_by_its_configuration_from_any_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = ["train", "--config", "configs/extractor.yaml"]
    main_fails = [
        ([], "data.data_dir"),
        (["--data.data_dir", "absent"], "'absent' does not exist"),
        (["--data.data_dir", "absent", "--data.data_dirs", "x"], "did you mean --data.data_dir?"),
    ]
    for options, told in main_fails:
        with pytest.raises(SystemExit):
            main([*config, *options])
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("aindex: error: ")
        assert told in line
    with pytest.raises(SystemExit) as stopped:
        main([*config, "--data.data_dir", "pictures", "--print_config"])
    assert stopped.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["name"] == "aindex_small"


def test_shipped_name_gives_way_to_a_file_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Path(resolve_config("configs/demo.yaml")).is_absolute()
    assert resolve_config("demo.yaml") == resolve_config("configs/demo.yaml")
    assert resolve_config("elsewhere/demo.yaml") == "elsewhere/demo.yaml"
    assert resolve_config("configs/absent.yaml") == "configs/absent.yaml"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.yaml").write_text("{}")
    assert resolve_config("configs/demo.yaml") == "configs/demo.yaml"


def test_config_options_are_resolved_in_every_spelling(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = resolve_config("configs/demo.yaml")
    given = [
        "--config",
        "configs/demo.yaml",
        "-c",
        "demo.yaml",
        "--config=configs/demo.yaml",
        "--x",
        "demo.yaml",
    ]
    assert resolve_config_arguments(given) == [
        "--config",
        path,
        "-c",
        path,
        f"--config={path}",
        "--x",
        "demo.yaml",
    ]


@pytest.mark.skipif(not (ROOT / "setup.cfg").exists(), reason="not a checkout")
def test_every_package_is_listed_for_the_wheel():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "aindex").rglob("__init__.py")}
    assert listed == found | {"aindex.configs"}
    assert setup["options"]["package_dir"].split() == ["aindex.configs", "=", "configs"]


@pytest.mark.skipif(find_spec("skimage") is None, reason="needs scikit-image, extra demo")
def test_demo_pictures_need_no_download():
    from aindex.data.demo import demo_images

    assert 18 <= len(demo_images()) <= 24
