"""The report of a run, and that each of its numbers comes from the csv files."""

import base64
import itertools
import json
import math
import os
import re
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from aindex.data.tables import name_table
from aindex.errors import DataError
from aindex.evaluation import figures, run_files
from aindex.evaluation.html_report import run_series, write_report
from aindex.evaluation.intervals import wilson
from aindex.evaluation.run_files import read_run
from tests.conftest import contrast

PASSIVE = {"passive": "_passive", "active": ""}


class _Page(HTMLParser):
    """Collects the texts with a key, the cells of numbers without, and what the page refers to."""

    def __init__(self, html):
        super().__init__()
        self.numbers, self.pictures, self.tags, self.links, self.keyless = [], [], set(), [], []
        self._key, self._number = None, False
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.add(tag)
        self._key = attributes.get("data-key")
        self._number = "number" in (attributes.get("class") or "")
        if tag == "img":
            self.pictures.append(attributes["src"])
        self.links += [attributes[name] for name in ("href", "src", "action", "srcset") if name in attributes]

    def handle_data(self, data):
        self.text += data
        if self._key:
            self.numbers.append((self._key, data))
        elif self._number and data.strip():
            self.keyless.append(data)
        self._key, self._number = None, False


@pytest.fixture(scope="module")
def page(make_run):
    folder = make_run()
    return folder, _Page(write_report(folder).read_text(encoding="utf-8"))


def _label(row):
    param = row["attack_param"]
    return row["attack"] if math.isnan(param) else f"{row['attack']} {param:g}"


def _per_attack(frame, column, attack):
    """Mean of a column for an attack, or over the attacks' means."""
    means = frame.assign(label=frame.apply(_label, axis=1)).groupby("label")[column].mean()
    if attack == "average":
        return means.mean()
    if attack == "average without screenshot":
        return means.drop("overlay_onto_screenshot").mean()
    return means[attack]


def _queries(folder, label):
    frame = pd.read_csv(folder / f"queries_df{PASSIVE[label]}.csv")
    return frame.assign(**{"exhaustive_r@1": frame["exhaustive_rank"] == 0})


def _copy_detection(folder, label, score):
    """µAP and recall at 90 % precision by a plain loop over the pairs."""
    rows = pd.read_csv(folder / f"icd_df{PASSIVE[label]}.csv")
    pairs, true_pairs = [], int((rows["image_index"] >= 0).sum())
    for row in rows.to_dict("records"):
        ids = json.loads(row["retrieved_indices"])
        distances = [np.float32(d) for d in json.loads(row["retrieved_distances"])]
        scores = [-d for d in distances]
        if score == "normalised":
            scores = [after - d for d, after in itertools.pairwise(distances)]
        pairs += [
            (s, i == row["image_index"] and i >= 0) for s, i in zip(scores, ids, strict=score == "plain")
        ]
    pairs.sort(key=lambda pair: (-pair[0], pair[1]))
    hits, total, recall = 0, 0.0, 0.0
    for place, (value, true) in enumerate(pairs, start=1):
        hits += true
        total += true * hits / place
        last_of_its_score = place == len(pairs) or pairs[place][0] != value
        if last_of_its_score and hits / place >= 0.9:
            recall = hits / true_pairs
    return {
        "uap": total / true_pairs,
        "recall_at_p90": recall,
        "queries": len(rows),
        "true_pairs": true_pairs,
    }


def _at_limit(folder, label, share):
    """Beyond the nearest stranger's closeness in the passive series: of 8 strangers none is 1 %."""
    nearest = {}
    for name, suffix in PASSIVE.items():
        rows = pd.read_csv(folder / f"icd_df{suffix}.csv")
        nearest[name] = [
            (true, json.loads(ids)[0], json.loads(distances)[0])
            for true, ids, distances in zip(
                rows["image_index"], rows["retrieved_indices"], rows["retrieved_distances"], strict=True
            )
        ]
    limit = min(distance for true, _, distance in nearest["passive"] if true < 0)
    if share == "false_positives":
        return np.mean([distance < limit for true, _, distance in nearest[label] if true < 0])
    return np.mean([found == true and d < limit for true, found, d in nearest[label] if true >= 0])


def _image_number(folder, row, column):
    images = pd.read_csv(folder / "images_df.csv", keep_default_na=False)
    if row.startswith("worst "):
        order = sorted(images.to_dict("records"), key=lambda image: float(image["psnr_db"]))
        return float(order[int(row.split()[1])][column])
    values = images[row].astype(float)
    finite = values[np.isfinite(values)]
    if column == "unchanged":
        return int(np.isinf(images["psnr_db"].astype(float)).sum())
    worst = values.max() if row == "linf" else values.min()
    return {"mean": finite.mean(), "std": np.std(finite), "worst": worst}[column]


def _code_distance(folder, label, part):
    if part == "edited":
        queries = _queries(folder, label)
        return queries["code_distance"][queries["attack"] != "none"]
    return pd.read_csv(folder / "images_df.csv")[f"code_distance_{part}"]


def _measure(folder, label, key):
    """A summary number from its csv file."""
    retrieval = pd.read_csv(folder / f"retr_df{PASSIVE[label]}.csv")
    images = pd.read_csv(folder / "images_df.csv")
    if key in ("r@1", "ap"):
        return _per_attack(retrieval, key, "average")
    if key == "r@1_without_screenshot":
        return _per_attack(retrieval, "r@1", "average without screenshot")
    if key.startswith(("uap_", "recall_at_p90_")):
        name, score = key.rsplit("_", 1)
        return _copy_detection(folder, label, score)[name]
    if key == "exhaustive_r@1":
        return _per_attack(_queries(folder, label), key, "average")
    if key in ("same_cell", "scanned_rows"):
        return _per_attack(_queries(folder, label), key, "average")
    if key in ("rows_per_picture", "bytes_per_picture"):
        return pd.read_csv(folder / "index_df.csv")[key].item()
    if key == "activation_seconds":
        return images[key].mean()
    if key.startswith("code_distance_"):
        return _code_distance(folder, label, key.removeprefix("code_distance_")).mean()
    if key.startswith("search_ms_"):
        nprobe, k = key.removeprefix("search_ms_nprobe").split("_k")
        search = pd.read_csv(folder / "search_df.csv").set_index(["nprobe", "k"])
        return search.loc[(int(nprobe), int(k)), "ms_per_query"]
    return _image_number(folder, key, "mean")


def _expected(folder, key):
    label, file, row, column = key.split("|")
    if file == "measure":
        return _measure(folder, label, row)
    if file == "code_distance":
        values = _code_distance(folder, label, row)
        return values.mean() if column == "mean" else np.std(values)
    if column == "at_limit":
        return _at_limit(folder, label, row)
    if column == "images":
        frame = pd.read_csv(folder / f"{file.removesuffix('.csv')}{PASSIVE[label]}.csv")
        counts = frame.assign(label=frame.apply(_label, axis=1)).groupby("label").size()
        dropped = ["overlay_onto_screenshot"] if row == "average without screenshot" else []
        return counts.drop(dropped).sum() if row.startswith("average") else counts[row]
    if file == "icd_df.csv":
        return _copy_detection(folder, label, row)[column]
    if file == "images_df.csv":
        return _image_number(folder, row, column)
    if file == "search_df.csv":
        return pd.read_csv(folder / file)[column][int(row)]
    if file == "queries_df.csv":
        return _per_attack(_queries(folder, label), column, row)
    return _per_attack(pd.read_csv(folder / f"retr_df{PASSIVE[label]}.csv"), column, row)


def test_every_number_is_recomputed_from_the_csv_files(page):
    folder, parsed = page
    seen = set()
    for key, text in parsed.numbers:
        if key.endswith("|rank"):
            continue
        seen.add(tuple(key.split("|")[:2]))
        expected = _expected(folder, key)
        if text == "∞":
            assert math.isinf(expected), key
            continue
        decimals = len(text.partition(".")[2])
        assert float(text) == pytest.approx(expected, abs=0.5001 * 10**-decimals), key
    files = ("retr_df.csv", "queries_df.csv", "icd_df.csv", "code_distance", "measure")
    assert seen >= {(label, file) for label in PASSIVE for file in files}
    assert seen >= {("active", "images_df.csv"), ("active", "search_df.csv")}
    # no number without a trace
    assert set(parsed.keyless) == {"–"}


def test_every_share_has_its_interval(page):
    folder, _ = page
    html = (folder / "report.html").read_text(encoding="utf-8")
    cells = re.findall(
        r'<td class="number" data-key="([^"]*)">([^<]*)(?:<span class="interval">([^<]*)</span>)?</td>', html
    )
    shares = {key: (float(text), interval) for key, text, interval in cells if interval}
    recalls = [key for key, _, _ in cells if key.endswith(("r@1", "|same_cell", "recall_at_p90"))]
    assert recalls
    assert set(recalls) <= set(shares)
    share, interval = shares["active|retr_df.csv|average|r@1"]
    assert interval == wilson(_per_attack(pd.read_csv(folder / "retr_df.csv"), "r@1", "average"), 30).text
    low, high = map(float, interval.split("–"))
    assert low < share < high


def test_the_head_says_what_was_done(page):
    _, parsed = page
    for text in ("aindex fit --output_dir 'a <b>'", "2026-01-02 03:04 UTC", "aindex_small", "nprobe 1"):
        assert text in parsed.text
    assert "46 pictures, 58 rows" in parsed.text


def test_charts_say_what_they_show(page):
    folder, _ = page
    html = (folder / "report.html").read_text(encoding="utf-8")
    alts = [unescape(alt) for alt in re.findall(r'<img src="data:image/svg[^"]*" alt="([^"]*)"', html)]
    recall = _per_attack(pd.read_csv(folder / "retr_df.csv"), "r@1", "average")
    assert any(
        alt.startswith("R@1, average over edits: passive") and f"active {recall:.3f}" in alt for alt in alts
    )
    assert any(alt.startswith("PSNR (dB), median") for alt in alts)
    assert all(re.search(r"\d\.\d", alt) for alt in alts)


def test_text_stands_out_in_both_modes(page):
    folder, _ = page
    html = (folder / "report.html").read_text(encoding="utf-8")
    modes = re.findall(r":root \{([^}]*--ink[^}]*)\}", html)
    assert len(modes) == 2
    for mode in modes:
        colours = dict(re.findall(r"--(\w+): (#\w{6})", mode))
        for text in ("ink", "soft", "accent", "found", "near", "lost"):
            for ground in ("paper", "ground"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)


def test_charts_have_a_dark_mode_in_which_marks_stand_out(page):
    folder, _ = page
    html = (folder / "report.html").read_text(encoding="utf-8")
    charts = re.findall(r"data:image/svg\+xml;base64,([^\"]*)", html)
    for chart in map(base64.b64decode, charts):
        assert b"prefers-color-scheme: dark" in chart
        assert not re.search(rb"(fill|stroke): #(?!fff)", chart)
    for light, dark in figures._DARK.items():
        marks = 1.2 if light == figures._PALE else 4.5 if light == figures._INK else 2.2
        assert contrast(light, "#ffffff") >= marks, light
        assert contrast(dark, "#1b2431") >= (marks if marks < 2 else 4.5), dark


def test_found_and_not_found_come_from_the_retrieval_rows(page):
    folder, parsed = page
    verdicts = [(key, text) for key, text in parsed.numbers if key.endswith("|rank")]
    assert len(verdicts) == 2 * 3 * 2
    for key, text in verdicts:
        label, _, place, _ = key.split("|")
        image, attack = place.split(" ", 1)
        rows = pd.read_csv(folder / f"retr_df{PASSIVE[label]}.csv")
        rows = rows[(rows["image_index"] == int(image)) & (rows.apply(_label, axis=1) == attack)]
        rank, ap = rows["rank"].item(), rows["ap"].item()
        assert text == ("found" if rank == 0 else "not found" if ap == 0 else f"place {rank + 1}")


def test_the_page_needs_nothing_but_itself(page):
    _, parsed = page
    assert all(link.startswith(("data:", "#")) for link in parsed.links)
    assert all(picture.startswith("data:image/") for picture in parsed.pictures)
    assert not parsed.tags & {"script", "link", "iframe", "object", "base"}


def test_names_are_escaped(page):
    folder, parsed = page
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert "</pre><b>" not in html
    assert "a<b>&\"'$x$.jpg" in parsed.text
    assert read_run(folder).results.images["name"].tolist()[:3] == ["a<b>&\"'$x$.jpg", "NA", "bad\\udcff.jpg"]
    assert "bad\\udcff.jpg" in parsed.text
    assert "<script>alert(1)</script>.png" in parsed.text


def test_the_same_files_give_the_same_page(make_run):
    folder = make_run()
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


def test_retrieval_rows_alone_make_a_report(make_run):
    folder = make_run()
    for path in folder.glob("*"):
        if path.name not in ("retr_df.csv", "report_assets"):
            path.unlink()
    parsed = _Page(write_report(folder, examples=0).read_text(encoding="utf-8"))
    assert {key.split("|")[1] for key, _ in parsed.numbers} == {"retr_df.csv", "measure"}
    assert "started" not in parsed.text
    assert "Copy detection" not in parsed.text
    assert "Examples" not in parsed.text


def test_an_index_without_cells_and_codes(make_run):
    folder = make_run()
    for name in ("queries_df.csv", "queries_df_passive.csv"):
        rows = pd.read_csv(folder / name)
        rows[["same_cell", "code_distance", "stored_distance"]] = np.nan
        rows.to_csv(folder / name, index=False)
    text = _Page(write_report(folder).read_text(encoding="utf-8")).text
    assert "share in the same cell" not in text
    assert "R@1, exhaustive" in text


def test_measures_of_images_that_are_not_known(make_run):
    folder = make_run()
    images = pd.read_csv(folder / "images_df.csv", keep_default_na=False)
    images[["ssim", "activation_seconds", "code_distance_original", "code_distance_released"]] = np.nan
    images.to_csv(folder / "images_df.csv", index=False)
    parsed = _Page(write_report(folder).read_text(encoding="utf-8"))
    assert "active|images_df.csv|psnr_db|mean" in dict(parsed.numbers)
    assert not any("ssim|" in key for key, _ in parsed.numbers)


def test_a_run_that_changed_nothing_is_called_passive(make_run):
    folder = make_run(passive=False)
    assert list(run_series(read_run(folder))) == ["active"]
    images = pd.read_csv(folder / "images_df.csv", keep_default_na=False)
    images[["psnr_db", "ssim", "linf"]] = [math.inf, 1.0, 0.0]
    images.to_csv(folder / "images_df.csv", index=False)
    assert list(run_series(read_run(folder))) == ["passive"]
    assert "∞" in _Page(write_report(folder).read_text(encoding="utf-8")).text


def test_many_parameters_become_curves(make_run):
    attacks = [("rotation", angle) for angle in range(-20, 30, 10)] + [("none", None)]
    folder = make_run(attacks=attacks)
    text = write_report(folder).read_text(encoding="utf-8")
    assert "R@1 against the edit" in text
    assert _Page(text).text.count("rotation -20") >= 1


def test_not_the_folder_of_a_run(tmp_path):
    with pytest.raises(DataError, match=r"no retr_df\.csv"):
        write_report(tmp_path)


@pytest.mark.parametrize("name", ["retr_df.csv", "icd_df.csv", "images_df.csv", "queries_df_passive.csv"])
@pytest.mark.parametrize("content", ["", "a,b\n1,2\n"])
def test_a_damaged_file_is_named(make_run, name, content):
    folder = make_run()
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=name):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_a_broken_list_in_a_cell_is_named(make_run):
    folder = make_run()
    text = (folder / "icd_df.csv").read_text()
    (folder / "icd_df.csv").write_text("".join(text.rsplit("]", 1)))
    with pytest.raises(DataError, match=r"icd_df\.csv"):
        write_report(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_an_error(make_run):
    folder = make_run()
    folder.chmod(0o500)
    with pytest.raises(Exception, match="cannot write"):
        write_report(folder)


def test_csv_files_are_whole_or_absent(tmp_path):
    table = name_table({"name": ["bad\udcff.jpg", "NA"]})
    run_files.write_csv(table, tmp_path / "images_df.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["images_df.csv"]
    assert (tmp_path / "images_df.csv").read_text() == "name\nbad\\udcff.jpg\nNA\n"
