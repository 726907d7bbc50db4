"""95 % intervals of shares and means."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_Z = 1.959963984540054
"""Of a normal distribution 95 % lie within so many standard deviations."""


class Interval(NamedTuple):
    """Where a share or a mean lies with 95 % confidence."""

    low: float
    high: float

    @property
    def text(self) -> str:
        """`0.450–0.510`."""
        return f"{self.low:.3f}–{self.high:.3f}"


def wilson(share: float, n: float) -> Interval:
    """The 95 % interval of a share (E. B. Wilson, JASA 22, 1927).

    Args:
        share: 0 to 1; nan gives nan.
        n: how many independent observations it is the share of; 0 gives 0 to 1.
    """
    if share != share or n <= 0:
        return Interval(share, share) if share != share else Interval(0.0, 1.0)
    centre = share + _Z**2 / (2 * n)
    spread = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    scale = 1 + _Z**2 / n
    # rounding must not put the share itself outside
    return Interval(
        min(max(0.0, (centre - spread) / scale), share), max(min(1.0, (centre + spread) / scale), share)
    )


def mean_interval(values: npt.ArrayLike) -> Interval:
    """The 95 % interval of a mean by its standard error, of what is finite; fewer than two values tell nothing.

    Args:
        values: independent observations.
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    if known.size < 2:
        return Interval(-math.inf, math.inf)
    middle, spread = float(known.mean()), _Z * float(known.std(ddof=1)) / math.sqrt(known.size)
    return Interval(middle - spread, middle + spread)
