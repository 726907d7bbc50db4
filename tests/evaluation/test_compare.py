import shutil

import pandas as pd
import pytest

from aindex.errors import ConfigError, DataError, OutputError
from aindex.evaluation.compare import compare, comparison_series
from aindex.evaluation.retrieval import retrieval_table
from aindex.evaluation.run_folder import read_run
from aindex.evaluation.text_tables import TextTable, latex, markdown


def _cells(line):
    return [cell.strip().strip("*") for cell in line.strip("|").split(" | ")]


@pytest.fixture(scope="module")
def compared(make_run, tmp_path_factory):
    runs = [make_run("one", skill=0.9), make_run("two", seed=1, skill=0.4)]
    return runs, compare(runs, tmp_path_factory.mktemp("out") / "compared").parent


def test_all_files_are_there(compared):
    _, output = compared
    assert sorted(path.name for path in output.iterdir()) == [
        "compare.csv", "compare.md", "compare.tex", "curves.pdf", "curves.png", "report.html",
    ]  # fmt: skip


def test_numbers_are_those_of_the_runs(compared):
    runs, output = compared
    numbers = pd.read_csv(output / "compare.csv").set_index(["series", "table", "row", "column"])["value"]
    lines = (output / "compare.md").read_text().splitlines()
    # the passive results of both runs are the same and shown once
    assert _cells(lines[2]) == ["attack", "passive", "one", "two"]
    shown = {cells[0]: cells[1:] for cells in map(_cells, lines[4:11])}
    for position, folder in enumerate(runs):
        table = retrieval_table(pd.read_csv(folder / "retr_df.csv"))
        for row in table.to_dict("records"):
            assert numbers[runs[position].name, "retrieval", row["attack"], "r@1"] == pytest.approx(
                row["r@1"]
            )
            assert shown[row["attack"].replace("_", " ")][position + 1] == f"{row['r@1']:.3f}"


def test_the_best_of_each_row_is_bold(compared):
    _, output = compared
    for line in (output / "compare.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| contrast 0.5"):
            values = [float(cell.strip("*")) for cell in cells[1:]]
            bold = [cell.startswith("**") for cell in cells[1:]]
            assert bold == [value == max(values) and min(values) < max(values) for value in values]


def test_lower_is_better_for_some_measures(compared):
    _, output = compared
    line = next(x for x in (output / "compare.md").read_text().splitlines() if x.startswith("| L∞"))
    cells = [cell.strip() for cell in line.strip("|").split("|")][2:]
    values = [float(cell.strip("*")) for cell in cells]
    assert [cell.startswith("**") for cell in cells] == [value == min(values) for value in values]


def test_markdown_and_latex_escape_names():
    table = TextTable("µAP_1", ["x", "a|b<i>_$5%&"], [["average", "∞"], ["r", "–"]], frozenset({(0, 1)}))
    assert r"a\|b\<i\>\_$5%&" in markdown(table)
    assert "| average | **∞** |" in markdown(table)
    text = latex(table)
    assert r"a|b<i>\_\$5\%\&" in text
    assert r"average & \textbf{$\infty$} \\" in text
    assert r"r & -- \\" in text
    assert r"\caption{$\mu$AP\_1}" in text
    assert text.count(r"\midrule") == 2


def test_runs_of_one_name_are_told_apart(make_run, tmp_path):
    first = make_run("run")
    for parent in ("a", "b"):
        shutil.copytree(first, tmp_path / parent / "run")
    report = compare([tmp_path / "a" / "run", tmp_path / "b" / "run", first, first], tmp_path / "out")
    header = _cells((report.parent / "compare.md").read_text().splitlines()[2])
    assert header[2:4] == ["a/run", "b/run"]
    assert len(set(header)) == len(header)


def test_passive_results_that_differ_are_both_shown(make_run):
    one, two = make_run("one"), make_run("two")
    rows = pd.read_csv(two / "retr_df_passive.csv")
    rows["rank"] = 0
    rows.to_csv(two / "retr_df_passive.csv", index=False)
    runs = {folder.name: read_run(folder) for folder in (one, two)}
    assert list(comparison_series(runs)) == ["one passive", "two passive", "one", "two"]


def test_runs_with_different_tables_and_attacks(make_run, tmp_path):
    one = make_run("one", attacks=[("none", None), ("blur", 11)], passive=False)
    two = make_run("two", attacks=[("none", None), ("jpeg", 50)], passive=False)
    for name in ("icd_df.csv", "images_df.csv", "queries_df.csv", "search_df.csv"):
        (two / name).unlink()
    text = (compare([one, two], tmp_path / "out").parent / "compare.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| jpeg 50"))
    assert _cells(row)[1] == "–"


def test_many_parameters_have_a_figure_of_curves(make_run, tmp_path):
    run = make_run(attacks=[("rotation", angle) for angle in range(5)])
    assert (compare([run], tmp_path / "out").parent / "recall_curves.pdf").stat().st_size > 1000


def test_an_earlier_comparison_is_kept_unless_told_otherwise(make_run, tmp_path):
    run = make_run()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "compare.md").write_text("mine")
    with pytest.raises(OutputError, match=r"compare\.md lies there already"):
        compare([run], tmp_path / "out")
    assert (tmp_path / "out" / "compare.md").read_text() == "mine"
    compare([run], tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "compare.md").read_text() != "mine"


def test_bad_input(tmp_path):
    with pytest.raises(ConfigError, match="0 runs"):
        compare([], tmp_path / "out")
    with pytest.raises(DataError, match=r"no retr_df\.csv"):
        compare([tmp_path / "missing"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
