from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from aindex.activation.flat import Flat
from aindex.descriptors.resizing import PlaneResize

CPU = torch.device("cpu")
SHAPES = [(3, 40, 50), (3, 33, 64), (3, 10, 37), (3, 1, 20), (3, 80, 60)]


def images_of(shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("shapes", [SHAPES, SHAPES[:1], SHAPES[1:2] * 3], ids=["sizes", "single", "one size"])
def test_images_come_back_and_so_do_values_of_each(shapes: list[tuple[int, ...]]) -> None:
    images, layout = images_of(shapes), Flat(shapes, CPU)
    flat = layout.join(images)
    assert flat.ndim == 2
    numbers = torch.arange(1.0, len(shapes) + 1)
    scaled = layout.split(layout.scale_((flat * layout.spread(numbers)).detach(), [[1, 2, 3]] * len(shapes)))
    factors = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    for image, number, found in zip(images, numbers, scaled, strict=True):
        torch.testing.assert_close(found, image * number * factors)
    weights = torch.arange(1.0, len(shapes) + 1)
    squares, expected = layout.mean_squares(flat), torch.stack([image.square().mean() for image in images])
    torch.testing.assert_close(squares, expected)
    gradients = [torch.autograd.grad((some * weights).sum(), images) for some in (squares, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("shapes", [SHAPES, SHAPES[:1], SHAPES[1:2] * 3], ids=["sizes", "single", "one size"])
def test_a_tile_is_repeated_from_each_image_s_beginning(shapes: list[tuple[int, ...]]) -> None:
    tiles = torch.randn(len(shapes), 2048, generator=torch.Generator().manual_seed(1))
    layout = Flat(shapes, CPU)
    for tile, found in zip(tiles, layout.split(layout.tile(tiles)), strict=True):
        assert torch.equal(found.flatten(), tile.repeat(12)[: found.numel()])


def test_the_resize_of_all_at_once_is_that_of_each() -> None:
    images, layout = images_of(SHAPES), Flat(SHAPES, CPU, spare=64)
    together = layout.resize(32)(layout.join(images))
    apart = torch.cat([PlaneResize(one.shape, 32)(one) for one in images])
    assert torch.equal(together, apart)
    weights = torch.randn(apart.shape, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad((some * weights).sum(), images) for some in (together, apart)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("shape", [(3, 40, 57), (3, 9, 200), (1, 32, 32), (3, 20, 20)])
def test_the_resize_of_one_is_torch_s_forwards_and_backwards(shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(2)
    image = torch.rand(shape, generator=generator).requires_grad_()
    expected = torch.nn.functional.interpolate(image[None], (32, 32), mode="bilinear", antialias=True)
    found = PlaneResize(shape, 32)(image)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    weights = torch.randn(expected.shape, generator=generator)
    gradients = [torch.autograd.grad((some * weights).sum(), image) for some in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=0)


@pytest.mark.parametrize("spoiled", [0, 2, 4])
def test_what_is_no_number_stays_with_its_image(spoiled: int) -> None:
    images, layout = images_of(SHAPES), Flat(SHAPES, CPU, spare=64)
    with torch.no_grad():
        images[spoiled][:] = torch.nan
    flat = layout.join(images)
    values = layout.mean_squares(flat) + layout.resize(32)(flat).sum((1, 2, 3))
    good = [i for i in range(len(images)) if i != spoiled]
    assert values.isfinite().tolist() == [i != spoiled for i in range(len(images))]
    gradients = torch.autograd.grad(values.sum(), images)
    assert all(gradients[i].isfinite().all() for i in good)
