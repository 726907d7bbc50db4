"""Kernels where their machine code cannot be kept."""

import numba
import numpy as np
import pytest

from aindex.compiling import compiled


def double(x: float) -> float:
    return 2 * x


def test_a_full_disk_costs_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.FunctionCache.save_overload", full)
    assert compiled(double)(np.float32(1.5)) == 3


def test_without_a_folder_for_the_cache_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    njit = numba.njit

    def no_locator(*arguments: object, cache: bool = False, **options: object) -> object:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(*arguments, **options)

    monkeypatch.setattr(numba, "njit", no_locator)
    assert compiled(double)(2.0) == 4
