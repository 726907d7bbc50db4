"""The Lightning module, by what a run without evaluation releases."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import Holed, save_script

NO_EVALUATION = "--trainer.limit_val_batches=0"


def pixels(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path)) for path in sorted((folder / "imgs").glob("*.png"))}


def images_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "images_df.csv")


def differs(a: Path, b: Path) -> bool:
    one, other = pixels(a), pixels(b)
    assert one.keys() == other.keys()
    return any(not np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "options",
    [
        ["--model.iterations=2"],
        ["--model.target=ivf_cluster"],
        ["--model.target=ivf_cluster_half", "--model.loss_f=mse"],
        ["--model.target=ori_ft", "--model.lambda_i=1000"],
        ["--model.use_attenuation=false"],
        ["--model.use_tanh=false", "--model.optimizer=SGD", "--model.optimizer.lr=1e5"],
        ["--model.scale_channels=false"],
        ["--model.scaling=1.5"],
        ["--model.delta_size=input"],
        ["--model.delta_size=2"],
        ["--model.loss_f=assignment"],
        ["--model.loss_f=assignment", "--model.temperature=1"],
        ["--model.views=1"],
        ["--model.views=1", "--model.edits.families={rotation: 1}", "--model.edits.rotation=[-5, 5]"],
        ["--model.min_psnr=45"],
        ["--model.optimizer=Lion", "--model.optimizer.lr=0.5"],
        ["--model.optimizer=timm.optim.Lamb", "--model.optimizer.lr=0.5"],
        ["--model.scheduler=CosineAnnealingLR", "--model.scheduler.T_max=10"],
        ["--model.scheduler=CosineLRScheduler", "--model.scheduler.t_initial=10"],
    ],
)
def test_every_option_reaches_the_pixels(tiny_pipeline, finished_fit, options):
    folder = tiny_pipeline.run("fit", NO_EVALUATION, *options)
    assert differs(finished_fit, folder)
    assert images_of(folder)["psnr_db"].gt(20).all()
    assert not (folder / "retr_df.csv").exists()


def test_views_are_edited_as_the_options_say(tiny_pipeline):
    few = ["--model.views=1", "--model.iterations=3"]
    runs = [
        tiny_pipeline.run("fit", NO_EVALUATION, *few, *more, output=f"edits{i}")
        for i, more in enumerate([[], ["--model.edits.composed=1"], ["--model.edits.families.turn=9"]])
    ]
    assert differs(runs[0], runs[1])
    assert differs(runs[0], runs[2])


def test_a_budget_is_kept(tiny_pipeline):
    folder = tiny_pipeline.run("fit", NO_EVALUATION, "--model.min_psnr=45", "--model.scaling=9")
    assert images_of(folder)["psnr_db"].between(44.9, 46).all()


def test_no_iterations_release_the_start(tiny_pipeline):
    folder = tiny_pipeline.run("fit", NO_EVALUATION, "--model.iterations=0")
    assert images_of(folder)["linf"].eq(0).all()


def test_second_run_releases_the_same_pixels(tiny_pipeline, finished_fit):
    assert not differs(finished_fit, tiny_pipeline.run("fit", NO_EVALUATION))


def test_seed_changes_little(tiny_pipeline, finished_fit):
    other = tiny_pipeline.run("fit", NO_EVALUATION, "--seed_everything=1")
    assert (images_of(other)["psnr_db"] - images_of(finished_fit)["psnr_db"]).abs().max() < 0.5


@pytest.mark.parametrize("batch_size", [1, 16])
def test_batch_size_changes_no_more_than_rounding(tiny_pipeline, finished_fit, batch_size):
    other = tiny_pipeline.run("fit", NO_EVALUATION, f"--data.batch_size={batch_size}")
    difference = images_of(other)["psnr_db"] - images_of(finished_fit)["psnr_db"]
    assert difference.abs().max() < 0.1
    assert abs(difference.mean()) < 0.05


def test_activation_draws_descriptors_to_their_targets(finished_fit):
    assert images_of(finished_fit)["feature_loss"].lt(-0.9).all()


def test_precisions_agree(tiny_pipeline):
    bf16, fp32 = (
        tiny_pipeline.run("fit", NO_EVALUATION, f"--trainer.precision={name}", output=name)
        for name in ("bf16-mixed", "32-true")
    )
    assert (images_of(bf16)["psnr_db"] - images_of(fp32)["psnr_db"]).abs().max() < 1


def test_curves_per_iteration_are_logged(tiny_pipeline):
    folder = tiny_pipeline.run("fit", NO_EVALUATION, "--trainer.log_every_n_steps=20")
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    tags = events.Tags()["scalars"]
    for name in ("loss", "feature_loss", "image_loss", "psnr_db", "linf_grey_levels"):
        # three batches of ten steps: the first and the third hold one that is a multiple of twenty
        assert [one.step for one in events.Scalars(f"activation/{name}")] == [*range(10), *range(20, 30)]
        assert [one.step for one in events.Scalars(f"by_iteration/{name}")] == list(range(10))
    assert "images/psnr_db" in tags or any("psnr" in tag for tag in tags)
    losses = [one.value for one in events.Scalars("by_iteration/feature_loss")]
    assert losses[-1] < losses[0]
    assert sum("before, after" in tag for tag in events.Tags()["images"]) == 7


def with_a_flat_image(pipeline, tmp_path):
    """The tiny data with one image at which the extractor's gradient is no number; options for it."""
    shutil.copytree(pipeline.folder / "originals", tmp_path / "some")
    Image.new("RGB", (40, 36), (128, 128, 128)).save(tmp_path / "some" / "O000002x.png")
    script = save_script(Holed(), tmp_path / "holed.pt")
    return [f"--model.extractor={script}", f"--data.data_dir={tmp_path / 'some'}", "--model.iterations=3"]


def test_an_image_that_fails_is_recorded_and_costs_the_others_nothing(tiny_pipeline, tmp_path, capsys):
    options = with_a_flat_image(tiny_pipeline, tmp_path)
    nonmatch = f"--data.query_nonmatch_dir={tmp_path / 'train'}"
    run = tiny_pipeline.run("fit", *options, nonmatch, "--report.html=true", "--report.examples=8")
    assert "1 image(s) that could not be activated" in capsys.readouterr().out
    ((name, reason),) = pd.read_csv(run / "skipped.csv").itertuples(index=False)
    assert name == "O000002x.png"
    assert "activation failed" in reason
    others = [f"O00000{i}" for i in range(7)]
    assert sorted(path.stem for path in (run / "imgs").iterdir()) == others
    assert [Path(name).stem for name in images_of(run)["name"]] == others
    assert images_of(run)["psnr_db"].between(20, 99).all()
    rows = pd.read_csv(run / "retr_df.csv")
    assert rows.groupby("attack")["image_index"].nunique().eq(7).all()
    assert (pd.read_csv(run / "icd_df.csv")["image_index"] >= 0).sum() == 7
    without = tiny_pipeline.run("fit", *options, NO_EVALUATION, output="without_evaluation")
    assert pd.read_csv(without / "skipped.csv")["path"].tolist() == [name]
    assert not differs(run, without)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--model.optimizer=Adam", "--model.optimizer.lr=.nan"],
            "model.optimizer: Invalid learning rate: nan",
        ),
        (["--model.optimizer=SGD", "--model.optimizer.lr=.inf"], "none of the 7 images could be released"),
    ],
)
def test_an_optimiser_that_destroys_images_releases_none(tiny_pipeline, capsys, options, said):
    with pytest.raises(SystemExit):
        tiny_pipeline.run("fit", NO_EVALUATION, *options)
    assert said in capsys.readouterr().err
    assert not list((tiny_pipeline.folder / "run").glob("imgs/*.png"))
