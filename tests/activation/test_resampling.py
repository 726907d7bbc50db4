import pytest
import torch
import torch.nn.functional as F

from aindex.activation.resampling import Resampler, resize_matrix


@pytest.mark.parametrize("size", [(40, 57), (200, 31), (32, 32), (1, 9), (5, 1), (33, 400)])
def test_equals_the_antialiased_resize_of_torch(size: tuple[int, int]) -> None:
    planes = torch.randn(3, *size, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(planes[None], size=(32, 32), mode="bilinear", antialias=True)[0]
    measured = Resampler(*size, 32).forward(planes.permute(2, 0, 1).contiguous())  # R×R×C
    assert torch.allclose(measured.permute(2, 0, 1), expected, atol=2e-6)


@pytest.mark.parametrize("size", [(40, 57), (200, 31), (1, 9)])
def test_transpose_is_the_gradient(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    planes = torch.randn(3, *size, generator=generator, requires_grad=True)
    weight = torch.randn(3, 32, 32, generator=generator)
    resized = F.interpolate(planes[None], size=(32, 32), mode="bilinear", antialias=True)[0]
    (expected,) = torch.autograd.grad((resized * weight).sum(), planes)
    measured = Resampler(*size, 32).transpose(weight.permute(1, 2, 0).contiguous())  # W×C×H
    assert torch.allclose(measured.permute(1, 2, 0), expected, atol=1e-5)


def test_rows_are_averages() -> None:
    assert torch.allclose(resize_matrix(100, 7).sum(1), torch.ones(7))
    assert torch.equal(resize_matrix(6, 6), torch.eye(6))
