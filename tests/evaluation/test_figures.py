import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from aindex.evaluation import figures
from aindex.evaluation.copy_detection import precision_recall_curve

pytestmark = pytest.mark.filterwarnings("error")
NASTY = "a $x_1 <b> & {y}$ " + "long " * 20


def _bars(attacks=3):
    return pd.Series(np.linspace(0, 1, attacks), index=[f"attack {i}" for i in range(attacks)])


def _is_svg(figure):
    content = figures.figure_bytes(figure)
    assert ElementTree.fromstring(content).tag.endswith("svg")
    return content


@pytest.mark.parametrize("count", [1, 2, 9])
def test_bars_of_any_number_of_series(count):
    series = {f"{NASTY}{i}": _bars() for i in range(count)}
    _is_svg(figures.bars_figure(series, xlabel="R@1", ceiling=_bars()))
    _is_svg(figures.comparison_figure(series, {}))


def test_series_with_different_attacks():
    _is_svg(figures.bars_figure({"a": _bars(2), "b": _bars(5), "c": _bars(1) * np.nan}, xlabel="R@1"))


@pytest.mark.parametrize("count", [1, 6])
def test_precision_recall(count):
    curve = precision_recall_curve([3, 2, 1], [True, False, True], 3)
    empty = precision_recall_curve([], [], 1)
    curves = {f"{NASTY}{i}": {"plain": curve, "normalised": empty} for i in range(count)}
    _is_svg(figures.precision_recall_figure(curves))
    _is_svg(figures.comparison_figure({"a": _bars()}, curves))


def test_few_true_pairs_are_not_lost_among_many_false_ones():
    truths = np.zeros(100_000, dtype=bool)
    truths[[0, 10, 90_000]] = True
    curve = precision_recall_curve(-np.arange(100_000), truths, 3)
    assert figures._points_to_draw(curve).tolist() == [0, 10, 90_000, 99_999]


@pytest.mark.parametrize(
    "values",
    [[], [np.nan, np.inf], [3.0], [2.0, 2.0], [11, 12, 18], list(range(500)), [0.1, 0.1000001]],
)
def test_histograms_of_any_values(values):
    _is_svg(figures.histogram_figure({"a": values, NASTY: [1.5]}, xlabel="x"))
    _is_svg(figures.histogram_figure({"a": values}, xlabel="x"))


def test_whole_numbers_have_bins_of_their_own():
    assert figures._bins(np.array([11.0, 13.0])).tolist() == [10.5, 11.5, 12.5, 13.5]


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
    assert colours["active"] == figures._COLOURS[0]


def test_the_same_figure_gives_the_same_file():
    for kind in ("svg", "png", "pdf"):
        first, second = (
            figures.figure_bytes(figures.bars_figure({"a": _bars()}, xlabel="x"), kind) for _ in range(2)
        )
        assert first == second


def test_nothing_global_is_touched():
    code = (
        "import sys; from aindex.evaluation import report, figures; assert 'matplotlib' not in sys.modules;"
        "import pandas as pd; figures.figure_bytes(figures.bars_figure({'a': pd.Series({'x': .5})}, xlabel='x'));"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
