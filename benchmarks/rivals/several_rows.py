"""aindex with several rows for each picture that is released, in the cells that simulated edits of it fall into."""

import numpy as np
import numpy.typing as npt

from aindex.activation.presets import Effort
from aindex.descriptors.simulated import simulated_copies
from aindex.index.row_choice import choose_rows

from .active import Active
from .base import Bench, Scan


class SeveralRows(Active):
    """Pictures that were published before keep the one row that they have."""

    def __init__(self, bench: Bench, effort: Effort, count: int) -> None:
        super().__init__(bench, effort)
        self.count = count
        self.name = self.released_as = f"aindex {effort}, {count} rows"
        own = {row: self.rows_of(row) for row in bench.released}
        rows = [own.get(row, bench.references[row : row + 1]) for row in range(len(bench.names))]
        self.index = bench.quantised.empty_copy()
        self.index.add(np.concatenate(rows), bench.names, [len(some) for some in rows])
        each = sum(map(len, own.values())) / len(own)
        self.stored_bytes = round(self.stored_bytes * each) + 1  # and whose rows they are
        self.scans = (Scan("cells", bench.quantised.dim, self.nprobe or 1, times=count),)

    def rows_of(self, row: int) -> npt.NDArray[np.float32]:
        name, path = self.bench.names[row], self.bench.paths[row]
        (copies,) = simulated_copies([path], [name], self.bench.extractor, seed=self.bench.seed)
        return choose_rows(self.bench.references[row], copies, self.bench.quantised.quantiser, self.count)
