"""Every option of every command: its default spelled out, out of range, and contradicting another."""

import inspect
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aindex.activation.datamodule import ImageData
from aindex.activation.module import ActivationModule
from aindex.callbacks.build_index import BuildIndex
from aindex.callbacks.evaluate import Evaluate
from aindex.callbacks.report import Report
from aindex.callbacks.trainer_options import _HONOURED
from aindex.callbacks.write_images import WriteImages
from aindex.cli import main
from aindex.collection.building import build_index
from aindex.commands import activate, augment, compare, completion, extract, index, prepare, search
from aindex.commands.functions import FunctionCommand
from aindex.descriptors.extraction import ExtractionSettings
from aindex.index.reference_index import ReferenceIndex
from tests.conftest import CACHED, TinyPipeline, write_pictures

Values = dict[str, list[str]]

MODULES = (activate, augment, compare, completion, extract, prepare, search)
COMMANDS: dict[str, FunctionCommand] = {
    command.name: command
    for command in (*(module.main for module in MODULES), search.calibrate_main, *index.ACTIONS.values())
}

ANY: list[str] = []
"""Whatever is written there is possible."""
FLAG = ["perhaps"]
DESCRIBING: Values = {
    "extractor": ["nothing"],
    "resize_size": ["0", "-8", "large"],
    "batch_size": ["0", "-1"],
    "num_workers": ["-1"],
    "device": ["tpu9", "cuda:99"],
    "precision": ["fp16"],
    "progress": FLAG,
}
OUT_OF_RANGE: dict[str, Values] = {
    "activate": DESCRIBING
    | {
        "images": ["absent"],
        "out": ANY,
        "index": ["absent"],
        "add": FLAG,
        "prefix": ANY,
        "rows": ["0", "999"],
        "effort": ["strong"],
        "min_psnr": ["-3", "1000", "nan"],
        "scaling": ["-1", "nan", "inf"],
        "iterations": ["-1", "1.5"],
        "target": ["pq"],
        "delta_size": ["0", "99", "large"],
        "format": ["bmp"],
        "jpeg_quality": ["0", "101"],
        "compress_level": ["-1", "10"],
        "seed": ["one"],
        "overwrite": FLAG,
        "dry_run": FLAG,
    },
    "augment": {
        "data_dir": ["absent"],
        "output_dir": ANY,
        "edits": ["none"],
        "copies": ["0", "-1"],
        "seed": ["one"],
        "template": ["desktop"],
        "format": ["bmp"],
        "num_workers": ["-1"],
        "progress": FLAG,
        "overwrite": FLAG,
    },
    "compare": {"runs": ANY, "output_dir": ANY, "examples": ["-1"], "overwrite": FLAG},
    "completion": {"shell": ["fish"]},
    "extract": DESCRIBING | {"data_dir": ["absent"], "output_dir": ANY, "sha256": ["00"], "overwrite": FLAG},
    "prepare": {
        "data_dir": ["absent"],
        "output_dir": ANY,
        "groundtruth": ["absent"],
        "seed": ["one"],
        "queries": ["0", "-1"],
        "progress": FLAG,
    },
    "search": DESCRIBING
    | {
        "queries": ANY,
        "index": ["absent"],
        "k": ["0", "-1", "99"],
        "nprobe": ["0", "99", "many"],
        "threshold": ["nan", "near"],
        "format": ["xml"],
        "output": ANY,
        "html": ANY,
        "pictures": ["absent"],
    },
    "calibrate": DESCRIBING
    | {
        "index": ["absent"],
        "negatives": ["absent"],
        "false_positive_rate": ["0", "1", "-0.1", "nan", "0.001"],
        "score": ["best"],
        "nprobe": ["0", "99"],
    },
    "index build": DESCRIBING
    | {
        "output": ANY,
        "train": ["absent"],
        "references": ["absent"],
        "like": ["absent"],
        "idx_factory": ["Quark7", "IVF64,Flat", "IVF4,PQ5x4", "IVF0,Flat"],
        "quant": ["cosine"],
        "nprobe": ["0", "5"],
        "names": ["absent"],
        "rows": ["0", "999"],
        "seed": ["one"],
        "overwrite": FLAG,
    },
    "index add": DESCRIBING
    | {
        "index": ["absent"],
        "references": ["absent"],
        "names": ["absent"],
        "prefix": ANY,
        "duplicates": ["perhaps"],
        "rows": ["0", "999"],
        "seed": ["one"],
    },
    "index remove": {"index": ["absent"], "names": ANY},
    "index info": {"index": ["absent"], "format": ["xml"]},
    "index adopt": DESCRIBING
    | {
        "source": ["absent"],
        "output": ANY,
        "names": ["absent"],
        "rows": FLAG,
        "sample": ["absent"],
        "nprobe": ["0", "99"],
        "column": ["vectors"],
        "name_column": ["label"],
        "overwrite": FLAG,
    },
    "index export": {
        "index": ["absent"],
        "to": ["annoy"],
        "destination": ANY,
        "descriptors": ["absent"],
        "overwrite": FLAG,
    },
    "index check": {"source": ["absent"], "against": ["absent"], "column": ["vectors"]},
}
CASES = [
    (command, option, value)
    for command, options in OUT_OF_RANGE.items()
    for option, values in options.items()
    for value in values
]


def test_no_option_is_missing_here() -> None:
    assert OUT_OF_RANGE.keys() == COMMANDS.keys()
    for name, command in COMMANDS.items():
        assert OUT_OF_RANGE[name].keys() == command.options().keys(), name


def test_every_option_says_what_it_is() -> None:
    for name, command in COMMANDS.items():
        assert [option for option, (_, _, text) in command.options().items() if not text] == [], name
        assert set(command.defaults) | set(command.needs) | set(command.read) <= set(command.options()), name


class Bench:
    """A folder with an index, pictures and everything that commands ask for; and which pictures were opened."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        write_pictures(folder / "pictures", 4, seed=9)
        ReferenceIndex.open(folder / "index")  # whole
        (folder / "truth.csv").write_text("Q1,R000003\n")
        (folder / "any.faiss").write_bytes(next((folder / "index").glob("index.*.faiss")).read_bytes())
        patch.chdir(folder)
        self.capsys, self.opened = capsys, list[str]()
        usual = Image.open

        def opens(file: Any, *args: Any, **more: Any) -> Image.Image:
            self.opened.append(str(file))
            return usual(file, *args, **more)

        patch.setattr(Image, "open", opens)

    def arguments(self, command: str, *options: str) -> list[str]:
        """A command line that works, but for what the options say."""
        usual = {
            "activate": "--images=pictures --out=out --index=index",
            "augment": "--data_dir=pictures --output_dir=out --num_workers=0",
            "compare": "absent",
            "completion": "",
            "extract": f"--data_dir=pictures --output_dir=out --extractor={CACHED} --resize_size=32",
            "prepare": "--data_dir=. --output_dir=out --groundtruth=truth.csv",
            "search": "pictures --index=index",
            "calibrate": "--index=index --negatives=pictures --false_positive_rate=0.5",
            "index build": f"--output=out --train=train --idx_factory=IVF4,PQ4x4 --extractor={CACHED} --resize_size=32",
            "index add": "--index=index --references=pictures",
            "index remove": "R000001.png --index=index",
            "index info": "--index=index",
            "index adopt": f"--source=any.faiss --output=out --extractor={CACHED} --resize_size=32",
            "index export": "--index=index --to=faiss --destination=out.faiss",
            "index check": "--source=any.faiss --against=index",
        }[command].split()
        names = {option.partition("=")[0] for option in options}
        return [
            *command.split(),
            *(one for one in usual if one.partition("=")[0] not in names or not one.startswith("--")),
            *options,
        ]

    def refused(self, command: str, *options: str) -> str:
        """The one line that a command ends with, before any picture was opened."""
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(self.arguments(command, *options))
        told = self.capsys.readouterr()
        assert stopped.value.code in (1, 2)
        assert not told.out
        lines = [line for line in told.err.splitlines() if not line.startswith("aindex: warning")]
        assert len(lines) == 1, told.err
        assert lines[0].startswith("aindex: error: ")
        assert self.opened == []
        return lines[0]


@pytest.fixture
def bench(
    tmp_path: Path, tiny_index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Bench:
    return Bench(tmp_path, monkeypatch, capsys)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("command", "option", "value"), CASES)
def test_out_of_range_is_refused_before_a_picture_is_decoded(
    bench: Bench, command: str, option: str, value: str
) -> None:
    assert option in bench.refused(command, f"--{option}={value}") or value == "absent"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("command", "options", "says"),
    [
        ("activate", ["--jpeg_quality=80"], "jpeg_quality 80 has no effect with format png"),
        (
            "activate",
            ["--format=webp", "--compress_level=3"],
            "compress_level 3 has no effect with format webp",
        ),
        ("activate", ["--rows=2"], "rows 2 has no effect with add false"),
        ("activate", ["--target=ori_ft"], "target 'ori_ft' with effort robust"),
        ("activate", ["--index=shipped", "--add=true"], "not added to"),
        ("activate", ["--resize_size=40"], "at input size 32, not 40"),
        ("activate", ["--out=pictures"], "originals are never overwritten"),
        ("augment", ["--template=mobile"], "template mobile has no effect with edits auto"),
        ("augment", ["--edits=default", "--copies=2"], "copies 2 has no effect with edits default"),
        ("augment", ["--output_dir=pictures"], "pictures"),
        ("search", ["--pictures=pictures"], "pictures pictures has no effect with html null"),
        ("index build", ["--like=index"], "give one of them"),
        ("index build", ["--rows=2"], "give references too"),
        ("index build", ["--names=truth.csv"], "give references too"),
        ("index build", ["--output=index"], "overwrite"),
        ("index add", ["--references=references"], "names are in the index already"),
        ("index adopt", ["--column=vectors"], "they are for Lance datasets"),
        ("index export", ["--descriptors=any.faiss"], "leave descriptors out"),
        ("index export", ["--destination=any.faiss"], "exists already"),
        ("calibrate", ["--index=shipped"], "not written to"),
    ],
)
def test_contradictions_are_refused_before_a_picture_is_decoded(
    bench: Bench, command: str, options: list[str], says: str
) -> None:
    assert says in bench.refused(command, *options)


@pytest.mark.parametrize(
    ("option", "own"), [("quant", "IP"), ("idx_factory", "IVF4,Flat")], ids=["metric", "factory"]
)
@pytest.mark.filterwarnings("ignore")
def test_a_default_spelled_out_beside_an_index_that_says_otherwise(
    bench: Bench, quiet: ExtractionSettings, option: str, own: str
) -> None:
    default = {"quant": "L2", "idx_factory": "IVF4096,PQ8x8"}[option]
    how: dict[str, Any] = {"train": Path("train"), "extractor": CACHED, "resize_size": 32, "settings": quiet}
    build_index("other", **{"idx_factory": "IVF4,Flat", "quant": "IP", **how})
    bench.opened.clear()
    given = [
        "--output=out",
        "--like=other",
        f"--{option}={default}",
        f"--extractor={CACHED}",
        "--resize_size=32",
    ]
    bench.arguments = lambda command, *options: [*command.split(), *options]  # type: ignore[method-assign]
    assert own in bench.refused("index build", *given)
    for command in ("fit", "evaluate"):
        run = [f"--model.extractor={CACHED}", "--model.resize_size=32", "--data.data_dir=pictures"]
        assert own in bench.refused(command, *run, "--index.path=other", f"--index.{option}={default}")


def spelled(value: Any) -> str:
    return {"True": "true", "False": "false", "None": "null"}.get(str(value), str(value))


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_default_spelled_out_changes_nothing(data: st.DataObject) -> None:
    command = COMMANDS[data.draw(st.sampled_from(sorted(COMMANDS)))]
    required, optional = [], {}
    for name, option in command.options().items():
        if option.default is inspect.Parameter.empty:
            required.append(name)
        else:
            optional[name] = option.default
    chosen = data.draw(st.sets(st.sampled_from(sorted(optional)))) if optional else set()
    usual = [] if command.positional is None else ["a"]
    usual += [f"--{name}={_possible(name)}" for name in required if name != command.positional]
    spelled_out = [f"--{name}={spelled(optional[name])}" for name in chosen]
    assert command.parsed([*usual, *spelled_out]) == command.parsed(usual)


def _possible(name: str) -> str:
    return {"to": "faiss"}.get(name, "a")


# ---------------------------------------------------------------------------------------------------------- pipeline

PIPELINE: dict[str, Values] = {
    "model": {
        "extractor": ["nothing"],
        "resize_size": ["0"],
        "iterations": ["-1"],
        "target": ["pq"],
        "loss_f": ["l1"],
        "temperature": ["0", "nan"],
        "anchor": ["-1"],
        "lambda_f": ["-1"],
        "lambda_i": ["nan"],
        "scaling": ["-1", "inf"],
        "min_psnr": ["-3", "1000"],
        "use_attenuation": FLAG,
        "use_tanh": FLAG,
        "scale_channels": FLAG,
        "delta_size": ["0", "99"],
        "views": ["-1"],
        "edits": ["none"],
        "active": FLAG,
        "optimizer": ["Adm"],
        "scheduler": ["Steps"],
        "seed": ANY,
    },
    "data": {
        "data_dir": ["absent"],
        "batch_size": ["0"],
        "batch_size_eval": ["0"],
        "num_workers": ["-1"],
        "query_nonmatch_dir": ["absent"],
    },
    "index": {
        "path": ["absent"],
        "idx_factory": ["Quark7", "IVF64,Flat", "IVF4,PQ5x4"],
        "idx_dir": ANY,
        "quant": ["cosine"],
        "nprobe": ["0", "9"],
        "kneighbors": ["0"],
        "fts_training_path": ["absent", "absent.npy", "null"],
        "fts_reference_path": ["absent", "absent.npy", "null"],
        "rows": ["0", "999"],
        "placement": ["somewhere"],
        "on_disk": FLAG,
        "device": ["tpu"],
        "engine": ["annoy"],
        "twins": ["lost"],
        "seed": ANY,
    },
    "images": {"save_imgs": FLAG, "compress_level": ["-1", "10"]},
    "retrieval": {
        "attacks": ["none"],
        "use_attacks_2": FLAG,
        "template": ["desktop"],
        "passive": FLAG,
        "released_dir": ["imgs"],
        "exhaustive": FLAG,
        "seed": ANY,
    },
    "report": {"html": FLAG, "examples": ["-1"]},
    "trainer": {
        "max_epochs": ["2", "0", "null"],
        "min_epochs": ["3"],
        "max_steps": ["5"],
        "min_steps": ["5"],
        "max_time": ["00:00:01:00"],
        "fast_dev_run": ["true", "3"],
        "limit_train_batches": ["1", "0.5", "0"],
        "limit_val_batches": ["1", "0.5"],
        "limit_test_batches": ["1"],
        "limit_predict_batches": ["0.5"],
        "overfit_batches": ["1", "0.5"],
        "val_check_interval": ["0.5", "1"],
        "check_val_every_n_epoch": ["2", "null"],
        "num_sanity_val_steps": ["2"],
        "accumulate_grad_batches": ["2"],
        "gradient_clip_val": ["1.0"],
        "gradient_clip_algorithm": ["norm"],
        "enable_checkpointing": ["true"],
        "use_distributed_sampler": ["true"],
        "reload_dataloaders_every_n_epochs": ["1"],
        "sync_batchnorm": ["true"],
        "barebones": ["true"],
        "inference_mode": ["false"],
        "model_registry": ["mine"],
        "log_every_n_steps": ["-1"],
        "precision": ["16-mixed", "half"],
        "accelerator": ["quantum", "tpu"],
        "devices": ["0", "-3", "many"],
        "num_nodes": ["0", "-1"],
        "strategy": ["nonsense"],
        "profiler": ["nonsense"],
    },
}
GROUPS = {
    "model": ActivationModule,
    "data": ImageData,
    "index": BuildIndex,
    "images": WriteImages,
    "retrieval": Evaluate,
    "report": Report,
}


def test_no_option_of_the_pipeline_is_missing_here() -> None:
    for group, built in GROUPS.items():
        assert set(PIPELINE[group]) == set(inspect.signature(built).parameters), group
    assert set(_HONOURED) <= set(PIPELINE["trainer"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("option", "value"),
    [
        (f"{group}.{option}", value)
        for group, options in PIPELINE.items()
        for option, values in options.items()
        for value in values
    ],
)
def test_the_pipeline_refuses_before_a_picture_is_decoded(
    tiny_pipeline: TinyPipeline,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: str,
    value: str,
) -> None:
    opened: list[Any] = []
    usual = Image.open
    monkeypatch.setattr(Image, "open", lambda *args, **more: (opened.append(args), usual(*args, **more))[1])
    given = [one for one in tiny_pipeline.args() if not one.startswith(f"--{option}=")]
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *given, f"--{option}={value}"])
    assert stopped.value.code in (1, 2)
    lines = [one for one in capsys.readouterr().err.splitlines() if not one.startswith("aindex: warning")]
    assert len(lines) == 1, lines
    assert lines[0].startswith("aindex: error: ")
    named = option.rpartition(".")[2] in lines[0] or "error: trainer:" in lines[0]
    assert named or value.startswith("absent"), lines
    assert opened == []
