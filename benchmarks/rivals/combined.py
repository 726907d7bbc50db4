"""A mark and activation on the same picture, as a platform would use both."""

from typing import Literal

from PIL import Image

from .active import Active
from .base import Mark, Rival


class Combined(Rival):
    """The mark is written first, then the marked picture is activated; a copy is looked up by one of the two."""

    family = "both"

    def __init__(self, mark: Mark, active: Active, by: Literal["mark", "index"]) -> None:
        self.mark, self.active, self.by = mark, active, by
        self.released_as = f"{mark.name} and {active.name}"
        self.name = f"{self.released_as}: by {by}"
        self.slow = mark.slow
        self.finds_published = self.reader.finds_published
        self.stored_bytes = self.reader.stored_bytes
        self.scans = self.reader.scans

    @property
    def reader(self) -> Rival:
        return self.mark if self.by == "mark" else self.active

    def prepare(self, picture: Image.Image, row: int) -> Image.Image:
        return self.active.prepare(self.mark.prepare(picture, row), row)

    def identify(self, copy: Image.Image) -> tuple[int, float]:
        return self.reader.identify(copy)


class Either(Rival):
    """The answer of a mark that is sure of itself, else that of the index, from what both of them answered."""

    family = "both"
    sure = 30
    """Bits of 32 that must agree: by chance one of 4,000 identifiers does with 5 of 10,000 pictures."""

    def __init__(self, mark: Combined, index: Combined) -> None:
        self.parts = mark, index
        self.released_as = mark.released_as
        self.name = f"{self.released_as}: by either"
        self.stored_bytes = mark.stored_bytes + index.stored_bytes
        self.scans = mark.scans + index.scans
