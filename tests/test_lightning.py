"""The pipeline's parts without the command line: docs/lightning.md as it stands, and what is said of a missing one."""

import json
import re
from pathlib import Path

import pytest
from pytorch_lightning import Callback, Trainer

from aindex import (
    ActivationModule,
    BuildIndex,
    Evaluate,
    ImageData,
    Report,
    RunFolder,
    WriteImages,
    build_index,
)
from aindex.activation.run import Run
from aindex.errors import ConfigError, OutputError

DOCS = Path(__file__).parents[1] / "docs" / "lightning.md"

pytestmark = pytest.mark.filterwarnings("ignore:::pytorch_lightning")


def trainer(folder, *callbacks, **options):
    return Trainer(
        **{"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_checkpointing": False, **options},
        default_root_dir=folder,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@pytest.fixture
def holiday(tmp_path, monkeypatch, make_pictures):
    make_pictures("holiday", 3)
    monkeypatch.chdir(tmp_path)
    return "holiday"


def module(**options):
    return ActivationModule(**{"iterations": 1, "loss_f": "assignment", "delta_size": "input", **options})


def test_the_documentation_s_lines_run(holiday, tmp_path, capsys):
    (code,) = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    exec(compile(code, str(DOCS), "exec"), {"__name__": "notebook"})
    shown = capsys.readouterr().out
    assert "R@1" in shown
    run = tmp_path / "runs" / "mine"
    assert sorted(path.name for path in (run / "imgs").iterdir()) == [f"P00000{i}.png" for i in range(3)]
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary["retrieval"]) == {"passive", "active"}
    # logged by the subclass, through Lightning's own logger
    (table,) = (run / "log").rglob("metrics.csv")
    assert "psnr_db" in table.read_text().splitlines()[0]


class Watching(Callback):
    """One's own callback: sees the run and what is released."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        assert isinstance(pl_module.run, Run)
        self.seen += [
            (one.image.name, item.image.name) for one, item in zip(outputs["released"], batch, strict=True)
        ]


def test_callbacks_of_one_s_own_see_the_run(holiday, tmp_path):
    watching = Watching()
    given = trainer(tmp_path / "run", watching, BuildIndex(path="shipped"), WriteImages(), Report(html=False))
    given.fit(module(), datamodule=ImageData(holiday, num_workers=0))
    assert watching.seen == [(f"P00000{i}.png",) * 2 for i in range(3)]
    # without an evaluation too the results are said, and the run is finished
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["images"] == 3


def test_released_images_are_evaluated_later(holiday, tmp_path):
    trainer(tmp_path / "run", BuildIndex(path="shipped"), WriteImages()).fit(
        module(), datamodule=ImageData(holiday, num_workers=0)
    )
    evaluate = Evaluate(released_dir=str(tmp_path / "run" / "imgs"), exhaustive=False)
    # how often a trainer would fit says nothing here
    trainer(
        tmp_path / "again", BuildIndex(path="shipped"), evaluate, Report(html=False), max_epochs=None
    ).validate(module(), datamodule=ImageData(holiday, num_workers=0), verbose=False)
    assert (tmp_path / "again" / "retr_df.csv").is_file()


def test_without_an_index_one_line_says_so(holiday, tmp_path):
    with pytest.raises(ConfigError, match=r"^ImageData has no index: give the trainer a callback BuildIndex"):
        trainer(tmp_path).fit(module(), datamodule=ImageData(holiday))


@pytest.mark.parametrize("first", [WriteImages, Evaluate])
def test_the_index_comes_before_those_who_work_with_it(first, holiday, tmp_path):
    with pytest.raises(ConfigError, match=r"ActivationModule has no index: .*before the others"):
        trainer(tmp_path / "run", first(), BuildIndex(path="shipped")).fit(
            module(), datamodule=ImageData(holiday)
        )


@pytest.mark.parametrize(
    "options", [{"max_epochs": None}, {"max_epochs": 2}, {"limit_train_batches": 1}, {"fast_dev_run": True}]
)
def test_a_trainer_that_passes_more_or_less_than_once_is_refused(options, holiday, tmp_path):
    (given,) = options
    with pytest.raises(ConfigError, match=rf"trainer\.{given} .*expected"):
        trainer(tmp_path / "run", BuildIndex(path="shipped"), WriteImages(), **options).fit(
            module(), datamodule=ImageData(holiday)
        )
    assert not (tmp_path / "run" / "index").exists()


def test_pictures_of_another_kind_are_refused(holiday, tmp_path):
    with pytest.raises(ConfigError, match="datamodule=ImageData"):
        trainer(tmp_path, BuildIndex(path="shipped")).fit(module(), train_dataloaders=[[1]])


def fit(folder, holiday, *before, path="shipped", one=None, **options):
    one = one or module(**options)
    trainer(folder, *before, BuildIndex(path=str(path), kneighbors=10), WriteImages()).fit(
        one, datamodule=ImageData(holiday, num_workers=0)
    )
    return (folder / "imgs" / "P000000.png").read_bytes()


@pytest.mark.parametrize("first", [[], [RunFolder()]])
def test_what_an_earlier_run_left_is_not_taken_for_this_one_s(first, holiday, tmp_path):
    before = fit(tmp_path / "run", holiday, *first)
    with pytest.raises(
        OutputError, match=r"holds a run: give the trainer another one, or a callback RunFolder"
    ):
        fit(tmp_path / "run", holiday, scaling=9)
    assert (tmp_path / "run" / "imgs" / "P000000.png").read_bytes() == before
    # the way out that it names
    assert fit(tmp_path / "run", holiday, RunFolder(overwrite=True), scaling=9) != before


def test_a_folder_with_one_s_own_things_is_refused(holiday, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"files of something else \('mine.txt'\)"):
        fit(tmp_path / "run", holiday)


def test_a_module_is_aimed_at_the_index_of_its_present_run(holiday, tmp_path, make_pictures):
    make_pictures("more", 60, seed=7, prefix="M")
    build_index(tmp_path / "own", train="more", references="more", idx_factory="IVF4,Flat")
    used = module()
    fit(tmp_path / "a", holiday, one=used)
    again = fit(tmp_path / "b", holiday, path=tmp_path / "own", one=used)
    assert again == fit(tmp_path / "c", holiday, path=tmp_path / "own")


def test_the_run_of_an_earlier_trainer_is_not_this_one_s(holiday, tmp_path):
    used, data = module(), ImageData(holiday, num_workers=0)
    trainer(tmp_path / "a", BuildIndex(path="shipped"), WriteImages()).fit(used, datamodule=data)
    assert used.run.folder == tmp_path / "a"
    with pytest.raises(ConfigError, match="has no index"):
        trainer(tmp_path / "b", Evaluate()).validate(used, datamodule=data)


def test_without_an_evaluation_the_measures_are_listed(holiday, tmp_path):
    fit(tmp_path / "run", holiday)
    assert len((tmp_path / "run" / "images_df.csv").read_text().splitlines()) == 4


SUBCLASS = """
from aindex import ActivationModule

class Loud(ActivationModule):
    def __init__(self, word: str = "loud", **options):
        super().__init__(**options)
        self.word = word

    def training_step(self, batch, batch_idx):
        print(self.word)
        return super().training_step(batch, batch_idx)

class Other: ...
"""


def test_a_subclass_through_the_command_line(tiny_pipeline, tmp_path, monkeypatch, capsys):
    from aindex.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_module.py").write_text(SUBCLASS)
    args = tiny_pipeline.args("--trainer.limit_val_batches=0", output="loud")
    main(["fit", *args, "--model", "my_module.Loud", "--model.word=shout"])
    assert "shout" in capsys.readouterr().out.splitlines()
    stored = next(path for path in tiny_pipeline.folder.rglob("loud/config.yaml"))
    assert "model_class: my_module.Loud" in stored.read_text()
    # its own configuration, without the option, would make another module of it
    with pytest.raises(SystemExit):
        main(["fit", f"--config={stored}", f"--output_dir={tmp_path / 'again'}"])
    assert "give --model my_module.Loud" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("my_module.Other", "subclass of aindex.ActivationModule"),
        ("my_module.No", "No"),
        ("no_such.Thing", "no_such"),
        ("Thing", "expected --model"),
    ],
)
def test_a_class_that_is_none_is_refused(name, reason, tiny_pipeline, tmp_path, monkeypatch, capsys):
    from aindex.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_module.py").write_text(SUBCLASS)
    with pytest.raises(SystemExit):
        main(["fit", *tiny_pipeline.args(output="no"), "--model", name])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert name in line
    assert reason in line
