import pytest
import torch
import torch.nn.functional as F

from aindex.activation.resampling import Resampler, resize_matrix, taps_of


@pytest.mark.parametrize("size", [(40, 57), (200, 31), (32, 32), (1, 9), (5, 1), (33, 400)])
def test_equals_the_antialiased_resize_of_torch(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    planes = torch.randn(3, *size, generator=generator)
    base, out = torch.randn(32, 3, 32, generator=generator), torch.empty(32, 3, 32)
    expected = F.interpolate(planes[None], size=(32, 32), mode="bilinear", antialias=True)[0]
    Resampler(*size, 32).add_resized(planes.permute(1, 0, 2).contiguous(), base, out)
    assert torch.allclose(out - base, expected.permute(1, 0, 2), atol=2e-6)


@pytest.mark.parametrize("size", [(40, 57), (200, 31), (1, 9)])
def test_transpose_is_the_gradient(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    planes = torch.randn(3, *size, generator=generator, requires_grad=True)
    weight = torch.randn(3, 32, 32, generator=generator)
    resized = F.interpolate(planes[None], size=(32, 32), mode="bilinear", antialias=True)[0]
    loss = (resized * weight).sum() + 0.25 * planes.square().sum()
    (expected,) = torch.autograd.grad(loss, planes)
    rows = planes.detach().permute(1, 0, 2).contiguous()  # H×3×W
    out = torch.empty_like(rows)
    Resampler(*size, 32).add_transposed(weight.permute(1, 0, 2).contiguous(), rows, 0.5, out)
    assert torch.allclose(out.permute(1, 0, 2), expected, atol=1e-5)


def test_rows_are_averages() -> None:
    assert torch.allclose(resize_matrix(100, 7).sum(1), torch.ones(7))
    assert torch.equal(resize_matrix(6, 6), torch.eye(6))


@pytest.mark.parametrize(("length", "size"), [(100, 7), (7, 100), (300, 160), (1, 5), (5, 1), (6, 6)])
def test_taps_hold_the_whole_matrix(length: int, size: int) -> None:
    for matrix in (resize_matrix(length, size), resize_matrix(length, size).T):
        taps = taps_of(matrix)
        again = torch.zeros_like(matrix)
        for row, (first, count, weights) in enumerate(zip(*taps, strict=True)):
            assert count <= len(weights)
            assert first + len(weights) <= matrix.shape[1]
            again[row, first : first + count] = torch.from_numpy(weights[:count])
        assert torch.equal(again, matrix)
