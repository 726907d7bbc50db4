import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from aindex.evaluation import figures
from aindex.evaluation.copy_detection import precision_recall_curve
from aindex.evaluation.measures import Number

pytestmark = pytest.mark.filterwarnings("error")
NASTY = "a $x_1 <b> & {y}$ " + "long " * 20


def _dots(attacks=3):
    return pd.Series(np.linspace(0, 1, attacks), index=[f"attack {i}" for i in range(attacks)])


def _is_svg(figure):
    content = figures.figure_bytes(figure)
    assert ElementTree.fromstring(content).tag.endswith("svg")
    return content


@pytest.mark.parametrize("count", [1, 2, 9])
def test_dots_of_any_number_of_series(count):
    series = {f"{NASTY}{i}": _dots() for i in range(count)}
    _is_svg(figures.dots_figure(series, xlabel="R@1", ceiling=_dots()))
    n = {label: values * 0 + 40 for label, values in series.items()}
    _is_svg(figures.dots_figure(series, xlabel="R@1", n=n))
    _is_svg(figures.comparison_figure(series, {}, n))


def test_series_with_different_attacks():
    _is_svg(figures.dots_figure({"a": _dots(2), "b": _dots(5), "c": _dots(1) * np.nan}, xlabel="R@1"))


@pytest.mark.parametrize("count", [1, 6])
def test_precision_recall(count):
    curve = precision_recall_curve([3, 2, 1], [True, False, True], 3)
    empty = precision_recall_curve([], [], 1)
    curves = {f"{NASTY}{i}": {"plain": curve, "normalised": empty} for i in range(count)}
    _is_svg(figures.precision_recall_figure(curves))
    _is_svg(figures.comparison_figure({"a": _dots()}, curves))


def test_few_true_pairs_are_not_lost_among_many_false_ones():
    truths = np.zeros(100_000, dtype=bool)
    truths[[0, 10, 90_000]] = True
    curve = precision_recall_curve(-np.arange(100_000), truths, 3)
    assert figures._points_to_draw(curve).tolist() == [0, 10, 90_000, 99_999]


@pytest.mark.parametrize(
    "values",
    [[], [np.nan, np.inf], [3.0], [2.0, 2.0], [11, 12, 18], list(range(500)), [0.1, 0.1000001]],
)
def test_distributions_of_any_values(values):
    _is_svg(figures.distribution_figure({"a": values, NASTY: [1.5]}, xlabel="x"))
    _is_svg(figures.distribution_figure({"a": values}, xlabel="x"))


def test_few_values_are_dots_each_and_many_are_quantiles():
    def dots(count):
        figure = figures.distribution_figure({"a": np.linspace(0, 1, count)}, xlabel="x")
        return [len(line.get_xdata()) for line in figure.axes[0].get_lines()]

    assert dots(21) == [21]
    assert dots(figures.MOST_DOTS + 1) == [1]


def test_equal_values_do_not_lie_on_each_other():
    heights = figures._stacked(np.array([1.0, 2.0, 1.0, 1.0]), np.array([1.0, 2.0, 1.0, 1.0]))
    assert sorted(heights.tolist()) == pytest.approx([0, 0, 0.11, 0.22])


def test_a_label_has_its_series_colour():
    figure = figures.distribution_figure(
        {"original": [1.0], "released": [2.0]},
        xlabel="x",
        series={"original": "passive", "released": "active"},
    )
    colours = [line.get_color() for line in figure.axes[0].get_lines()]
    assert colours == list(figures.colours(["passive", "active"]).values())


def test_costs():
    few = {"scanned_rows": Number(120.0), "r@1": Number(0.7, n=50), "rows_per_picture": Number(1.0)}
    many = few | {"scanned_rows": Number(480.0), "rows_per_picture": Number(3.0)}
    _is_svg(figures.cost_figure({"passive": few, NASTY: many}))
    _is_svg(figures.cost_figure({"a": {"scanned_rows": Number(0.0), "r@1": few["r@1"]}}))


def test_recall_against_parameters():
    rows = pd.DataFrame(
        {
            "attack": ["blur"] * 5 + ["jpeg"] * 2,
            "attack_param": [1, 3, 5, 7, 7, 10, 20],
            "r@1": [1, 1, 0, 0, 1, 1, 0],
        }
    )
    assert figures.curve_families(rows) == ["blur"]
    _is_svg(figures.recall_curves_figure({"a": rows, NASTY: rows}))


def test_passive_series_are_grey():
    colours = figures.colours(["passive", "a passive", "active"])
    assert colours["passive"] != colours["a passive"]
    assert colours["active"] == next(iter(figures._COLOURS))


def test_the_same_figure_gives_the_same_file():
    for kind in ("svg", "png", "pdf"):
        first, second = (
            figures.figure_bytes(figures.dots_figure({"a": _dots()}, xlabel="x"), kind) for _ in range(2)
        )
        assert first == second


def test_nothing_global_is_touched():
    code = (
        "import sys; from aindex.evaluation import html_report, figures; assert 'matplotlib' not in sys.modules;"
        "import pandas as pd; figures.figure_bytes(figures.dots_figure({'a': pd.Series({'x': .5})}, xlabel='x'));"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
