"""The loop's pixel arithmetic on a CPU, compiled: all that is done to a row of a picture, while it is in the cache.

Written with torch, an iteration is some thirty passes over the full-size picture; here it is one. Pictures lie row by
row, H×3×W, so that a row's three planes are contiguous. All runs without Python's lock, each band of rows by itself.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from aindex.activation.resampling import Taps
from aindex.compiling import compiled, part

Floats = npt.NDArray[np.float32]


# Python's numbers are float64 and would widen all arithmetic
_ZERO, _ONE, _WHITE = np.float32(0), np.float32(1), np.float32(255)

# tanh x = x P(x²)/Q(x²) on |x| ≤ 8, fitted by least squares of the absolute error: 6e-9, beyond float32's own
_TANH_LIMIT = np.float32(8)
_P = tuple(map(np.float32, (9.99999967e-01, 1.34359384e-01, 3.56147020e-03, 2.17282839e-05, 1.49970380e-08)))
_Q = tuple(map(np.float32, (1.00000000e00, 4.67692583e-01, 2.61258278e-02, 3.39475920e-04, 8.42774147e-07)))


class Plan(NamedTuple):
    """Where the rows and columns of a picture go when it is resized to the extractor's input.

    Attributes:
        rows: of each row of the picture, the rows of the input that it is part of.
        first_row: of each row of the input, the first row of the picture in it, R.
        last_row: and the one after the last.
        columns_in: of each column of the picture, the columns of the input that it is part of.
        columns_out: of each column of the input, the columns of the picture in it.
        depth: most rows of the input that one row of the picture is part of.
    """

    rows: Taps
    first_row: npt.NDArray[np.int32]
    last_row: npt.NDArray[np.int32]
    columns_in: Taps
    columns_out: Taps
    depth: int


class Planes(NamedTuple):
    """One picture's numbers, views of its batch's.

    Attributes:
        delta: δ, H×3×W.
        heat: heatmap, H×W.
        mean: Adam's mean of gradients, H×3×W; 0×3×W where no Adam steps here, and so is
        square: the mean of their squares.
        grad: gradient of δ, H×3×W; 0×3×W where it is not kept.
        base: the resized picture, R×R×3.
        low: the resized changed picture, R×R×3.
        pull: gradient of the feature loss with respect to `low`, R×R×3.
    """

    delta: Floats
    heat: Floats
    mean: Floats
    square: Floats
    grad: Floats
    base: Floats
    low: Floats
    pull: Floats


class Shape(NamedTuple):
    """How δ becomes the change of the picture, and what that costs.

    Attributes:
        alpha: of R, G, B.
        use_tanh: bound δ by tanh.
        penalty: derivative of the image loss with respect to a change of 1.
    """

    alpha: Floats
    use_tanh: bool
    penalty: np.float32


class AdamStep(NamedTuple):
    """One step of Adam (Kingma and Ba, 2015), in the form m += c₁(g − m), v += c₂(g² − v), δ −= s·m / (r·√v + ε).

    Attributes:
        mean_share: c₁ = 1 − β₁.
        square_share: c₂ = 1 − β₂.
        size: s = lr / (1 − β₁ᵗ).
        root: r = 1 / √(1 − β₂ᵗ).
        eps: ε.
    """

    mean_share: np.float32
    square_share: np.float32
    size: np.float32
    root: np.float32
    eps: np.float32


@compiled
def tanh(x: np.float32) -> np.float32:
    """Hyperbolic tangent to 4e-7, in arithmetic that vectorises."""
    x = min(max(x, -_TANH_LIMIT), _TANH_LIMIT)
    y = x * x
    top = (((_P[4] * y + _P[3]) * y + _P[2]) * y + _P[1]) * y + _P[0]
    bottom = (((_Q[4] * y + _Q[3]) * y + _Q[2]) * y + _Q[1]) * y + _Q[0]
    return min(max(x * top / bottom, -_ONE), _ONE)


@part
def _change_row(delta: Floats, heat: Floats, alpha: np.float32, use_tanh: bool, out: Floats) -> np.float32:
    """Change of one plane of a row; returns the sum of its squares."""
    total = _ZERO
    if use_tanh:
        for w in range(len(out)):
            change = alpha * heat[w] * tanh(delta[w])
            out[w] = change
            total += change * change
    else:
        for w in range(len(out)):
            change = alpha * heat[w] * delta[w]
            out[w] = change
            total += change * change
    return total


@part
def _gradient_row(
    delta: Floats, heat: Floats, alpha: np.float32, penalty: np.float32, use_tanh: bool, grad: Floats
) -> None:
    """Gradient with respect to the changed picture → gradient with respect to δ, in place."""
    if use_tanh:
        for w in range(len(grad)):
            gain = alpha * heat[w]
            bounded = tanh(delta[w])
            grad[w] = (grad[w] + penalty * gain * bounded) * gain * (_ONE - bounded * bounded)
    else:
        for w in range(len(grad)):
            gain = alpha * heat[w]
            grad[w] = (grad[w] + penalty * gain * delta[w]) * gain


@part
def _adam_row(delta: Floats, mean: Floats, square: Floats, grad: Floats, adam: AdamStep) -> None:
    c1, c2, size, root, eps = adam
    for w in range(len(grad)):
        m = mean[w] + c1 * (grad[w] - mean[w])
        v = square[w] + c2 * (grad[w] * grad[w] - square[w])
        mean[w] = m
        square[w] = v
        delta[w] -= size * m / (root * math.sqrt(v) + eps)


@part
def _put(out: Floats, weight: np.float32, row: Floats) -> None:
    for k in range(len(out)):
        out[k] = weight * row[k]


@part
def _add(out: Floats, weight: np.float32, row: Floats) -> None:
    for k in range(len(out)):
        out[k] += weight * row[k]


@part
def _widen(pull: Floats, columns: Taps, out: Floats) -> None:
    """Transposed resize of one row, R×3 → 3×W."""
    for w in range(out.shape[1]):
        red, green, blue = _ZERO, _ZERO, _ZERO
        first = columns.first[w]
        for k in range(columns.weights.shape[1]):
            weight = columns.weights[w, k]
            red += weight * pull[first + k, 0]
            green += weight * pull[first + k, 1]
            blue += weight * pull[first + k, 2]
        out[0, w], out[1, w], out[2, w] = red, green, blue


@part
def _narrow(row: Floats, columns: Taps, base: Floats, low: Floats) -> None:
    """Resize of one row, 3×W → R×3, on top of the base's."""
    for j in range(low.shape[0]):
        red, green, blue = base[j, 0], base[j, 1], base[j, 2]
        first = columns.first[j]
        for k in range(columns.weights.shape[1]):
            weight = columns.weights[j, k]
            red += weight * row[0, first + k]
            green += weight * row[1, first + k]
            blue += weight * row[2, first + k]
        low[j, 0], low[j, 1], low[j, 2] = red, green, blue


@compiled
def sweep(
    begin: int,
    end: int,
    planes: Planes,
    plan: Plan,
    shape: Shape,
    adam: AdamStep,
    backward: bool,
    step: bool,
    forward: bool,
    edges: Floats,
    edge: int,
) -> float:
    """Treat rows `begin` to `end` of a picture: gradient and step at the present δ, then the input at the new one.

    Args:
        begin: first row.
        end: the one after the last.
        planes: the picture's numbers.
        plan: of its resize.
        shape: of the change.
        adam: what to take a step with.
        backward: compute the gradient from `planes.pull`.
        step: take a step with it; else it is left in `planes.grad`.
        forward: compute `planes.low`.
        edges: n×3×W, takes what these rows contribute to rows of the input that others contribute to as well, one
            after the other from
        edge: this number on.

    Returns:
        The sum of the squared changes, if `forward`.
    """
    width = planes.delta.shape[2]
    pulled = np.empty((plan.depth, 3, width), np.float32)  # rows of the input, widened
    summed = np.empty((plan.depth, 3, width), np.float32)  # rows of the input, not yet narrowed
    kept = np.empty((3, width), np.float32)
    change = np.empty((3, width), np.float32)
    total = 0.0
    done = entered = np.int64(plan.rows.first[begin])
    for h in range(begin, end):
        first, count = np.int64(plan.rows.first[h]), plan.rows.counts[h]
        weights = plan.rows.weights[h]
        if forward:
            edge = _finish(done, first, begin, end, summed, planes, plan, edges, edge)
        done = first
        while entered < first + count:
            if backward:
                _widen(planes.pull[entered], plan.columns_in, pulled[entered % plan.depth])
            summed[entered % plan.depth] = _ZERO
            entered += 1
        for c in range(3):
            if backward:
                grad = kept[c] if step else planes.grad[h, c]
                _put(grad, weights[0], pulled[first % plan.depth, c])
                for k in range(1, count):
                    _add(grad, weights[k], pulled[(first + k) % plan.depth, c])
                _gradient_row(
                    planes.delta[h, c], planes.heat[h], shape.alpha[c], shape.penalty, shape.use_tanh, grad
                )
                if step:
                    _adam_row(planes.delta[h, c], planes.mean[h, c], planes.square[h, c], grad, adam)
            if forward:
                total += float(
                    _change_row(planes.delta[h, c], planes.heat[h], shape.alpha[c], shape.use_tanh, change[c])
                )
                for k in range(count):
                    _add(summed[(first + k) % plan.depth, c], weights[k], change[c])
    if forward:
        _finish(done, entered, begin, end, summed, planes, plan, edges, edge)
    return total


@part
def _finish(
    done: np.int64,
    first: np.int64,
    begin: int,
    end: int,
    summed: Floats,
    planes: Planes,
    plan: Plan,
    edges: Floats,
    edge: int,
) -> int:
    """Narrow rows of the input that are complete; keep those to which rows of other bands contribute, too."""
    for i in range(done, first):
        if plan.first_row[i] >= begin and plan.last_row[i] <= end:
            _narrow(summed[i % plan.depth], plan.columns_out, planes.base[i], planes.low[i])
        else:
            for c in range(3):  # assigning arrays would cost three seconds of compilation
                _put(edges[edge, c], _ONE, summed[i % plan.depth, c])
            edge += 1
    return edge


@compiled
def join_edges(
    rows: npt.NDArray[np.int32],
    starts: npt.NDArray[np.int32],
    numbers: npt.NDArray[np.int32],
    edges: Floats,
    planes: Planes,
    plan: Plan,
) -> None:
    """Rows of the input that several bands contributed to.

    Args:
        rows: which, n.
        starts: where each one's contributions begin in `numbers`, n + 1.
        numbers: of the contributions in `edges`, band by band.
        edges: what `sweep` kept.
        planes: the picture's numbers.
        plan: of its resize.
    """
    for n in range(len(rows)):
        row = edges[numbers[starts[n]]]
        for k in range(starts[n] + 1, starts[n + 1]):
            for c in range(3):
                _add(row[c], _ONE, edges[numbers[k], c])
        _narrow(row, plan.columns_out, planes.base[rows[n]], planes.low[rows[n]])


@compiled
def render(
    bounded: Floats,
    heat: Floats,
    scale: Floats,
    use_tanh: bool,
    image: npt.NDArray[np.uint8],
    out: npt.NDArray[np.uint8],
) -> None:
    """Released pixels, H×W×3: the image and its change, rounded to even and clamped.

    Args:
        bounded: tanh δ, or δ with `use_tanh`, H×3×W.
        heat: H×W.
        scale: of R, G, B, in grey levels.
        use_tanh: take the tanh of `bounded`.
        image: 3×H×W.
        out: H×W×3, written.
    """
    height, _, width = bounded.shape
    row = np.empty(width, np.float32)
    for h in range(height):
        for c in range(3):
            for w in range(width):
                value = tanh(bounded[h, c, w]) if use_tanh else bounded[h, c, w]
                row[w] = np.rint(np.float32(image[c, h, w]) + scale[c] * heat[h, w] * value)
            for w in range(width):
                out[h, w, c] = np.uint8(min(max(row[w], _ZERO), _WHITE))
