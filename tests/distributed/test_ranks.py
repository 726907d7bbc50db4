"""Any number of processes leaves the files that one leaves."""

import io
from pathlib import Path

import launching
import pandas as pd
import pytest


@pytest.mark.parametrize(("ranks", "machines"), [(2, 1), pytest.param(3, 1, marks=pytest.mark.slow), (2, 2)])
def test_fit(workshop, whole_fit, tmp_path: Path, ranks: int, machines: int):
    output = tmp_path / "run"
    running = launching.run(workshop.args("fit", output), tmp_path / "logs", ranks, machines=machines)
    launching.assert_same(output, whole_fit)
    assert running.output().count("average without screenshot") == 1
    parts = sorted(path.name for path in (output / "progress").glob("images.rank*"))
    assert parts == [f"images.rank{rank}.jsonl" for rank in range(ranks)]


def test_one_process_evaluates_every_image_once(whole_fit):
    for name, rows in (("retr_df.csv", 7 * 15), ("icd_df.csv", 7 + 40)):
        assert len(pd.read_csv(io.BytesIO(whole_fit[name]))) == rows
    table = pd.read_csv(io.BytesIO(whole_fit["retr_df.csv"]))
    assert not table.duplicated(["image_index", "attack", "attack_param"]).any()
    assert sum(name.startswith("imgs/") for name in whole_fit) == 7


def test_evaluate(workshop, whole_fit, whole_evaluate, tmp_path: Path):
    for name in ("retr_df.csv", "icd_df.csv", "queries_df.csv"):
        assert whole_evaluate[name] == whole_fit[name]
    released = f"--retrieval.released_dir={workshop.folder / 'whole_fit' / 'imgs'}"
    output = tmp_path / "run"
    launching.run(workshop.args("evaluate", output, released), tmp_path / "logs", 3)
    launching.assert_same(output, whole_evaluate)


def test_more_ranks_than_images(workshop, whole_fit, tmp_path: Path):
    names = tmp_path / "lists" / "one.txt"
    names.parent.mkdir()
    names.write_text(str(workshop.data / "originals" / "O000002.png"))
    for ranks in (1, 3):
        options = (f"--data.data_dir={names}", "--data.batch_size=2")
        launching.run(workshop.args("fit", tmp_path / f"run{ranks}", *options), tmp_path / "logs", ranks)
    launching.assert_same(tmp_path / "run3", launching.results(tmp_path / "run1"))
    released = (tmp_path / "run3" / "imgs" / "O000002.png").read_bytes()
    assert released == whole_fit["imgs/O000002.png"]
