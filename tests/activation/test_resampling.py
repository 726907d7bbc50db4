import pytest
import torch
import torch.nn.functional as F

from aindex.activation import resampling
from aindex.activation.resampling import Resampler, resize_matrix


@pytest.fixture(params=["sparse", "dense"], autouse=True)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both forms of the matrices: a CPU's, and the one for devices at which kernels start slowly."""
    monkeypatch.setattr(resampling, "favours_few_kernels", lambda device: request.param == "dense")


@pytest.mark.parametrize("size", [(40, 57), (200, 31), (32, 32), (1, 9), (5, 1), (33, 400)])
def test_equals_the_antialiased_resize_of_torch(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    planes = torch.randn(3, *size, generator=generator)
    base, out = torch.randn(32, 32, 3, generator=generator), torch.empty(32, 32, 3)
    expected = F.interpolate(planes[None], size=(32, 32), mode="bilinear", antialias=True)[0]
    Resampler(*size, 32).add_resized(planes.permute(2, 0, 1).contiguous(), base, out)
    assert torch.allclose(out - base, expected.permute(1, 2, 0), atol=2e-6)


@pytest.mark.parametrize("size", [(40, 57), (200, 31), (1, 9)])
def test_transpose_is_the_gradient(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    planes = torch.randn(3, *size, generator=generator, requires_grad=True)
    weight = torch.randn(3, 32, 32, generator=generator)
    resized = F.interpolate(planes[None], size=(32, 32), mode="bilinear", antialias=True)[0]
    loss = (resized * weight).sum() + 0.25 * planes.square().sum()
    (expected,) = torch.autograd.grad(loss, planes)
    columns = planes.detach().permute(2, 0, 1).contiguous()  # W×C×H
    out = torch.empty_like(columns)
    Resampler(*size, 32).add_transposed(weight.permute(1, 2, 0).contiguous(), columns, 0.5, out)
    assert torch.allclose(out.permute(1, 2, 0), expected, atol=1e-5)


def test_rows_are_averages() -> None:
    assert torch.allclose(resize_matrix(100, 7).sum(1), torch.ones(7))
    assert torch.equal(resize_matrix(6, 6), torch.eye(6))
