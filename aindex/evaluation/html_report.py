"""`report.html` of a run: one file with its tables, charts and pictures, that needs no network."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from PIL import Image

from aindex.evaluation.blocks import Section
from aindex.evaluation.examples import Example, read_examples
from aindex.evaluation.measures import Number
from aindex.evaluation.retrieval import attack_labels
from aindex.evaluation.run_files import REPORT_FILE, Results, Run, read_run, write_text
from aindex.evaluation.sections import numbers_section, report_sections
from aindex.evaluation.summary import Series, summaries

ACTIVE = "active"
PASSIVE = "passive"
_CARDS_TEXT = (
    "Each image before and after activation, the change amplified around grey, the map of where a change is least "
    "visible (bright), and edited copies of the released image with the place of the original among the answers."
)
_PASSIVE_TEXT = " Passive is the same edit of the original image."


@dataclass(frozen=True)
class Verdict:
    """Whether a copy was found, by one series: `found`, `place 3`, `not found`."""

    label: str
    text: str
    key: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture inside the page: address with the data in it, pixels, words below it; of a copy, who found it."""

    uri: str
    width: int
    height: int
    caption: str
    verdicts: Sequence[Verdict] = ()


@dataclass(frozen=True)
class Card:
    """An example image, and edited copies of it."""

    name: str
    pictures: Sequence[Picture]
    copies: Sequence[Picture] = ()


@dataclass(frozen=True)
class Page:
    """A page in the form of the report: `sections`, the examples, `numbers`."""

    title: str
    kind: str
    sections: Sequence[Section]
    numbers: Section
    facts: Mapping[str, str] = field(default_factory=dict)
    tiles: Sequence[tuple[Number, Number | None]] = ()
    cards: Sequence[Card] = ()
    cards_text: str = ""
    configs: Sequence[tuple[str, str]] = ()

    def html(self) -> str:
        """The page as text; everything in it is escaped."""
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup

        loader = PackageLoader("aindex.evaluation", "templates")
        environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
        style = Markup(loader.get_source(environment, "report.css")[0])
        return environment.get_template("report.html.j2").render(style=style, **vars(self))


def write_report(run_folder: Path | str, *, examples: int = 12) -> Path:
    """Write `report.html` into a finished run's folder, from the files that lie there.

    Args:
        run_folder: holds at least `retr_df.csv`; what else lies there is shown too.
        examples: how many of the stored examples to show.

    Returns:
        The path of the report; an older one is replaced.

    Raises:
        DataError: it is no folder of a finished run, or a file in it is damaged.
        OutputError: the report cannot be written.
    """
    run = read_run(run_folder)
    series = run_series(run)
    cards = [_card(example, series) for example in read_examples(run.assets)[: max(examples, 0)]]
    page = Page(
        title=run.label,
        kind="report of a run",
        facts=facts(run),
        tiles=tiles(series),
        sections=report_sections(series),
        numbers=numbers_section(series),
        cards=cards,
        cards_text=_CARDS_TEXT + (_PASSIVE_TEXT if PASSIVE in series and len(series) > 1 else ""),
        configs=[("config.yaml", run.config)] if run.config else [],
    )
    write_text(page.html(), run.folder / REPORT_FILE)
    return run.folder / REPORT_FILE


def run_series(run: Run) -> dict[str, Results]:
    """The results to set side by side: passive where known, then active; a run that changed nothing is passive."""
    images = run.results.images
    unchanged = images is not None and len(images) > 0 and bool((images["linf"] == 0).all())
    if run.passive is None:
        return {PASSIVE if unchanged else ACTIVE: run.results}
    return {PASSIVE: run.passive, ACTIVE: run.results}


def facts(run: Run) -> dict[str, str]:
    """The head of the page: what was evaluated, the index, the command, the time."""
    results = run.results
    found = {"pictures": f"{results.retrieval['image_index'].nunique():,}"}
    if results.copy_detection is not None:
        found["queries that match nothing"] = f"{(results.copy_detection['image_index'] < 0).sum():,}"
    if results.index is not None:
        index = results.index.iloc[0]
        parts = [f"{index['idx_factory']}", f"{index['metric']}", f"{index['pictures']:,.0f} pictures"]
        parts += [f"{index['rows']:,.0f} rows"] if index["rows"] != index["pictures"] else []
        parts += [] if pd.isna(index["cells"]) else [f"nprobe {index['nprobe']:.0f}"]
        found |= {"index": ", ".join(parts), "extractor": str(index["extractor"])}
    return {**found, **run.provenance}


def tiles(series: Series) -> list[tuple[Number, Number | None]]:
    """The numbers at the top: those of the last series, beside the passive ones."""
    known = summaries(series)
    label = list(known)[-1]
    passive = known.get(PASSIVE, {}) if label != PASSIVE else {}
    return [(number, passive.get(key)) for key, number in known[label].items() if number.measure.is_tile]


def picture(path: Path, caption: str, verdicts: Sequence[Verdict] = ()) -> Picture:
    """A stored JPEG or PNG file as a picture inside the page."""
    with Image.open(path) as image:
        width, height = image.size
        kind = (image.format or "JPEG").lower()
    data = base64.b64encode(path.read_bytes()).decode()
    return Picture(f"data:image/{kind};base64,{data}", width, height, caption, verdicts)


def _card(example: Example, series: Series) -> Card:
    i = example.image_index
    known = {label: verdicts_of(results.retrieval, i) for label, results in series.items()}
    copies = []
    for attack, path in example.copies.items():
        verdicts = [
            Verdict(label, found[attack], f"{label}|retr_df.csv|{i} {attack}|rank")
            for label, found in known.items()
            if attack in found
        ]
        copies.append(picture(path, attack.replace("_", " "), verdicts))
    return Card(
        example.name,
        [picture(path, example.caption(shown)) for shown, path in example.pictures.items()],
        copies,
    )


def verdicts_of(retrieval: pd.DataFrame, image_index: int) -> dict[str, str]:
    """The verdict on each copy of an image, by the edit's label: `found`, `place 3`, `not found`.

    Args:
        retrieval: rows of `retr_df.csv`.
        image_index: the image's id in the index.
    """
    rows = retrieval[retrieval["image_index"] == image_index]
    return {
        attack: "found" if rank == 0 else f"place {rank + 1}" if ap > 0 else "not found"
        for attack, rank, ap in zip(attack_labels(rows), rows["rank"], rows["ap"], strict=True)
    }
