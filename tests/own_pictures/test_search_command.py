"""`aindex search`, `aindex calibrate`, and their forms in Python."""

import base64
import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from aindex.cli import main
from aindex.collection.building import add_to_index
from aindex.collection.equipment import visited_cells
from aindex.descriptors.extraction import ExtractionSettings
from aindex.errors import ConfigError, DataError, FaissIndexError
from aindex.index.reference_index import ReferenceIndex
from aindex.matching.calibrating import calibrate, find_threshold
from aindex.matching.matches import NO_ROWS
from aindex.matching.page import find_picture, write_page
from aindex.matching.searching import _table, search
from aindex.matching.threshold import NO_THRESHOLD, normalised_scores
from tests.conftest import contrast, draw_picture

MACHINE = ["--device", "cpu", "--precision", "fp32", "--num_workers", "0"]


def test_pictures_find_their_own_rows(tmp_path: Path, tiny_index: Path, quiet: ExtractionSettings) -> None:
    found = search(tiny_index, tmp_path / "references", k=3, nprobe=4, settings=quiet)
    assert found.table.columns.tolist() == ["query", "rank", "name", "row", "distance", "score", "match"]
    assert [Path(query).name for query in found.best["query"]] == found.best["name"].tolist()
    assert found.best["row"].tolist() == list(range(12))
    assert len(found.table) == 36
    assert found.table["match"].isna().all()
    # the score is how much nearer a row is than the next
    first = found.table[found.table["query"] == found.queries[0]]
    steps = first["distance"].diff().iloc[1:].tolist()
    assert first["score"].iloc[:2].tolist() == pytest.approx(steps)
    opened = ReferenceIndex.open(tiny_index)
    assert search(opened, tmp_path / "references", k=3, nprobe=4, settings=quiet).table.equals(found.table)


def test_pil_pictures_and_files_together(tmp_path: Path, tiny_index: Path, quiet: ExtractionSettings) -> None:
    paths = sorted((tmp_path / "references").iterdir())[:2]
    with Image.open(paths[1]) as image:
        image.load()
        pixels = image.copy()
    found = search(tiny_index, [paths[0], pixels], k=1, nprobe=4, settings=quiet)
    assert found.best["row"].tolist() == [0, 1]
    assert found.queries == [paths[0].as_posix(), "picture 0"]
    assert found.files == [paths[0], None]


def test_threshold_and_verdict(tmp_path: Path, tiny_index: Path, quiet: ExtractionSettings) -> None:
    free = search(tiny_index, tmp_path / "references", k=1, nprobe=4, settings=quiet)
    middle = float(free.table["distance"].median())
    found = search(tiny_index, tmp_path / "references", k=1, nprobe=4, threshold=middle, settings=quiet)
    assert found.table["match"].tolist() == (free.table["distance"] <= middle).tolist()
    assert "with a match (threshold" in found.summary()


def test_calibration_is_kept_and_holds(tmp_path: Path, tiny_index: Path, quiet: ExtractionSettings) -> None:
    for score in ("distance", "normalised"):
        found = calibrate(
            tiny_index, tmp_path / "train", false_positive_rate=0.1, score=score, nprobe=4, settings=quiet
        )
        assert found.false_positive_rate <= 0.1
        assert found.pictures == 40
        # however many answers are judged
        matches = search(tiny_index, tmp_path / "train", k=8, nprobe=4, settings=quiet)
        taken = matches.table[matches.table["match"]]["query"].nunique()
        assert taken == round(found.false_positive_rate * 40)
        assert taken >= 3
    stored = ReferenceIndex.open(tiny_index).calibration
    assert stored is not None
    assert stored["score"] == "normalised"
    assert stored["nprobe"] == 4
    # a verdict is for the number of cells that it was calibrated with
    other = search(tiny_index, tmp_path / "train", k=2, nprobe=2, settings=quiet)
    assert other.table["match"].isna().all()
    assert "calibrated with nprobe 4, the search visits 2" in other.summary()
    # adding rows keeps it
    add_to_index(tiny_index, tmp_path / "references", prefix="again/", settings=quiet)
    assert ReferenceIndex.open(tiny_index).calibration == stored


def test_threshold_by_hand() -> None:
    closeness = -np.arange(1, 101, dtype=np.float32)  # distances 1 … 100
    threshold, rate = find_threshold(closeness, 0.05)
    assert -6 < threshold <= -5
    assert rate == 0.05
    assert find_threshold(np.r_[closeness, closeness], 0.005)[1] == 0.0  # ties are not split
    with pytest.raises(
        DataError, match=r"100 non-matching pictures cannot tell a false_positive_rate of 0.001"
    ):
        find_threshold(closeness, 0.001)
    with pytest.raises(ConfigError, match=r"between 0 and 1"):
        find_threshold(closeness, 1.0)
    with pytest.raises(DataError, match="any neighbour"):
        find_threshold(np.full(100, -np.inf, np.float32), 0.05)


def test_normalised_scores_by_hand() -> None:
    distances = np.array([[1, 3, 4], [2, np.finfo(np.float32).max, np.finfo(np.float32).max]], np.float32)
    ids = np.array([[7, 8, 9], [7, -1, -1]])
    found = normalised_scores(distances, ids, larger_is_closer=False)
    np.testing.assert_array_equal(found, np.array([[2, 1, np.nan], [np.nan] * 3], np.float32))
    similar = normalised_scores(np.array([[0.9, 0.5]], np.float32), ids[:1, :2], larger_is_closer=True)
    assert similar[0, 0] == pytest.approx(0.4)


def test_wrong_requests(tmp_path: Path, tiny_index: Path, quiet: ExtractionSettings) -> None:
    with pytest.raises(FaissIndexError, match="k 13"):
        search(tiny_index, tmp_path / "references", k=13, settings=quiet)
    with pytest.raises(FaissIndexError, match="k 0"):
        search(tiny_index, tmp_path / "references", k=0, settings=quiet)
    with pytest.raises(DataError, match="no pictures are given"):
        search(tiny_index, [], settings=quiet)
    with pytest.raises(ConfigError, match="comes with aindex is not written to"):
        calibrate("shipped", tmp_path / "train")
    damaged = tiny_index / "index.yaml"
    damaged.write_text(damaged.read_text().replace("calibration: null", "calibration: {threshold: much}"))
    with pytest.raises(FaissIndexError, match=r"calibration .* is damaged"):
        search(tiny_index, tmp_path / "references", settings=quiet)


def test_command_line_forms(
    tmp_path: Path, tiny_index: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["--index", str(tiny_index), "--nprobe", "4", "--k", "2", *MACHINE]
    paths = [str(path) for path in sorted((tmp_path / "references").iterdir())[:3]]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")

    main(["search", *given, *paths, str(broken)])
    text = capsys.readouterr().out
    assert "R000002.png" in text
    assert "3 pictures searched; no verdict" in text
    assert "1 unreadable picture(s) skipped" in text

    main(["search", *given, "--format", "csv", *paths])
    told = capsys.readouterr()
    table = pd.read_csv(io.StringIO(told.out))
    assert len(table) == 6
    assert "3 pictures searched" in told.err

    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(paths) + "\n"))
    output = tmp_path / "out" / "found.jsonl"
    main(["search", *given, "--format", "jsonl", "--output", str(output), "-"])
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["query"] for line in lines] == paths
    assert (lines[1]["matches"][0]["row"], lines[1]["matches"][0]["match"]) == (1, None)

    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(SystemExit):
        main(["search", *given, "-"])
    assert "no pictures to search" in capsys.readouterr().err

    negatives = ["--negatives", str(tmp_path / "train"), "--false_positive_rate", "0.05"]
    main(
        [
            "calibrate",
            "--index",
            str(tiny_index),
            *negatives,
            "--nprobe",
            "4",
            "--progress",
            "false",
            *MACHINE,
        ]
    )
    assert "threshold" in capsys.readouterr().out
    main(["search", *given, *paths])
    assert "with a match" in capsys.readouterr().out


def test_every_query_has_a_record(
    tmp_path: Path, tiny_index: Path, quiet: ExtractionSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    good = sorted((tmp_path / "references").iterdir())[0]
    broken, absent = tmp_path / "broken.jpg", tmp_path / "absent.jpg"
    broken.write_bytes(b"no picture")
    given = ["search", "--index", str(tiny_index), "--nprobe", "4", "--k", "2", *MACHINE]
    main([*given, "--format", "jsonl", str(broken), str(good), str(absent)])
    records = {line["query"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert set(records) == {str(good), str(broken), str(absent)}
    assert "error" not in records[str(good)]
    assert len(records[str(good)]["matches"]) == 2
    assert records[str(broken)]["matches"] == []
    assert "no picture of a known format" in records[str(broken)]["error"]
    assert "No such file" in records[str(absent)]["error"]

    main([*given, "--format", "csv", str(broken), str(good), str(absent)])
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert table["query"].tolist() == [str(good)] * 2 + [str(broken), str(absent)]
    assert table["error"].isna().tolist() == [True, True, False, False]
    assert table["name"].isna().tolist() == [False, False, True, True]

    # none can be read: the records come all the same, and the command fails
    with pytest.raises(SystemExit) as stopped:
        main([*given, "--format", "jsonl", str(broken)])
    assert stopped.value.code == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["query"] == str(broken)
    assert "aindex: error: none of the 1 pictures can be read" in told.err
    for format in ("csv", "table"):
        with pytest.raises(SystemExit):
            main([*given, "--format", format, str(broken)])
        told = capsys.readouterr()
        assert str(broken) in told.out + told.err
        assert "aindex: error: none of the 1 pictures can be read" in told.err


def test_a_query_without_a_row_in_its_cells_has_a_record(
    tmp_path: Path, tiny_index: Path, quiet: ExtractionSettings
) -> None:
    found = search(tiny_index, tmp_path / "references", k=1, nprobe=1, settings=quiet)
    alone = replace(found, table=found.table.iloc[1:])  # as if the first one's cell were empty
    assert alone.without_rows == [found.queries[0]]
    records = [json.loads(line) for line in alone.to_jsonl().splitlines()]
    assert len(records) == 12
    assert "larger nprobe" in records[-1]["error"]
    assert "larger nprobe" in pd.read_csv(io.StringIO(alone.to_csv()))["error"].iloc[-1]

    nothing = np.full((1, 2), -1)
    table = _table(
        ["a.png"], nothing.astype(np.float32), nothing, 1, ReferenceIndex.open(tiny_index), NO_THRESHOLD
    )
    empty = replace(found, table=table, queries=["a.png"])
    assert not table["name"].str.startswith("a").any()
    assert "larger nprobe" in pd.read_csv(io.StringIO(empty.to_csv()))["error"].iloc[0]


def test_a_pil_picture_is_found_as_its_file_is(
    tmp_path: Path, tiny_index: Path, quiet: ExtractionSettings
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    draw_picture(5).save(tmp_path / "turned.jpg", exif=exif)
    grey = np.asarray(draw_picture(6).convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(grey / np.float32(255)).save(tmp_path / "float.tif")
    for name in ("turned.jpg", "deep.png", "float.tif"):
        queries = [tmp_path / name, Image.open(tmp_path / name)]
        found = search(tiny_index, queries, k=1, nprobe=4, settings=quiet)
        assert found.best["row"].nunique() == 1
        assert found.best["distance"].nunique() == 1
        assert len(found.queries) == len(set(found.queries)) == 2
    wrong = search(tiny_index, [Image.fromarray(grey.astype(np.int32)), draw_picture(1)], settings=quiet)
    assert wrong.queries == ["picture 1"]
    assert "which of them is white" in wrong.errors["picture 0"]


class Page(HTMLParser):
    """Collects what a browser would load or show."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[str] = []
        self.alts: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.images += [value or "" for name, value in attrs if tag == "img" and name == "src"]
        self.alts += [value or "" for name, value in attrs if tag == "img" and name == "alt"]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_is_self_contained_and_names_are_text(
    tmp_path: Path, tiny_index: Path, quiet: ExtractionSettings
) -> None:
    nasty = '<script>alert("x")<img src=x onerror=y>&"\'.png'
    folder = tmp_path / "nasty"
    folder.mkdir()
    draw_picture(7).save(folder / nasty)
    add_to_index(tiny_index, folder, settings=quiet)
    found = search(tiny_index, folder, k=3, nprobe=4, settings=quiet)
    write_page(found, tmp_path / "page.html", pictures=[tmp_path / "references", folder])
    text = (tmp_path / "page.html").read_text()
    page = Page()
    page.feed(text)
    # one script, and the page lets no other run
    assert page.tags.count("script") == 1
    script = text[text.index("<script>") + len("<script>") : text.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert nasty in page.text
    assert len(page.images) == 4
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in page.images)
    assert not re.search(r"https?://", text)
    write_page(found, tmp_path / "page.html")
    assert "No picture of the index is shown" in (tmp_path / "page.html").read_text()
    assert "&lt;script&gt;" in found._repr_html_()


def _judged(tmp_path: Path, index: Path, quiet: ExtractionSettings) -> Path:
    """A page of four pictures, two of them with a match, and of a file that is none."""
    queries = tmp_path / "queries"
    queries.mkdir()
    for number, name in enumerate(("b10.jpg", "b9.jpg")):
        shutil.copy(sorted((tmp_path / "references").iterdir())[number], queries / name)
    for seed, name in ((900, "a.png"), (901, "c.png")):
        draw_picture(seed).save(queries / name)
    (queries / "broken.png").write_text("no picture")
    free = search(index, queries, k=3, nprobe=4, settings=quiet)
    nearest = sorted(free.best["distance"])
    threshold = (nearest[1] + nearest[2]) / 2
    found = search(index, queries, k=3, nprobe=4, threshold=threshold, settings=quiet)
    write_page(found, tmp_path / "page.html", pictures=[tmp_path / "references"])
    return tmp_path / "page.html"


def test_page_has_a_row_for_each_query_that_says_its_finding(
    tmp_path: Path, tiny_index: Path, quiet: ExtractionSettings
) -> None:
    text = _judged(tmp_path, tiny_index, quiet).read_text()
    assert re.findall(r'<tr class="(\w+)"', text) == ["none", "match", "match", "none", "unreadable"]
    page = Page()
    page.feed(text)
    own = sorted(path.name for path in (tmp_path / "references").iterdir())
    said = [alt for alt in page.alts if alt.startswith(("a.png", "b9.jpg", "b10.jpg"))]
    assert re.fullmatch(r"a\.png: no match; nearest R\w+\.png, distance \d\.\d{3}", said[0])
    assert re.fullmatch(rf"b10\.jpg: match {own[0]}, distance \d\.\d{{3}}", said[1])
    assert re.fullmatch(rf"b9\.jpg: match {own[1]}, distance \d\.\d{{3}}", said[2])
    assert "its content is no picture of a known format" in page.text.split("unreadable")[-1]
    # what the filters would show, with how many rows
    assert re.findall(r'data-kinds="([\w ]*)"[^>]*>([\w ]+) (\d)<', text) == [
        ("", "all", "5"),
        ("match", "match", "2"),
        ("none empty", "no match", "2"),
        ("unreadable", "unreadable", "1"),
    ]


def test_page_without_a_verdict_and_without_rows(
    tmp_path: Path, tiny_index: Path, quiet: ExtractionSettings
) -> None:
    found = search(tiny_index, tmp_path / "references", k=1, nprobe=4, settings=quiet)
    lost = replace(found, table=found.table.iloc[1:])
    write_page(lost, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert re.findall(r'<tr class="(\w+)"', text) == ["empty"] + ["found"] * 11
    assert NO_ROWS in text
    assert ": nearest R" in text
    assert ">with an answer 11<" in text


def test_words_of_the_page_stand_out_in_light_and_dark() -> None:
    css = resources.files("aindex.matching").joinpath("templates/matches.css").read_text()
    modes = re.findall(r":root \{([^}]*--ink[^}]*)\}", css)
    assert len(modes) == 2
    for mode in modes:
        colours = dict(re.findall(r"--([\w-]+): (#\w{6})", mode))
        assert contrast(colours["on-pressed"], colours["pressed"]) >= 4.5
        for word in ("ink", "soft", "match", "none", "unread"):
            for ground in ("paper", "ground"):
                assert contrast(colours[word], colours[ground]) >= 4.5, (word, ground)


_USE = """<script>addEventListener("load", () => {
  const names = () => [...document.querySelectorAll("tbody tr")].filter(row => row.getClientRects().length)
    .map(row => row.dataset.query.split("/").pop()).join(" ");
  const said = [names()];
  const press = selector => { document.querySelector(selector).click(); said.push(names()); };
  for (const key of ["query", "query", "distance", "score", "verdict", "name"]) press(`[data-sort=${key}] button`);
  for (const kind of ["match", "none empty", "unreadable", ""]) press(`[data-kinds="${kind}"]`);
  const text = document.getElementById("text");
  text.value = "B9";
  text.dispatchEvent(new Event("input"));
  said.push(names(), document.getElementById("shown").textContent);
  said.push(document.documentElement.scrollWidth - innerWidth <= 0 ? "fits" : "too wide");
  document.body.innerHTML = "<p id=result>" + said.join("|") + "</p>";
});</script>"""


# chromium's window is never narrower than 500 pixels
@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 500])
def test_page_is_sorted_and_filtered_in_a_browser(
    tmp_path: Path,
    tiny_index: Path,
    quiet: ExtractionSettings,
    browse: Callable[[Path, int], tuple[str, list[str]]],
    width: int,
) -> None:
    page = _judged(tmp_path, tiny_index, quiet)
    document, console = browse(page, width)
    assert console == []
    assert '<span id="filters">' in document  # its own script ran
    # a script of ours is not let in, so it is used in a copy that lets it
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    page.write_text(text.replace("</body>", _USE + "</body>"))
    document, _ = browse(page, width)
    result = re.search(r'<p id="result">([^<]*)</p>', document)
    assert result is not None
    start, up, down, distance, score, verdict, name, *rest = result[1].split("|")
    assert start == "a.png b10.jpg b9.jpg c.png broken.png"
    assert up == "a.png b9.jpg b10.jpg broken.png c.png"  # as people count
    assert down == "c.png broken.png b10.jpg b9.jpg a.png"
    assert set(distance.split()[:2]) == set(verdict.split()[:2]) == {"b9.jpg", "b10.jpg"}
    assert [order.split()[-1] for order in (distance, score, verdict, name)] == ["broken.png"] * 4
    assert [set(shown.split()) for shown in rest[:3]] == [
        {"b9.jpg", "b10.jpg"},
        {"a.png", "c.png"},
        {"broken.png"},
    ]
    assert len(rest[3].split()) == 5
    assert rest[4:] == ["b9.jpg", "1 of 5 shown", "fits"]


def test_names_never_lead_out_of_their_folder(tmp_path: Path) -> None:
    inside = tmp_path / "pictures"
    (inside / "sub").mkdir(parents=True)
    draw_picture(1).save(tmp_path / "secret.png")
    draw_picture(1).save(inside / "sub" / "a.png")
    for name in ("../secret.png", str(tmp_path / "secret.png"), "sub/../../secret.png", "", "a\0b"):
        assert find_picture(name, [inside]) is None
    assert find_picture("sub/a.png", [inside]) == inside / "sub" / "a.png"
    assert find_picture("pictures/sub/a.jpg", [inside]) == inside / "sub" / "a.png"


def test_small_indexes_are_searched_whole_unless_told(tiny_index: Path, quiet: ExtractionSettings) -> None:
    index = ReferenceIndex.open(tiny_index)
    assert visited_cells(index, "auto") == 4
    assert visited_cells(index, None) is None
    assert visited_cells(index, 2) == 2
    table = search(tiny_index, tiny_index.parent / "references", k=12, settings=quiet).table
    assert len(table) == 12 * 12  # no picture is missed
    few = search(tiny_index, tiny_index.parent / "references", k=12, nprobe=1, settings=quiet).table
    assert len(few) < len(table)
    # a threshold stays tied to the number of cells that it was found with
    calibrate(tiny_index, tiny_index.parent / "train", false_positive_rate=0.1, nprobe=2, settings=quiet)
    assert visited_cells(ReferenceIndex.open(tiny_index), "auto") == 2
    found = search(tiny_index, tiny_index.parent / "references", settings=quiet)
    assert found.table["match"].notna().all()
    calibrate(tiny_index, tiny_index.parent / "train", false_positive_rate=0.1, settings=quiet)
    assert ReferenceIndex.open(tiny_index).calibration["nprobe"] == 4  # type: ignore[index]


def test_large_indexes_are_not() -> None:
    index: Any = SimpleNamespace(
        quantiser=SimpleNamespace(cell_count=4096), calibration=None, nprobe=1, ntotal=1_000_000
    )
    assert visited_cells(index, "auto") == 81  # 20,000 rows of a million in 4,096 cells
    index.nprobe = 200
    assert visited_cells(index, "auto") == 200
    index.quantiser.cell_count = None
    assert visited_cells(index, "auto") is None
