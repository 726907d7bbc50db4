"""The extractor's resize as sparse matrices applied by hand, with its transpose for the gradient.

An antialiased bilinear resize is one small matrix per axis with a handful of weights in each row. Torch's own
kernels for it, backward above all, cost about as much as a small extractor; weighted sums of whole rows do not.
Rows are whole lines of memory if the axis to resize comes first, hence the layout W×C×H for full-size images:
resizing W and transposing gives H×R×C, resizing H gives R×R×C, which is what channels-last convolutions read.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_matrix(length: int, size: int) -> Tensor:
    """Weights of an antialiased bilinear resize along one axis, as `interpolate(antialias=True)` uses them.

    Output i averages the inputs around its centre with a triangle whose half width is one output pixel when
    shrinking and one input pixel when growing.

    Args:
        length: pixels of the axis before.
        size: pixels after.

    Returns:
        size×length float32, rows summing to 1.
    """
    scale = length / size
    half_width = max(scale, 1.0)
    centre = (torch.arange(size, dtype=torch.float64) + 0.5).unsqueeze(1) * scale
    reach = torch.arange(2 * math.ceil(half_width) + 1)
    source = (centre - half_width).floor().long() + reach  # size×few, the others weigh nothing
    weights = 1 - (source + 0.5 - centre).abs() / half_width
    weights = weights.clamp(min=0) * ((source >= 0) & (source < length))
    weights = (weights / weights.sum(dim=1, keepdim=True)).float()
    return torch.zeros(size, length).scatter_add_(1, source.clamp(0, length - 1), weights)


def favours_few_kernels(device: torch.device) -> bool:
    """Whether starting a kernel costs more than one image's work: not on a CPU."""
    return device.type != "cpu"


class RowMixer:
    """A non-negative matrix applied to the rows of a table, N×D → M×D.

    As weighted sums of rows on a CPU, where most weights are zero; as a matrix product elsewhere.
    """

    def __init__(self, matrix: Tensor, device: torch.device) -> None:
        self._dense = matrix.to(device) if favours_few_kernels(device) else None
        if self._dense is not None:
            return
        present = matrix > 0
        self._source = present.nonzero()[:, 1].contiguous()
        self._starts = F.pad(present.sum(dim=1).cumsum(0), (1, 0))[:-1]
        self._weights = matrix[present]

    def __call__(self, table: Tensor) -> Tensor:
        """Mix the rows of a table."""
        if self._dense is not None:
            return self._dense @ table
        return F.embedding_bag(
            self._source, table.contiguous(), self._starts, mode="sum", per_sample_weights=self._weights
        )

    def add(self, table: Tensor, addend: Tensor, weight: float, out: Tensor) -> None:
        """Write mixed rows + weight · addend to `out`, M×D."""
        if self._dense is not None:
            torch.addmm(addend, self._dense, table, beta=weight, out=out)
        else:
            torch.add(self(table), addend, alpha=weight, out=out)


def axis_mixers(length: int, size: int, device: torch.device) -> tuple[RowMixer, RowMixer]:
    """The resize of one axis and its transpose; kept, since photographs share a few sizes."""
    return (_whole_mixers if favours_few_kernels(device) else _sparse_mixers)(length, size, device)


def _mixers(length: int, size: int, device: torch.device) -> tuple[RowMixer, RowMixer]:
    matrix = resize_matrix(length, size).to(device)
    return RowMixer(matrix, device), RowMixer(matrix.T, device)


# whole matrices are megabytes each
_whole_mixers = lru_cache(maxsize=64)(_mixers)
_sparse_mixers = lru_cache(maxsize=1024)(_mixers)


class Resampler:
    """Resize of one image's planes, W×C×H → R×R×C, and its transpose.

    Args:
        height: H.
        width: W.
        size: R.
        device: of the planes.
    """

    def __init__(self, height: int, width: int, size: int, *, device: torch.device | str = "cpu") -> None:
        device = torch.device(device)
        self._height, self._width, self._size = height, width, size
        self._down, self._down_transposed = axis_mixers(height, size, device)
        self._across, self._across_transposed = axis_mixers(width, size, device)

    def add_resized(self, planes: Tensor, base: Tensor, out: Tensor) -> None:
        """Write base + resized planes to `out`, R×R×C both; planes W×C×H."""
        columns = self._across(planes.view(self._width, -1))  # R×CH
        columns = columns.view(-1, self._height).t()  # H×RC
        self._down.add(columns, base.view(self._size, -1), 1.0, out.view(self._size, -1))

    def add_transposed(self, gradient: Tensor, addend: Tensor, weight: float, out: Tensor) -> None:
        """Carry a gradient R×R×C back to the full size, and write it + weight · addend to `out`, W×C×H."""
        rows = self._down_transposed(gradient.view(self._size, -1))  # H×RC
        columns = rows.t().contiguous().view(self._size, -1)  # R×CH
        self._across_transposed.add(columns, addend.view(self._width, -1), weight, out.view(self._width, -1))


def enlarge(values: Tensor, height: int, width: int) -> Tensor:
    """R×R×C → C×H×W, bilinear, antialiased where an axis shrinks."""
    planes = values.permute(2, 0, 1).unsqueeze(0)
    return F.interpolate(planes, size=(height, width), mode="bilinear", antialias=True).squeeze(0)
