import pytest
import yaml

from aindex.callbacks.run_folder import SUMMARY_FILE, claim, decisive, differences, write_summary
from aindex.errors import ConfigError, OutputError

CONFIGURATION = {
    "seed_everything": 0,
    "output_dir": "x",
    "trainer": {"devices": 1, "precision": "32-true"},
    "model": {"iterations": 10, "optimizer": {"class_path": "Adam", "init_args": {"lr": 1.0}}},
    "data": {"num_workers": 2, "batch_size": 16},
}


def changed(**options: object) -> dict[str, object]:
    """The configuration with dotted options (``__`` for the dot) changed."""
    copy = yaml.safe_load(yaml.safe_dump(CONFIGURATION))
    for name, value in options.items():
        *groups, last = name.split("__")
        tree = copy
        for group in groups:
            tree = tree[group]
        tree[last] = value
    return copy


def test_new_folder_is_claimed_and_continued(tmp_path):
    folder = tmp_path / "a" / "run"
    assert claim(folder, CONFIGURATION, overwrite=False) == "new"
    assert yaml.safe_load((folder / "config.yaml").read_text()) == CONFIGURATION
    assert claim(folder, CONFIGURATION, overwrite=False) == "continued"


@pytest.mark.parametrize(
    "options",
    [
        {"trainer__devices": 4},
        {"data__num_workers": 0},
        {"output_dir": "y"},
    ],
)
def test_where_and_how_fast_it_runs_may_change(tmp_path, options):
    claim(tmp_path, CONFIGURATION, overwrite=False)
    assert claim(tmp_path, changed(**options), overwrite=False) == "continued"


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"model__iterations": 5}, "model.iterations: 10 → 5"),
        ({"seed_everything": 3}, "seed_everything: 0 → 3"),
        ({"data__batch_size": 8}, "data.batch_size: 16 → 8"),
        ({"trainer__precision": "bf16-mixed"}, "trainer.precision: 32-true → bf16-mixed"),
        ({"model__optimizer__init_args__lr": 0.5}, "model.optimizer.init_args.lr: 1.0 → 0.5"),
    ],
)
def test_what_decides_the_results_may_not_change(tmp_path, options, shown):
    claim(tmp_path, CONFIGURATION, overwrite=False)
    (tmp_path / "progress").mkdir()
    (tmp_path / "progress" / "images.rank0.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match=shown.replace(".", r"\.")):
        claim(tmp_path, changed(**options), overwrite=False)
    assert differences(CONFIGURATION, changed(**options)) == [shown]
    assert claim(tmp_path, changed(**options), overwrite=True) == "new"
    assert not (tmp_path / "progress").exists()


def test_first_try_that_came_to_nothing_is_replaced(tmp_path):
    claim(tmp_path, CONFIGURATION, overwrite=False)
    assert claim(tmp_path, changed(model__iterations=5), overwrite=False) == "new"


def test_finished_run_is_refused_unless_told(tmp_path):
    claim(tmp_path, CONFIGURATION, overwrite=False)
    write_summary(tmp_path, {"images": 1})
    with pytest.raises(OutputError, match="--overwrite true"):
        claim(tmp_path, CONFIGURATION, overwrite=False)
    assert claim(tmp_path, CONFIGURATION, overwrite=True) == "new"
    assert not (tmp_path / SUMMARY_FILE).exists()


def test_other_peoples_files_are_never_removed(tmp_path):
    (tmp_path / "imgs").mkdir()
    (tmp_path / "imgs" / "holiday.jpg").write_bytes(b"x")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="imgs"):
            claim(tmp_path, CONFIGURATION, overwrite=overwrite)
    assert (tmp_path / "imgs" / "holiday.jpg").exists()


def test_foreign_config_file_does_not_make_a_folder_a_run(tmp_path):
    (tmp_path / "config.yaml").write_text("model: mine\n")
    with pytest.raises(OutputError, match=r"config\.yaml"):
        claim(tmp_path, CONFIGURATION, overwrite=True)
    assert (tmp_path / "config.yaml").read_text() == "model: mine\n"


def test_file_in_the_way_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        claim(tmp_path / "file", CONFIGURATION, overwrite=False)


def test_decisive_options_are_flat():
    assert decisive(CONFIGURATION)["model.optimizer.init_args.lr"] == 1.0
