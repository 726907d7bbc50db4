import math
import os

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from aindex.commands.train import main as train_main
from aindex.descriptors.registry import load_extractor
from aindex.descriptors.training import ExtractorTraining, info_nce, koleo
from aindex.descriptors.training_data import EpochSampler, TrainingPictures
from aindex.descriptors.training_views import strong_view, weak_view
from aindex.errors import DataError, OutputError


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        coarse = rng.integers(0, 256, size=(5, 7, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((90, 70), Image.Resampling.BICUBIC).save(folder / f"p{number}.jpg")
    return folder


def arguments(pictures, output, *more):
    return [
        f"--data.data_dir={pictures}", f"--output_dir={output}", "--name=tiny", "--data.batch_size=4",
        "--data.validation_pictures=4", "--data.input_sizes=[32,48]", "--data.num_workers=0",
        "--model.channels=[8,8,16,16]", "--model.layers=[1,1,1,1]", "--model.stem_width=4", "--model.dim=16",
        "--trainer.accelerator=cpu", "--trainer.max_epochs=2", "--trainer.log_every_n_steps=1",
        "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", *more,
    ]  # fmt: skip


def losses(output):
    events = EventAccumulator(str(output))
    events.Reload()
    return [event.value for event in events.Scalars("train/loss")]


def test_same_seed_same_losses_another_seed_others(pictures, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train_main(arguments(pictures, tmp_path / name, f"--seed_everything={seed}"))
    a, b, c = (losses(tmp_path / name) for name in "abc")
    assert len(a) == 4
    assert a == b
    assert a != c
    assert all(math.isfinite(value) for value in a)


def test_the_exported_extractor_is_taken_by_path_and_the_best_checkpoint_kept(pictures, tmp_path):
    output = tmp_path / "run"
    train_main(arguments(pictures, output))
    extractor = load_extractor(str(output / "tiny.safetensors"))
    assert (extractor.dim, extractor.input_size) == (16, 48)
    (checkpoint,) = (output / "checkpoints").glob("best*.ckpt")
    best = torch.load(checkpoint, weights_only=True)["state_dict"]
    trained = extractor.module.state_dict()
    for key, value in trained.items():
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, best[f"model.{key}"], atol=1e-3, rtol=1e-3)


def test_the_shipped_configuration_trains_from_any_folder(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = ["--trainer.check_val_every_n_epoch=1", "--trainer.precision=32-true"]
    train_main(["--config", "configs/extractor.yaml", *arguments(pictures, "run", *here)])
    assert (tmp_path / "run" / "tiny.safetensors").is_file()
    assert (
        yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["trainer"]["gradient_clip_val"] == 1.0
    )


def test_an_interrupted_run_goes_on_to_the_same_weights_and_is_never_overwritten(
    pictures, tmp_path, monkeypatch
):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_main(arguments(pictures, whole))

    def interrupt(self):
        if self.current_epoch == 1:
            raise RuntimeError("power cut")

    with monkeypatch.context() as patched:
        patched.setattr(ExtractorTraining, "on_train_epoch_start", interrupt)
        with pytest.raises(RuntimeError, match="power cut"):
            train_main(arguments(pictures, broken))
    assert not (broken / "tiny.safetensors").exists()
    with pytest.raises(OutputError, match="--resume true or another --output_dir"):
        train_main(arguments(pictures, broken))
    train_main(arguments(pictures, broken, "--resume=true"))
    ends = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (whole, broken)]
    assert [end["global_step"] for end in ends] == [4, 4]
    for key, value in ends[0]["state_dict"].items():
        assert torch.equal(value, ends[1]["state_dict"][key]), key


class Trap:
    """What a pickle may do when it is loaded."""

    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.remove, (self.victim,)


def test_a_checkpoint_of_a_stranger_runs_nothing(pictures, tmp_path):
    victim = tmp_path / "victim"
    victim.touch()
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    torch.save({"state_dict": Trap(str(victim))}, tmp_path / "run" / "checkpoints" / "last.ckpt")
    with pytest.raises(DataError, match="never unpickled"):
        train_main(arguments(pictures, tmp_path / "run", "--resume=true"))
    assert victim.exists()


def test_views_are_the_same_whatever_the_worker(pictures):
    def batches(workers):
        data = TrainingPictures(
            pictures, batch_size=4, input_sizes=(32,), validation_pictures=4, num_workers=workers
        )
        data.setup("fit")
        return list(data.train_dataloader())

    for alone, split in zip(batches(0), batches(2), strict=True):
        for one, other in zip(alone, split, strict=True):
            assert torch.equal(one, other)


def test_an_unreadable_picture_is_reported_and_replaced(pictures):
    for number in range(0, 12, 2):
        (pictures / f"p{number}.jpg").write_bytes(b"nothing")
    data = TrainingPictures(pictures, batch_size=4, input_sizes=(32,), validation_pictures=4, num_workers=0)
    data.setup("fit")
    with pytest.warns(UserWarning, match=r"p(0|2|4|6|8|10)\.jpg"):
        batches = list(data.train_dataloader())
    assert [len(ids) for _, _, ids in batches] == [4, 4]


@pytest.mark.filterwarnings("ignore")
def test_bad_pictures_cost_themselves_alone_and_are_counted(pictures, tmp_path, recwarn):
    for number, size in enumerate([(1, 50), (3000, 2), (3, 3)]):
        Image.new("RGB", size, (9, 99, 199)).save(pictures / f"odd{number}.png")
    (pictures / "broken.jpg").write_bytes(b"nothing")
    # with another seed each, the bad ones fall into training and into validation
    for seed in range(3):
        train_main(
            arguments(pictures, tmp_path / f"out{seed}", f"--data.seed={seed}", "--data.num_workers=1")
        )
        assert (tmp_path / f"out{seed}" / "tiny.safetensors").is_file()
    told = [str(warning.message) for warning in recwarn]
    assert any("pictures were left out of training" in text for text in told)
    assert any("validation copies left out" in text for text in told)


def test_validation_without_a_readable_picture_is_an_error(pictures):
    for path in pictures.iterdir():
        path.write_bytes(b"nothing")
    data = TrainingPictures(pictures, batch_size=4, input_sizes=(32,), validation_pictures=4, num_workers=0)
    with pytest.raises(DataError, match="none of the 4 validation pictures can be read"):
        data.setup("fit")


def test_too_few_pictures_is_a_clear_error(pictures):
    with pytest.raises(DataError, match=r"has 12 pictures, expected at least .* 250 \+ 128"):
        TrainingPictures(pictures).setup("fit")


def test_input_sizes_grow_and_ranks_share_the_pictures():
    samplers = [EpochSampler(11, seed=0, sizes=(96, 128, 160), epochs=20, rank=r, world=2) for r in (0, 1)]
    sizes = []
    for epoch in range(20):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        sizes.append(samplers[0].input_size)
        shares = [{index for index, _, _ in sampler} for sampler in samplers]
        assert [len(share) for share in shares] == [5, 5]
        assert not shares[0] & shares[1]
    assert sizes == [96] * 12 + [128] * 6 + [160] * 2


def test_info_nce_by_hand():
    # two images, two views each; views of an image coincide, the images are orthogonal
    views = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    expected = -math.log(math.exp(1 / 0.5) / (math.exp(1 / 0.5) + 2))
    assert info_nce(views, torch.tensor([0, 1, 0, 1]), temperature=0.5).item() == pytest.approx(
        expected, abs=1e-6
    )


def test_koleo_by_hand():
    views = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    assert koleo(views, torch.tensor([0, 1, 0, 1])).item() == pytest.approx(-math.log(math.sqrt(2)), abs=1e-6)


def test_views_are_rgb_whatever_is_drawn():
    picture = Image.effect_noise((120, 90), 60).convert("RGB")
    for seed in range(300):
        rng = np.random.default_rng(seed)
        for view in (weak_view(picture, rng), strong_view(picture, rng, [picture])):
            assert view.mode == "RGB"
            assert min(view.size) >= 1
