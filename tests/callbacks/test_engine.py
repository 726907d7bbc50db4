"""A run whose edited copies are searched in a Lance dataset: the rows of the run that FAISS searched."""

import sys
from pathlib import Path

import lance
import numpy as np
import pandas as pd
import pytest

from aindex.cli import main
from aindex.evaluation.retrieval import read_results
from tests.conftest import TinyPipeline

FACTORY = ["--index.idx_factory=IVF4,PQ4x4", "--index.nprobe=2"]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, tiny_script: Path) -> TinyPipeline:
    folder = tmp_path_factory.mktemp("engine")
    for name in ("originals", "references", "train"):
        (folder / name).symlink_to(tiny_data / name)
    return TinyPipeline(folder, tiny_script)


@pytest.fixture(scope="module")
def runs(pipeline: TinyPipeline) -> tuple[Path, Path]:
    """The same run with either engine."""
    options = [*FACTORY, "--retrieval.passive=true", "--trainer.precision=32-true"]
    return (
        pipeline.run("fit", *options, output="faiss"),
        # other processes decode while Lance's threads wait
        pipeline.run("fit", *options, "--index.engine=lance", "--data.num_workers=2", output="lance"),
    )


@pytest.mark.parametrize("name", ["retr_df.csv", "retr_df_passive.csv"])
def test_the_same_rows_come_out(runs: tuple[Path, Path], name: str) -> None:
    ours, theirs = (read_results(folder / name) for folder in runs)
    assert list(ours.columns) == list(theirs.columns)
    unsure = ["retrieved_distances", "retrieved_indices", "rank", "score"]
    same = [column for column in ours.columns if column in ("batch", "image_index", "attack", "attack_param")]
    assert len(same) >= 3
    pd.testing.assert_frame_equal(ours[same], theirs[same])
    assert set(unsure) & set(ours.columns)
    for mine, other in zip(ours["retrieved_distances"], theirs["retrieved_distances"], strict=True):
        mine, other = np.array(mine, float), np.array(other, float)
        assert len(mine) == len(other)
        np.testing.assert_allclose(mine, other, atol=2e-6)
    first = [[row[0] if row else -1 for row in table["retrieved_indices"]] for table in (ours, theirs)]
    assert np.mean(np.array(first[0]) == np.array(first[1])) > 0.9


def test_the_dataset_holds_the_run(runs: tuple[Path, Path]) -> None:
    rows = lance.dataset(str(runs[1] / "index.lance")).to_table(columns=["id", "name"])
    assert rows.num_rows == 19
    assert "O000000.png" in rows["name"].to_pylist()
    assert (runs[1] / "search_df.csv").is_file()
    assert not (runs[0] / "index.lance").exists()
    assert not list(runs[1].glob(".*.partial"))


def test_evaluate_searches_the_engine_too(pipeline: TinyPipeline, runs: tuple[Path, Path]) -> None:
    folder = pipeline.run(
        "evaluate",
        *FACTORY,
        "--index.engine=lance",
        f"--retrieval.released_dir={runs[1] / 'imgs'}",
        "--trainer.precision=32-true",
        output="evaluated",
    )
    ours, theirs = (read_results(where / "retr_df.csv") for where in (runs[1], folder))
    assert ours["retrieved_indices"].tolist() == theirs["retrieved_indices"].tolist()


def test_a_run_that_broke_off_while_exporting_goes_on(
    pipeline: TinyPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aindex.callbacks import index_building

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(index_building, "export_to_lance", killed)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            pipeline.run("fit", *FACTORY, "--index.engine=lance", output="broken")
    left = pipeline.folder / "broken" / ".index.lance.00ff.partial"
    left.mkdir()
    (left / "half").write_text("")
    pipeline.run("fit", *FACTORY, "--index.engine=lance", output="broken")
    assert (pipeline.folder / "broken" / "summary.json").is_file()
    assert not left.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--index.placement=sharded"], "index.engine lance with index.placement 'sharded'"),
        (["--index.device=gpu"], "index.engine lance with index.device 'gpu'"),
        (
            ["--index.idx_factory=PQ4x4", "--index.nprobe=1"],
            "a Lance index cannot store what this index stores",
        ),
        (["--index.engine=milvus"], "expected one of 'faiss', 'lance'"),
    ],
)
def test_what_lance_is_not_there_for(
    pipeline: TinyPipeline, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    with pytest.raises(SystemExit):
        main(["fit", *pipeline.args(*FACTORY, "--index.engine=lance", *options, output="refused")])
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("aindex: warning")]
    assert len(lines) == 1
    assert words in lines[0]
    assert not (pipeline.folder / "refused" / "index" / "index.yaml").exists()


def test_without_the_extra(
    pipeline: TinyPipeline, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lance", None)
    with pytest.raises(SystemExit):
        main(["fit", *pipeline.args(*FACTORY, "--index.engine=lance", output="without")])
    assert "pip install 'aindex[lance]'" in capsys.readouterr().err
