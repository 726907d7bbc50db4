"""A measure that nobody has thought of stands everywhere once it is in `MEASURES`."""

import pandas as pd

from aindex.callbacks.console import results_text
from aindex.callbacks.tensorboard import scalars
from aindex.evaluation.analyses import image_rows
from aindex.evaluation.comparison import compare
from aindex.evaluation.html_report import run_series, write_report
from aindex.evaluation.measures import IMAGES_FILE, MEASURES, Measure
from aindex.evaluation.run_files import read_run
from aindex.evaluation.sections import worst_table
from aindex.evaluation.table import markdown


def test_a_new_measure_of_images_is_shown_everywhere(make_run, tmp_path, monkeypatch):
    """Rows of the csv, terminal, TensorBoard, HTML, Markdown, LaTeX; an older run without it is read all the same."""
    old = make_run("old")
    new = Measure("lpips", IMAGES_FILE, "LPIPS", "LPIPS, mean", 5, higher_is_better=False, is_tile=True)
    monkeypatch.setitem(MEASURES, "lpips", new)
    assert image_rows(image_index=[0], names=["a"], lpips=[0.25])["lpips"].tolist() == [0.25]
    folder = make_run("new")
    images = pd.read_csv(folder / IMAGES_FILE, keep_default_na=False).assign(lpips=0.25)
    images.to_csv(folder / IMAGES_FILE, index=False)
    series = run_series(read_run(folder))
    results = series["active"]
    assert "LPIPS, mean" in results_text(series)
    assert dict(scalars(results))["summary/lpips"] == 0.25
    assert "| LPIPS |" in markdown(worst_table(results.images))
    html = write_report(folder).read_text(encoding="utf-8")
    for key in ("measure|lpips|value", f"{IMAGES_FILE}|lpips|worst", f"{IMAGES_FILE}|worst 0|lpips"):
        assert f'data-key="active|{key}">0.25000' in html
    assert 'alt="LPIPS, median' in html
    output = compare([old, folder], tmp_path / "compared").parent
    assert "| LPIPS, mean | – | – | 0.25000 |" in (output / "compare.md").read_text(encoding="utf-8")
    assert r"LPIPS, mean & -- & -- & 0.25000 \\" in (output / "compare.tex").read_text(encoding="utf-8")
    assert "new,measures,lpips,value,0.25," in (output / "compare.csv").read_text(encoding="utf-8")


def test_keys_are_the_names_of_measures():
    assert all(key == measure.key for key, measure in MEASURES.items())
