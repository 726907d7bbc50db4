import math

import pytest
from scipy.stats import binomtest, norm, sem

from aindex.evaluation.intervals import mean_interval, wilson


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 4), (5, 5), (73, 100), (999, 1000), (0, 7)])
def test_equals_scipy(hits, n):
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert tuple(wilson(hits / n, n)) == pytest.approx((expected.low, expected.high))


def test_nothing_known():
    assert tuple(wilson(0.5, 0)) == (0, 1)
    assert all(math.isnan(bound) for bound in wilson(math.nan, 5))
    assert wilson(0.25, 4).text == "0.046–0.699"


def test_means():
    values = [1.0, 2.0, 4.0, math.inf]
    expected = norm.interval(0.95, loc=7 / 3, scale=sem(values[:3]))
    assert tuple(mean_interval(values)) == pytest.approx(expected)
    assert tuple(mean_interval([1.0])) == (-math.inf, math.inf)
