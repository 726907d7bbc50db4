import pytest

from aindex.index.default_factory import EXACT_PICTURES, default_factory


@pytest.mark.parametrize(
    ("pictures", "training", "dim", "rows", "expected"),
    [
        (10, 40, 16, 1, "Flat"),
        (EXACT_PICTURES, 10**6, 512, 1, "Flat"),
        (EXACT_PICTURES, 10**6, 512, 3, "IVF256,PQ8x8"),  # several rows lie in several cells
        (EXACT_PICTURES + 1, 10**6, 512, 1, "IVF128,PQ8x8"),
        (4_000, 10**6, 512, 1, "IVF256,PQ8x8"),
        (4_000, 2_000, 512, 1, "IVF32,PQ8x8"),  # cells that the training bears
        (4_000, 500, 512, 1, "IVF8,Flat"),  # too little for codes
        (4_000, 2_000, 20, 1, "IVF32,Flat"),
        (10**6, 10**6, 512, 1, "IVF4096,PQ8x8"),
        (10**9, 10**7, 512, 1, "IVF4096,PQ8x8"),
        (None, 10**6, 512, 1, "IVF4096,PQ8x8"),
        (None, 60, 512, 1, "IVF2,Flat"),
    ],
)
def test_what_suits(pictures, training, dim, rows, expected):
    assert default_factory(pictures, training, dim, rows=rows) == expected
