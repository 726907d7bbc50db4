import math
import shutil

import pandas as pd
import pytest

from aindex.edits.named import Attack
from aindex.errors import ConfigError, DataError, OutputError
from aindex.evaluation.comparison import _attack_tables, compare, comparison_series
from aindex.evaluation.intervals import Interval, wilson
from aindex.evaluation.measures import Measure, Number, best
from aindex.evaluation.retrieval import retrieval_rows, retrieval_table
from aindex.evaluation.run_files import Results, read_run
from aindex.evaluation.table import Table, latex, markdown, plain


def _cells(line):
    return [cell.strip().strip("*") for cell in line.strip("|").split(" | ")]


@pytest.fixture(scope="module")
def compared(make_run, tmp_path_factory):
    runs = [make_run("one", skill=0.9), make_run("two", seed=1, skill=0.4, nprobe=4)]
    return runs, compare(runs, tmp_path_factory.mktemp("out") / "compared").parent


def test_all_files_are_there(compared):
    _, output = compared
    assert sorted(path.name for path in output.iterdir()) == [
        "compare.csv", "compare.md", "compare.tex", "cost.pdf", "cost.png", "curves.pdf", "curves.png", "report.html",
    ]  # fmt: skip


def test_numbers_are_those_of_the_runs(compared):
    runs, output = compared
    numbers = pd.read_csv(output / "compare.csv").set_index(["series", "table", "row", "column"])
    lines = (output / "compare.md").read_text().split("### R@1 per edit")[1].splitlines()
    # the passive results of both runs are the same and shown once
    assert _cells(lines[2]) == ["attack", "passive", "one", "two"]
    shown = {cells[0]: cells[1:] for cells in map(_cells, lines[4:11])}
    for position, folder in enumerate(runs):
        table = retrieval_table(pd.read_csv(folder / "retr_df.csv"))
        for row in table.to_dict("records"):
            key = runs[position].name, "retrieval", row["attack"], "r@1"
            assert numbers["value"][key] == pytest.approx(row["r@1"])
            interval = wilson(row["r@1"], row["images"])
            assert (numbers["low"][key], numbers["high"][key]) == pytest.approx(tuple(interval))
            assert numbers["n"][key] == row["images"]
            expected = f"{row['r@1']:.3f} ({interval.text})"
            assert shown[row["attack"].replace("_", " ")][position + 1] == expected


def _series(rows, recall):
    """A run of that many copies of which a share is found."""
    ranks = [0 if place < recall * rows else 9 for place in range(rows)]
    found = retrieval_rows(
        batch=0,
        image_index=[5] * rows,
        attacks=[Attack("jpeg", 50)] * rows,
        distances=[[0.1] * 10] * rows,
        indices=[[5 if place == rank else 0 for place in range(10)] for rank in ranks],
    )
    return Results(found)


def test_only_what_is_beyond_the_interval_is_a_win():
    for rows, wins in ((20, False), (2000, True)):
        series = {"a": _series(rows, 0.5), "b": _series(rows, 0.6), "c": _series(rows, 0.5)}
        table = next(t for t in _attack_tables(series) if t.title == "R@1 per edit")
        assert [table.best(row) for row in table.rows] == [[2] if wins else []] * 2


def test_settings_that_differ_are_shown(compared):
    _, output = compared
    text = (output / "compare.md").read_text()
    table = text.split("### Settings that differ")[1]
    assert "| index.nprobe | 1 | 4 |" in table
    assert "output\\_dir" not in table
    assert "target" not in table
    assert "Settings that differ" in (output / "report.html").read_text()
    assert "Warning" not in text


def test_other_pictures_are_warned_of(make_run, tmp_path):
    one, two = make_run("one"), make_run("two")
    images = pd.read_csv(two / "images_df.csv", keep_default_na=False)
    images["name"] = ["other.jpg", *images["name"][1:]]
    images.to_csv(two / "images_df.csv", index=False)
    with pytest.warns(
        UserWarning, match=r"two was evaluated on other pictures than one \(6 and 6, 5 in common\)"
    ):
        report = compare([one, two], tmp_path / "out")
    assert "Warning: two was evaluated on other pictures" in report.read_text()
    assert "**Warning:** two was" in (report.parent / "compare.md").read_text()


def test_costs_are_compared(compared):
    runs, output = compared
    numbers = pd.read_csv(output / "compare.csv").set_index(["series", "table", "row"])["value"]
    for folder in runs:
        queries = pd.read_csv(folder / "queries_df.csv")
        scanned = queries.groupby(["attack", "attack_param"], dropna=False)["scanned_rows"].mean().mean()
        assert numbers[folder.name, "measures", "scanned_rows"] == pytest.approx(scanned)
        assert numbers[folder.name, "measures", "bytes_per_picture"] == 13.5
        assert 0 <= numbers[folder.name, "at_limit", "false_positives"] <= 1
    assert numbers["passive", "at_limit", "false_positives"] == 0
    html = (output / "report.html").read_text()
    assert "R@1 against rows scanned per query: passive 0." in html


def _best(values, higher, bounds):
    measure = Measure("x", "x.csv", higher_is_better=higher)
    return best(
        [
            Number(
                float("nan") if value is None else value, measure, bounds=None if b is None else Interval(*b)
            )
            for value, b in zip(values, bounds, strict=True)
        ]
    )


def test_the_best_lies_beyond_all_intervals():
    apart, meeting = [(1, 2), (3, 4), (5, 6)], [(1, 2), (3, 5.5), (5, 6)]
    assert _best([1.5, 3.5, 5.5], True, apart) == [2]
    assert _best([1.5, 3.5, 5.5], False, apart) == [0]
    assert _best([1.5, 4.2, 5.5], True, meeting) == []
    assert _best([1.5, 4.2, 5.5], False, meeting) == [0]
    assert _best([1.5, None, 5.5], True, [(1, 2), None, (5, 6)]) == [2]
    assert _best([1.5, 3.5], True, [(1, 2), None]) == []  # nothing is known of the other
    assert _best([3.0, 3.0, 9.0], False, [(3, 3), (3, 3), (9, 9)]) == [0, 1]
    assert _best([3.0, 3.0], False, [(3, 3), (3, 3)]) == []


def test_markdown_and_latex_escape_names():
    rows = [
        [name, *(Number(value, Measure("x", "x.csv"), bounds=Interval(value, value)) for value in values)]
        for name, values in (("average", (math.inf, 1.0)), ("r", (math.nan, 1.0)))
    ]
    table = Table(["x", "a|b<i>_$5%&", "y"], rows, title="µAP_1", compared=True)
    assert r"a\|b\<i\>\_$5%&" in markdown(table)
    assert "| average | **∞** |" in markdown(table)
    text = latex(table)
    assert r"a|b<i>\_\$5\%\&" in text
    assert r"average & \textbf{$\infty$} & 1.000 \\" in text
    assert r"r & -- & 1.000 \\" in text
    assert r"\caption{$\mu$AP\_1}" in text
    assert text.count(r"\midrule") == 2


def test_a_terminal_table_is_aligned_with_a_rule_above_the_averages():
    lines = plain(Table(["attack", "n"], [["none", "4"], ["average", "12"]])).splitlines()
    assert lines == ["attack    n", "-------  --", "none      4", "-------  --", "average  12"]


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
    with pytest.warns(UserWarning, match=r"other attacks than one \(2 and 2, 1 in common\)"):
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
