from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aindex.activation.goals import AssignmentGoal, Goal, GoalMaker, TargetGoal, image_and_copies
from aindex.errors import ConfigError, FaissIndexError
from aindex.index.choices import Choices, Step
from aindex.index.factory import train_quantiser
from aindex.index.quantiser import Quantiser

FACTORIES = [
    "IVF8,PQ4x4", "IVF8,Flat", "PQ4x4", "OPQ4_16,IVF8,PQ4x4", "OPQ4_8,PQ4x4", "PCA8,LSH", "SQ8", "IMI2x3,PQ4x4",
    "L2norm,IVF8,SQ8", "LSQ2x4", "RaBitQ", "IVF8_HNSW8,PQ4x4fs",
]  # fmt: skip


def unit_rows(count: int, seed: int) -> Tensor:
    rows = torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows)


@pytest.fixture(scope="module")
def quantiser() -> Callable[[str], Quantiser]:
    rows = unit_rows(3000, 1).numpy()
    return lambda factory: Quantiser(train_quantiser(rows, factory, "L2", seed=0))


def test_cosine_goal_by_hand() -> None:
    y = torch.tensor([[3.0, 4.0], [1.0, 0.0], [2.0, 0.0]])
    t = torch.tensor([[3.0, 4.0], [0.0, 5.0], [-1.0, 0.0]])
    assert torch.allclose(TargetGoal(t[:, None])(y[None]), torch.tensor([-1.0, 0.0, 1.0]))


def test_squared_goal_sums_over_dimensions() -> None:
    goal = TargetGoal(torch.tensor([[[0.0, 0.0, 5.0]]]), "mse")
    assert goal(torch.tensor([[[1.0, 2.0, 3.0]]])).tolist() == [9.0]


def test_copies_count_as_much_as_the_image() -> None:
    losses = torch.tensor([[1.0, 2.0], [10.0, 20.0], [30.0, 40.0]])
    assert image_and_copies(losses).tolist() == [21.0, 32.0]
    assert image_and_copies(losses[:1]).tolist() == [1.0, 2.0]


def cells(points: Tensor) -> Choices:
    return Choices("cell", (), torch.arange(points.shape[-1])[None], points[None])


def test_assignment_by_hand() -> None:
    """Two centroids at squared distances 1 and 4, temperature 2: p = 1 / (1 + e^−1.5)."""
    goal = AssignmentGoal(
        cells(torch.tensor([[1.0, 0.0], [-2.0, 0.0]])),
        right=torch.tensor([[[0]], [[1]]]),
        targets=torch.tensor([[[0.0, 1.0]], [[0.0, 1.0]]]),
        rows=torch.tensor([[[0.0, 1.0]], [[0.0, 1.0]]]),
        temperature=2.0,
    )
    loss = goal(torch.tensor([[[0.0, 0.0], [0.0, 0.0]]]))
    wrong = float(np.log1p(np.exp(1.5)))
    # the cosine to the code is 0 for a descriptor of zeros
    assert loss.tolist() == pytest.approx([wrong - 1.5 + 1, wrong + 1])


def test_several_cells_may_be_right() -> None:
    points, descriptors = unit_rows(5, 2), unit_rows(3, 3)
    right = torch.tensor([[[0, 3]], [[2, 2]], [[4, 1]]])
    goal = AssignmentGoal(cells(points), right, descriptors[:, None], descriptors[:, None], temperature=0.3)
    probabilities = torch.softmax(-torch.cdist(descriptors, points).square() / 0.3, dim=1)
    expected = [-(p[r[0].unique()].sum()).log().item() for p, r in zip(probabilities, right, strict=True)]
    assert goal(descriptors[None]).tolist() == pytest.approx(expected, abs=1e-5)


def at_cell_two(points: Tensor, descriptor: Tensor, nprobe: int) -> AssignmentGoal:
    return AssignmentGoal(cells(points), torch.tensor([[[2]]]), descriptor, descriptor, 0.05, nprobe=nprobe)


def test_with_more_visits_near_wrong_cells_do_no_harm() -> None:
    points = torch.tensor([[1.0, 0.0], [0.9, 0.0], [0.8, 0.0], [-1.0, 0.0]])
    descriptor = torch.tensor([[[1.0, 0.0]]])
    losses = [float(at_cell_two(points, descriptor, nprobe)(descriptor)) for nprobe in (1, 2, 3, 4)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 1  # two nearer cells
    assert losses[2] < 1e-6  # both are visited anyway
    assert losses[3] == pytest.approx(0, abs=1e-6)
    everywhere = at_cell_two(points, descriptor, 9)
    moved = descriptor.clone().requires_grad_()
    everywhere(moved).sum().backward()
    assert moved.grad is not None
    assert moved.grad.isfinite().all()


@pytest.mark.parametrize("idx_factory", FACTORIES)
def test_the_loss_is_least_where_the_index_files_the_vector(
    quantiser: Callable[[str], Quantiser], idx_factory: str
) -> None:
    """Of all points of a choice, the one that FAISS chose has the smallest loss."""
    made = quantiser(idx_factory)
    rows = unit_rows(12, 5)
    choices, right = made.choices(), torch.from_numpy(made.right_choices(rows))
    stored = torch.from_numpy(made.stored(rows))
    for i in range(len(rows)):
        for m in range(right.shape[1]):
            if choices.additive and m > 0:
                continue  # other words would change what is left for this choice

            def loss(point: int, i: int = i, m: int = m) -> float:
                other = right[i].clone()
                other[m] = point
                goal = AssignmentGoal(
                    choices, other.view(1, -1, 1), stored[i : i + 1, None], rows[i : i + 1, None]
                )
                return float(goal(rows[None, i : i + 1]))

            points = range(choices.points.shape[1]) if choices.points.shape[1] <= 16 else range(0, 256, 5)
            own = loss(int(right[i, m]))
            assert all(own <= loss(point) + 1e-4 for point in points)


@pytest.mark.parametrize("loss_f", ["cossim", "mse"])
def test_gradients_to_a_target(loss_f: Any) -> None:
    goal = TargetGoal(unit_rows(6, 7).double().view(3, 2, 16), loss_f)
    descriptors = torch.randn(2, 3, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(goal, descriptors.requires_grad_())


@pytest.mark.parametrize("nprobe", [1, 3])
@pytest.mark.parametrize("idx_factory", FACTORIES)
def test_gradients_of_assignment(
    quantiser: Callable[[str], Quantiser], idx_factory: str, nprobe: int
) -> None:
    make = GoalMaker(quantiser(idx_factory), loss_f="assignment", temperature=0.3, anchor=2.0, nprobe=nprobe)
    goal = in_double(make(unit_rows(2, 8).split(1)))
    noise = torch.randn(3, 2, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    descriptors = unit_rows(2, 8).double() + 0.1 * noise
    assert torch.autograd.gradcheck(goal, descriptors.requires_grad_(), atol=1e-4, rtol=1e-3)


def in_double(goal: Goal) -> AssignmentGoal:
    assert isinstance(goal, AssignmentGoal)

    def double(value: Any) -> Any:
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

    steps = tuple(Step(*(double(part) for part in vars(step).values())) for step in goal.choices.steps)
    choices = replace(goal.choices, steps=steps, points=goal.choices.points.double())
    return replace(goal, choices=choices, targets=goal.targets.double(), rows=goal.rows.double())


def test_an_image_s_loss_does_not_depend_on_the_others(quantiser: Callable[[str], Quantiser]) -> None:
    make = GoalMaker(quantiser("IVF8,PQ4x4"), loss_f="assignment")
    rows = unit_rows(9, 9)
    views = torch.stack([rows, rows.roll(1, 1)])
    together = make(rows.split(1))(views)
    for i in (0, 4, 8):
        assert torch.equal(make([rows[i : i + 1]])(views[:, i : i + 1])[0], together[i])


def test_goals_are_drawn_to_what_the_index_stores(quantiser: Callable[[str], Quantiser]) -> None:
    made, rows = quantiser("IVF8,PQ4x4"), unit_rows(4, 10)
    stored = torch.from_numpy(made.stored(rows))
    alone = rows.split(1)
    assert torch.equal(GoalMaker(made)(alone).targets[:, 0], stored)
    assert torch.equal(GoalMaker(made, loss_f="assignment")(alone).targets[:, 0], stored)
    half = GoalMaker(made, target="ivf_cluster_half")(alone).targets
    assert torch.equal(half[:, 0], made.targets(rows, "ivf_cluster_half"))


def test_an_anchor_holds_images_and_copies_at_their_rows(quantiser: Callable[[str], Quantiser]) -> None:
    made, rows = quantiser("IVF8,PQ4x4"), unit_rows(2, 10)
    free, held = (GoalMaker(made, loss_f="assignment", anchor=w)(rows.split(1)) for w in (0.0, 3.0))
    at_home = rows.expand(3, 2, 16)
    torch.testing.assert_close(free(at_home), held(at_home))
    away = torch.stack([rows, rows.roll(1, 1), rows.roll(2, 1)])
    cosines = torch.cosine_similarity(away, rows, dim=-1)
    expected = 3 * ((1 - cosines[0]) + (1 - cosines[1:]).mean(dim=0))
    torch.testing.assert_close(held(away) - free(away), expected)


@pytest.mark.parametrize("loss_f", ["cossim", "mse", "assignment"])
def test_of_several_rows_the_nearest_counts(quantiser: Callable[[str], Quantiser], loss_f: Any) -> None:
    made, rows = quantiser("IVF8,PQ4x4"), unit_rows(6, 10)
    make, views = GoalMaker(made, loss_f=loss_f), rows[None, :2] + 0.05
    several = make([rows[[0, 2, 3]], rows[[1]]])
    assert several.targets.shape == (2, 3, 16)
    alone = [make([rows[[0]], rows[[1]]])(views), make([rows[[2]], rows[[1]]])(views)]
    loss = several(views)
    assert loss[0] <= min(alone[0][0], alone[1][0]) + 1e-6
    # the same row three times is that row
    torch.testing.assert_close(loss[1], alone[0][1])


def test_losses_that_do_not_suit_the_index_are_refused(quantiser: Callable[[str], Quantiser]) -> None:
    with pytest.raises(ConfigError, match=r"mse.*cossim"):
        GoalMaker(quantiser("PCA8,LSH"), loss_f="mse")
    with pytest.raises(FaissIndexError, match="makes no choices"):
        GoalMaker(quantiser("Flat"), loss_f="assignment")
