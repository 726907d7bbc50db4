"""Originals that are among the references under other names: counted as found or left out, and said in any case."""

import json
import shutil

import pandas as pd
import pytest

from aindex.cli import main
from aindex.evaluation.retrieval import read_results
from tests.conftest import TinyPipeline, write_pictures

IMAGES = 7


@pytest.fixture
def pipeline(tmp_path, tiny_data, tiny_script) -> TinyPipeline:
    for name in ("originals", "train"):
        (tmp_path / name).symlink_to(tiny_data / name)
    shutil.copytree(tiny_data / "references", tmp_path / "references")
    # three of the originals, under other names
    for number in (0, 2, 5):
        shutil.copy(
            tiny_data / "originals" / f"O{number:06d}.png", tmp_path / "references" / f"again{number}.png"
        )
    write_pictures(tmp_path / "queries", 4, seed=9, prefix="Q")
    return TinyPipeline(tmp_path, tiny_script)


def unedited(folder) -> "pd.DataFrame":
    rows = read_results(folder / "retr_df.csv")
    return rows[rows["attack"] == "none"]


@pytest.mark.parametrize("command", ["fit", "evaluate"])
def test_a_copy_counts_as_found_under_either_name(pipeline, command, capsys):
    options = ["--model.iterations=1"] if command == "fit" else []
    folder = pipeline.run(
        command, *options, "--index.nprobe=4", f"--data.query_nonmatch_dir={pipeline.folder / 'queries'}"
    )
    told = capsys.readouterr().out
    assert "3 of the originals are in the index already under another name" in told
    assert "'O000000.png', in the index as 'again0.png'" in told
    assert "--index.twins left_out" in told
    assert json.loads((folder / "summary.json").read_text())["twins"] == 3
    rows = read_results(folder / "retr_df.csv")
    assert rows["image_index"].nunique() == IMAGES
    # no answer holds an original twice, and ranks are those of the answers
    for true, found, rank in zip(rows["image_index"], rows["retrieved_indices"], rows["rank"], strict=True):
        assert found.count(true) <= 1
        assert rank == (found.index(true) if true in found else 10)
    if command == "evaluate":
        assert (unedited(folder)["rank"] == 0).all()
        queries = pd.read_csv(folder / "queries_df.csv")
        assert (queries.loc[queries["attack"] == "none", "exhaustive_rank"] == 0).all()
    detected = read_results(folder / "icd_df.csv")
    assert all(
        found.count(true) <= 1
        for true, found in zip(detected["image_index"], detected["retrieved_indices"], strict=True)
        if true >= 0
    )


def test_they_can_be_left_out_of_the_evaluation(pipeline, capsys):
    folder = pipeline.run("fit", "--model.iterations=1", "--index.twins=left_out", "--report.examples=4")
    told = capsys.readouterr().out
    assert "they are left out of the evaluation (--index.twins found" in told
    rows = read_results(folder / "retr_df.csv")
    assert rows["image_index"].nunique() == IMAGES - 3
    images = pd.read_csv(folder / "images_df.csv")
    assert images["name"].tolist() == [f"O{number:06d}.png" for number in (1, 3, 4, 6)]
    assert images["file"].tolist() == images["name"].tolist()
    # they are released all the same
    assert len(list((folder / "imgs").iterdir())) == IMAGES


def test_nothing_to_evaluate_is_an_error(pipeline, capsys):
    for number in range(IMAGES):
        shutil.copy(
            pipeline.folder / "originals" / f"O{number:06d}.png",
            pipeline.folder / "references" / f"again{number}.png",
        )
    with pytest.raises(SystemExit):
        pipeline.run("evaluate", "--index.twins=left_out")
    assert "all 7 originals have a twin in the index" in capsys.readouterr().err


def test_an_index_without_descriptors_tells_them_by_their_codes(pipeline, capsys):
    given = [
        f"--train={pipeline.folder / 'train'}", f"--references={pipeline.folder / 'references'}",
        "--idx_factory=IVF4,PQ16x4", f"--extractor={pipeline.extractor}", "--resize_size=32", "--nprobe=4",
    ]  # fmt: skip
    main(
        [
            "index",
            "build",
            f"--output={pipeline.folder / 'index'}",
            *given,
            "--num_workers=0",
            "--precision=fp32",
        ]
    )
    capsys.readouterr()
    options = [
        f"--index.path={pipeline.folder / 'index'}",
        "--index.idx_factory=IVF4,PQ16x4",
        "--index.fts_training_path=null",
        "--index.fts_reference_path=null",
        "--index.nprobe=4",
        "--trainer.precision=32-true",
    ]
    folder = pipeline.run("evaluate", *options)
    assert "3 of the originals are in the index already under another name" in capsys.readouterr().out
    assert (unedited(folder)["rank"] == 0).all()


def test_nothing_is_said_where_there_is_none(tiny_pipeline, capsys):
    folder = tiny_pipeline.run("evaluate")
    assert "already" not in capsys.readouterr().out
    assert json.loads((folder / "summary.json").read_text())["twins"] == 0
