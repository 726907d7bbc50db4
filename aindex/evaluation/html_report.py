"""`report.html` of a run: one file with its tables, charts and pictures, that needs no network."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pandas as pd
from PIL import Image

from aindex.evaluation.blocks import Section
from aindex.evaluation.cost_section import cost_section
from aindex.evaluation.examples import Example, ExampleCopy, read_examples
from aindex.evaluation.index_section import index_section
from aindex.evaluation.measures import Number
from aindex.evaluation.retrieval import attack_label, attack_labels
from aindex.evaluation.run_files import ASSETS_FOLDER, REPORT_FILE, Results, Run, read_run, write_text
from aindex.evaluation.sections import (
    copy_detection_section,
    numbers_section,
    quality_section,
    retrieval_section,
)
from aindex.evaluation.summary import Series, summaries

ACTIVE = "active"
PASSIVE = "passive"
_SECTIONS = (retrieval_section, cost_section, copy_detection_section, quality_section, index_section)
_CARDS_TEXT = (
    "Each image before and after activation, the change amplified around grey, the map of where a change is least "
    "visible (bright), and edited copies of the released image with the place of the original among the answers."
)
_PASSIVE_TEXT = " Passive is the same edit of the original image."


@dataclass(frozen=True)
class Picture:
    """A picture inside the page: address with the data in it, size in pixels, words below it."""

    uri: str
    width: int
    height: int
    caption: str


@dataclass(frozen=True)
class Verdict:
    """Whether a copy was found, by one series."""

    label: str
    text: str
    kind: str
    key: str


@dataclass(frozen=True)
class CopyPicture:
    """An edited copy, and who found it."""

    picture: Picture
    verdicts: Sequence[Verdict]


@dataclass(frozen=True)
class Card:
    """An example image."""

    name: str
    pictures: Sequence[Picture]
    copies: Sequence[CopyPicture] = ()


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
    cards = [
        _card(example, series) for example in read_examples(run.folder / ASSETS_FOLDER)[: max(examples, 0)]
    ]
    html = render_page(
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
    write_text(html, run.folder / REPORT_FILE)
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


def picture(path: Path, caption: str) -> Picture:
    """A stored JPEG or PNG file as a picture inside the page."""
    with Image.open(path) as image:
        width, height = image.size
        kind = (image.format or "JPEG").lower()
    data = base64.b64encode(path.read_bytes()).decode()
    return Picture(f"data:image/{kind};base64,{data}", width, height, caption)


def example_pictures(example: Example, *, released: str = "released") -> list[Picture]:
    """Released image, difference and heatmap (the original is left to the caller)."""
    pictures = [
        picture(example.released, released),
        picture(example.difference, f"difference × {example.amplification:g}"),
    ]
    return pictures + ([picture(example.heatmap, "heatmap")] if example.heatmap else [])


def _card(example: Example, series: Series) -> Card:
    ranks = {label: _ranks(results.retrieval, example.image_index) for label, results in series.items()}
    return Card(
        example.name,
        [picture(example.original, "original"), *example_pictures(example)],
        [_copy(copy, example.image_index, ranks) for copy in example.copies],
    )


def _ranks(retrieval: pd.DataFrame, image_index: int) -> dict[str, tuple[int, bool]]:
    """Per edit the rank of an image's copy, and whether it was found at all."""
    rows = retrieval[retrieval["image_index"] == image_index]
    found = zip(attack_labels(rows), rows["rank"], rows["ap"] > 0, strict=True)
    return {label: (int(rank), bool(hit)) for label, rank, hit in found}


def _copy(
    copy: ExampleCopy, image_index: int, ranks: Mapping[str, dict[str, tuple[int, bool]]]
) -> CopyPicture:
    attack = attack_label(copy.attack, copy.attack_param)
    verdicts = []
    for label, known in ranks.items():
        if attack in known:
            text, kind = _verdict(*known[attack])
            verdicts.append(Verdict(label, text, kind, f"{label}|retr_df.csv|{image_index} {attack}|rank"))
    return CopyPicture(picture(copy.file, attack.replace("_", " ")), verdicts)


def _verdict(rank: int, hit: bool) -> tuple[str, str]:
    """The verdict in words, and its class on the page."""
    text = "found" if rank == 0 else f"place {rank + 1}" if hit else "not found"
    return text, "found" if rank == 0 else "near" if hit else "lost"


def verdicts_of(retrieval: pd.DataFrame, image_index: int) -> dict[str, str]:
    """The verdict on each copy of an image, by the edit's label: `found`, `place 3`, `not found`.

    Args:
        retrieval: rows of `retr_df.csv`.
        image_index: the image's id in the index.
    """
    return {attack: _verdict(*known)[0] for attack, known in _ranks(retrieval, image_index).items()}


def report_sections(series: Series) -> list[Section]:
    """The sections of a report that are not empty, without that of all numbers."""
    sections = [make(series) for make in _SECTIONS]
    return [section for section in sections if section.tables or section.charts]


def render_page(
    *,
    title: str,
    kind: str,
    sections: Sequence[Section],
    numbers: Section,
    facts: Mapping[str, str] = MappingProxyType({}),
    tiles: Sequence[tuple[Number, Number | None]] = (),
    cards: Sequence[Card] = (),
    cards_text: str = "",
    configs: Sequence[tuple[str, str]] = (),
) -> str:
    """A page in the form of the report: `sections`, the examples, `numbers`; everything in it is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    loader = PackageLoader("aindex.evaluation", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    style = Markup(loader.get_source(environment, "report.css")[0])
    page = environment.get_template("report.html.j2")
    return page.render(
        title=title,
        kind=kind,
        style=style,
        facts=facts,
        tiles=tiles,
        sections=sections,
        numbers=numbers,
        cards=cards,
        cards_text=cards_text,
        configs=configs,
    )
