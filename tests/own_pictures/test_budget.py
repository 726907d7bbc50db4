"""How much of a change a budget leaves."""

import math

import pytest

from aindex.release.budget import TOLERANCE_DB, largest_scale


def halving_costs_six_db(at_one: float, offset: float = 0.0):
    return lambda scale: math.inf if scale == 0 else at_one - 20 * math.log10(scale + offset)


@pytest.mark.parametrize("budget", [38.0, 42.0, 50.0, 60.0])
def test_found_where_the_budget_is(budget: float) -> None:
    for offset in (0.0, 0.05, 0.2):
        psnr = halving_costs_six_db(37.0, offset)
        reachable = psnr(1e-9) > budget
        scale = largest_scale(psnr, budget)
        assert scale is not None
        if reachable:
            assert budget <= psnr(scale) <= budget + TOLERANCE_DB


def test_the_whole_change_where_it_keeps_the_budget() -> None:
    assert largest_scale(halving_costs_six_db(42.0), 42.0) == 1.0


def test_steps_of_rounding_stay_on_the_safe_side() -> None:
    def stairs(scale: float) -> float:
        return 60.0 if scale < 0.3 else 37.0

    scale = largest_scale(stairs, 42.0)
    assert scale is not None
    assert 0.29 < scale < 0.3


def test_a_file_format_that_costs_too_much_by_itself() -> None:
    assert largest_scale(lambda _: 35.0, 42.0) is None
    assert largest_scale(lambda scale: 45.0 if scale == 0 else 30.0, 42.0) == 0.0
