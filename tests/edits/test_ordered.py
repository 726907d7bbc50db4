"""The forms for a GPU against torch's and torchvision's own, on the CPU."""

import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as tvf

from aindex.edits import ordered
from aindex.edits.differentiable import rotation, window

PICTURES = torch.rand(3, 3, 24, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def compare(one: Tensor, other: Tensor, pictures: Tensor) -> None:
    """Values and gradients are the same."""
    torch.testing.assert_close(one, other)
    weights = torch.randn(one.shape, generator=torch.Generator().manual_seed(1), dtype=one.dtype)
    gradients = [torch.autograd.grad((found * weights).sum(), pictures)[0] for found in (one, other)]
    assert gradients[1].abs().max() > 0
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    "theta",
    [
        rotation(0, 1.0), rotation(33, 1.4), rotation(-90, 0.7), window(0.1, 0.2, 0.6, 0.9),
        window(-0.4, -0.3, 1.6, 1.2), window(-5, -5, 6, 6), window(1.5, 1.5, 2.5, 2.5),
    ],
)  # fmt: skip
def test_sampling(theta: tuple[float, ...]) -> None:
    pictures = PICTURES.clone().requires_grad_()
    grid = torch.nn.functional.affine_grid(
        torch.tensor(theta, dtype=torch.float64).view(1, 2, 3).expand(3, 2, 3),
        [3, 3, 20, 26],
        align_corners=False,
    )
    wanted = torch.nn.functional.grid_sample(pictures, grid, padding_mode="zeros", align_corners=False)
    if theta == window(1.5, 1.5, 2.5, 2.5):
        assert not wanted.any()  # all beyond the picture
        assert not ordered.grid_sample(pictures, grid).any()
    else:
        compare(ordered.grid_sample(pictures, grid), wanted, pictures)


def test_a_gradient_that_is_no_number_is_its_picture_s_alone() -> None:
    pictures = PICTURES.clone().requires_grad_()
    grid = torch.nn.functional.affine_grid(
        torch.tensor(rotation(33, 1.4), dtype=torch.float64).view(1, 2, 3).expand(3, 2, 3),
        [3, 3, 20, 26],
        align_corners=False,
    )
    weights = torch.ones(3, 3, 20, 26, dtype=torch.float64)
    weights[0, 0, 5, 5], weights[1] = torch.nan, 0
    sampled = ordered.grid_sample(pictures, grid)
    (gradient,) = torch.autograd.grad((sampled * weights).sum(), pictures)
    assert gradient[0].isnan().all()
    assert not gradient[1].any()
    assert gradient[2].isfinite().all()
    assert gradient[2].any()


def test_blur() -> None:
    radii, deviations = [1, 4, 7, 23], [0.3, 1.5, 2.5, 9.0]
    pictures = torch.cat([PICTURES, PICTURES[:1]]).requires_grad_()
    wanted = [
        tvf.gaussian_blur(picture, [2 * radius + 1] * 2, [deviation] * 2)
        for picture, radius, deviation in zip(pictures, radii, deviations, strict=True)
    ]
    found = ordered.gaussian_blur(
        pictures, torch.tensor(radii), torch.tensor(deviations, dtype=torch.float64)
    )
    compare(found, torch.stack(wanted), pictures)
