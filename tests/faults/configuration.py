"""Options and configuration files that cannot be meant."""

from pathlib import Path

import pytest

from tests.faults.table import Room, fault

CONFIGURATION = "Options and configuration files"


def config(room: Room, text: str) -> str:
    (room.tmp / "options.yaml").write_text(text)
    return str(room.tmp / "options.yaml")


def output(room: Room) -> str:
    return str(room.tmp / "out")


@fault(CONFIGURATION, "an unknown command", error="no command 'actviate' (did you mean activate?)")
def unknown_command(room: Room) -> None:
    room.command("actviate")


@fault(CONFIGURATION, "an unknown option", error="did you mean --min_psnr?")
def unknown_option(room: Room) -> None:
    room.command("activate", "--images", str(room.good_pictures()), "--out", output(room), "--min_pnsr", "42")


@fault(CONFIGURATION, "an unknown key in a YAML file", error="did you mean --scaling?")
def unknown_key(room: Room) -> None:
    room.command(
        "activate", "--config", config(room, "scalling: 2\n"), "--images", "x", "--out", output(room)
    )


@fault(CONFIGURATION, "an unknown key in the pipeline's YAML", error="does not accept option 'nprob'")
def unknown_key_of_the_pipeline(room: Room) -> None:
    room.command("fit", "--config", config(room, "index:\n  nprob: 2\n"))


@fault(
    CONFIGURATION,
    "a key that stands twice in a YAML file",
    error="has the key 'scaling' twice, in lines 1 and 3",
)
def duplicate_key(room: Room) -> None:
    text = "scaling: 2\nseed: 1\nscaling: 3\n"
    room.command("activate", "--config", config(room, text), "--images", "x", "--out", output(room))


@fault(CONFIGURATION, "a nested key that stands twice", error="has the key 'nprobe' twice")
def nested_duplicate_key(room: Room) -> None:
    room.command("fit", "--config", config(room, "index:\n  nprobe: 2\n  nprobe: 3\n"))


@fault(CONFIGURATION, "a value of the wrong type", error="scaling: expected float, got strong")
def mistyped(room: Room) -> None:
    room.command(
        "activate", "--config", config(room, "scaling: strong\n"), "--images", "x", "--out", output(room)
    )


@fault(
    CONFIGURATION,
    "a choice that does not exist",
    error="format: expected one of 'png', 'webp', 'tiff', 'jpeg', got bmp",
)
def wrong_choice(room: Room) -> None:
    room.command("activate", "--images", str(room.good_pictures()), "--out", output(room), "--format", "bmp")


@fault(CONFIGURATION, "text that is no YAML", error="is no YAML")
def no_yaml(room: Room) -> None:
    room.command("fit", "--config", config(room, "{index: [\n"))


@fault(CONFIGURATION, "YAML with a day that there is not", error="is no YAML that can be read: month")
def no_such_day(room: Room) -> None:
    room.command("fit", "--config", config(room, "seed_everything: 2001-99-99\n"))


@fault(CONFIGURATION, "YAML that contains itself", error="is no YAML that can be read: maximum recursion")
def yaml_in_itself(room: Room) -> None:
    room.command("fit", "--config", config(room, "index: &all\n  path: *all\n"))


@fault(
    CONFIGURATION, "a configuration file that is not there", error="files that come with aindex: demo.yaml"
)
def missing_config(room: Room) -> None:
    room.command("fit", "--config", str(room.tmp / "nowhere.yaml"))


@fault(CONFIGURATION, "a required option left out", error="the following arguments are required: out")
def left_out(room: Room) -> None:
    room.command("activate", "--images", str(room.good_pictures()))


@fault(CONFIGURATION, "a device that there is not", error="device 'gpu'")
def unknown_device(room: Room) -> None:
    room.command("search", "--index", str(room.index), "--device", "gpu", str(room.good_pictures()))


@fault(CONFIGURATION, "a batch without pictures", error="batch_size 0")
def empty_batch(room: Room) -> None:
    room.command("search", "--index", str(room.index), "--batch_size", "0", str(room.good_pictures()))


@fault(CONFIGURATION, "a budget that is none", error="min_psnr -3.0: expected 10 to 100 dB")
def senseless_budget(room: Room) -> None:
    given = ["--images", str(room.good_pictures()), "--out", output(room), "--index", str(room.index)]
    room.command("activate", *given, "--min_psnr", "-3")


@fault(CONFIGURATION, "a ground truth that is no csv of two columns", error="expected query,reference")
def wrong_ground_truth(room: Room) -> None:
    prepared(room, "Q0,R0,surplus\n")


@fault(
    CONFIGURATION,
    "a ground truth that names absent references",
    error="names 1 absent reference(s), the first 'R9'",
)
def absent_reference(room: Room) -> None:
    prepared(room, "Q0,R9\n")


@fault(CONFIGURATION, "an empty ground truth", error="holds no line")
def empty_ground_truth(room: Room) -> None:
    prepared(room, "")


def prepared(room: Room, text: str) -> Path:
    from tests.conftest import write_pictures

    write_pictures(room.tmp / "disc" / "references", 2, prefix="R")
    write_pictures(room.tmp / "disc" / "train", 2, prefix="T")
    (room.tmp / "truth.csv").write_text(text)
    room.command("prepare", "--data_dir", str(room.tmp / "disc"), "--output_dir", output(room),
                 "--groundtruth", str(room.tmp / "truth.csv"))  # fmt: skip
    return room.tmp


@fault(CONFIGURATION, "no index is named", error="required: index; make an index of your pictures")
def no_index(room: Room) -> None:
    room.command("search", str(room.good_pictures()))


@fault(
    CONFIGURATION,
    "a default spelled out beside an index that says otherwise",
    error="index.idx_factory 'IVF4096,PQ8x8', but the index in",
)
def default_spelled_out(room: Room) -> None:
    given = [
        f"--data.data_dir={room.good_pictures()}",
        f"--output_dir={output(room)}",
        f"--index.path={room.index}",
    ]
    room.command("fit", *given, "--index.idx_factory=IVF4096,PQ8x8")


@fault(
    CONFIGURATION,
    "an option that has no effect with the others",
    error="jpeg_quality 80 has no effect with format png: leave jpeg_quality out, or give format jpeg",
)
def idle_option(room: Room) -> None:
    given = [f"--images={room.good_pictures()}", f"--out={output(room)}", f"--index={room.index}"]
    room.command("activate", *given, "--jpeg_quality=80")


@fault(
    CONFIGURATION,
    "an option of Lightning's trainer that the loop cannot honour",
    error="trainer.max_epochs 3: expected 1; every image is treated once",
)
def dishonoured_option(room: Room) -> None:
    room.command("fit", f"--data.data_dir={room.good_pictures()}", "--trainer.max_epochs=3")


@fault(
    CONFIGURATION,
    "one batch, which would be taken for all of them",
    error="trainer.limit_train_batches 1: expected 1.0; to treat fewer images",
)
def one_batch(room: Room) -> None:
    room.command("fit", "--config", config(room, "trainer:\n  limit_train_batches: 1\n"), "--data.data_dir=x")


@fault(CONFIGURATION, "an input without pixels", error="resize_size 0: expected pixels, 1 or more")
def no_pixels(room: Room) -> None:
    given = [f"--index={room.index}", f"--extractor={room.script}", "--resize_size=0"]
    room.command("search", str(room.good_pictures()), *given)


@fault(
    CONFIGURATION,
    "a value of one configuration file that a later one replaces",
    treated="the later one counts, and what it replaces is said",
)
def replaced_value(room: Room) -> None:
    from aindex.commands.config_files import resolve_config_arguments

    mine = config(room, "model:\n  extractor: mine.pt\n  active: true\n")
    with pytest.warns(UserWarning, match="model.extractor mine.pt of .* by sscd_disc_mixup of") as said:
        resolve_config_arguments(["--config", mine, "--config", "configs/ivf_pq.yaml"])
    assert len(said) == 1
    with pytest.warns(UserWarning, match="model.active True of") as said:
        resolve_config_arguments(["--config", mine, "--config", "configs/passive.yaml"])
    assert "extractor" not in str(said[0].message)
