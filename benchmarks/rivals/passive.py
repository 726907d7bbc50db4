"""The extractor that comes with aindex, on pictures that stay as they are: every row compared, or cells of an index."""

from .base import Bench, Described, Scan


class Exhaustive(Described):
    """Every descriptor is kept as it is and compared: what a descriptor can do at most."""

    name = "exhaustive search"

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench, bench.exhaustive)
        self.stored_bytes = 4 * bench.exhaustive.dim
        self.scans = (Scan("floats", bench.exhaustive.dim),)


class Passive(Described):
    """The approximate index; more cells are looked into at a larger nprobe."""

    stored_bytes = 16  # 8 of the code, 8 of the id

    def __init__(self, bench: Bench, nprobe: int) -> None:
        super().__init__(bench, bench.quantised, nprobe)
        self.name = f"IVF-PQ, passive, nprobe {nprobe}"
        self.scans = (Scan("cells", bench.quantised.dim, nprobe),)
