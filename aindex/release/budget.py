"""Quality as a budget: how much of a change an image may keep."""

import math
from collections.abc import Callable

TOLERANCE_DB = 0.1
"""How far above the budget a released picture may lie whose change was cut."""

_AIM_DB = 0.03
_TRIALS = 24


def largest_scale(psnr_db: Callable[[float], float], min_psnr_db: float) -> float | None:
    """The largest share of a change, 0 to 1, that keeps an image's PSNR at or above a budget.

    Halving a change raises the PSNR by 6 dB, but for rounding and clamping: so a few trials suffice.

    Args:
        psnr_db: PSNR of the image as it will be saved, for a share of the change.
        min_psnr_db: the budget.

    Returns:
        A share whose PSNR is at most TOLERANCE_DB above the budget, where rounding allows; 1 if the whole change
        keeps it; None if even the unchanged image does not.
    """
    low, high = 0.0, 1.0
    found = psnr_db(high)
    if found >= min_psnr_db:
        return 1.0
    scale = _next(high, found, min_psnr_db)
    for trial in range(_TRIALS):
        # Rounding and clamping can hold the estimate on one side for long.
        if not low < scale < high or trial % 3 == 2:
            scale = (low + high) / 2
        found = psnr_db(scale)
        if found < min_psnr_db:
            high = scale
        else:
            low = scale
            if found <= min_psnr_db + TOLERANCE_DB:
                break
        scale = _next(scale, found, min_psnr_db)
    if low > 0:
        return low
    return 0.0 if psnr_db(0.0) >= min_psnr_db else None


def _next(scale: float, found_db: float, min_psnr_db: float) -> float:
    exponent = (found_db - min_psnr_db - _AIM_DB) / 20
    return scale * math.pow(10.0, exponent)
