"""A page in the report's form: tables, figures, and copies that one rival finds and another loses."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from rivals.base import Bench, Rival

from aindex.edits.named import Attack
from aindex.evaluation.blocks import Chart, Section
from aindex.evaluation.figures import svg_data_uri
from aindex.evaluation.html_report import Card, Page, Picture, Verdict, picture
from aindex.evaluation.run_files import write_text
from aindex.evaluation.table import Table

from .figures import LABELS, Record, figure_of
from .scores import losses_between
from .tables import average_table, edit_table
from .trial import Tried, edited

_SIDE = 320
_AVERAGES = (
    "The same pictures and edits for all. R@1: the first answer is right, average of fourteen default edits and of "
    "those that no loop is trained against. R at 10⁻³: the answer is right and surer than those for all but one in a "
    "thousand pictures that match nothing. Times are of one core."
)
_CARDS = (
    "Copies that one finds and the other loses: in each pair of rivals and direction those edits with which it happens "
    "most often, and that were not shown yet. Each shows the original, what both release, and both copies of that."
)

Pair = tuple[Rival, Tried]


def write_page(
    records: Sequence[Record],
    tried: Sequence[Pair],
    bench: Bench,
    attacks: Sequence[Attack],
    *,
    champion: str,
    each: int,
    folder: Path,
) -> Path:
    """rivals.html, and the pictures in it as files.

    Args:
        records: rows of the tables.
        tried: every rival with what it found.
        bench: names and originals of the pictures.
        attacks: the edits.
        champion: name of the rival that hashes and marks are compared with.
        each: copies to show of each pair of rivals and direction.
        folder: where they go.
    """
    makers = _Cards(bench, attacks, folder / "gallery")
    cards: list[Card] = []
    for own in [pair for pair in tried if pair[0].name == champion]:
        for other in [pair for pair in tried if pair[0].family in ("hash", "mark")]:
            cards += makers.of(own, other, each) + makers.of(other, own, each)
    charts = [
        Chart(svg_data_uri(figure_of(records, [key], legend=False)), f"R@1 against {label}")
        for key, label in LABELS.items()
    ]
    averages = Section(
        "Averages", _AVERAGES, charts=charts, tables=[_table(*average_table(records), first=1)]
    )
    names = "; ".join(f"{number} {one['name']}" for number, one in enumerate(records, 1))
    edits = Section(
        "R@1 under each edit", f"Columns: {names}.", tables=[_table(*edit_table(records), first=0)]
    )
    page = Page(
        title="What people would use instead",
        kind="rivals on the same bench",
        sections=[averages],
        numbers=edits,
        cards=cards,
        cards_text=_CARDS,
    )
    write_text(page.html(), folder / "rivals.html")
    return folder / "rivals.html"


def _table(header: list[str], lines: list[list[str]], *, first: int) -> Table:
    """A table of the page; `first` is the column of the rows' names, to which numbers before it are joined."""
    rows = [
        [
            " ".join(line[: first + 1]),
            *(_Cell(text, f"{line[first]}|results.json|{key}") for key, text in cells),
        ]
        for line in lines
        for cells in [list(zip(header[first + 1 :], line[first + 1 :], strict=True))]
    ]
    return Table(header[first:], rows, "results.json")


class _Cell(NamedTuple):
    """What the page shows as a number."""

    text: str
    key: str
    interval: None = None


class _Cards:
    """Makes the examples; pictures are written as files first, since the page takes them from there."""

    def __init__(self, bench: Bench, attacks: Sequence[Attack], folder: Path) -> None:
        self.bench, self.attacks, self.folder = bench, attacks, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.shown: Counter[int] = Counter()
        self.files = 0

    def of(self, loser: Pair, finder: Pair, each: int) -> list[Card]:
        """Where one loses what the other finds."""
        by_edit: dict[int, list[int]] = {}
        for number, attack in losses_between(loser[1].found, finder[1].found):
            by_edit.setdefault(attack, []).append(number)
        ordered = sorted(by_edit, key=lambda attack: (self.shown[attack], -len(by_edit[attack])))[:each]
        self.shown.update(ordered)
        return [self._card(loser, finder, by_edit[attack], attack) for attack in ordered]

    def _card(self, loser: Pair, finder: Pair, numbers: list[int], attack: int) -> Card:
        number = numbers[self.files % len(numbers)]  # not the same picture each time
        name, edit = self.bench.names[finder[1].rows[number]], self.attacks[attack]
        original = self._picture(self.bench.picture(finder[1].rows[number]), "original")
        released, copies = [], []
        for (rival, tried), text in ((finder, "found"), (loser, "not found")):
            picture_of = tried.released[number]
            if picture_of is None:
                continue
            if rival.released_as is not None:
                released.append(self._picture(picture_of, f"released by {rival.name}"))
            caption = f"{edit}, of {rival.name}".replace("_", " ")
            copies.append(self._picture(edited(picture_of, name, edit), caption, [Verdict(rival.name, text)]))
        both = min(len(loser[1].rows), len(finder[1].rows))
        what = f"{edit}: {finder[0].name} finds it, {loser[0].name} does not".replace("_", " ")
        return Card(
            f"{what} ({name}; so with {len(numbers)} of {both} pictures)", [original, *released], copies
        )

    def _picture(self, image: Image.Image, caption: str, verdicts: Sequence[Verdict] = ()) -> Picture:
        small = image.copy()
        small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        file = self.folder / f"{self.files:03d}.jpg"
        small.save(file, quality=90, subsampling=0)
        self.files += 1
        return picture(file, caption, verdicts)
