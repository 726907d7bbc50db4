"""The report in a real browser: it loads, says nothing on its console, and every picture has a size."""

import re

import pytest

from aindex.evaluation.comparison import compare
from aindex.evaluation.html_report import write_report

pytestmark = pytest.mark.slow

_MEASURE = """<script>window.addEventListener("load", () => {
  const sizes = [...document.images].map(i => [i.naturalWidth, i.naturalHeight, i.width, i.height].join("x"));
  const wide = document.documentElement.scrollWidth - window.innerWidth;
  document.body.innerHTML = "<p id=result>" + wide + "|" + sizes.join(",") + "</p>";
});</script>"""


def _check(browse, report, width):
    document, console = browse(report, width)
    assert "</html>" in document
    assert console == []
    html = report.read_text(encoding="utf-8")
    pictures = html.count("<img ")
    # the page itself allows no script, so its sizes are taken in a copy that does
    open_copy = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    copy = report.with_name("measured.html")
    copy.write_text(open_copy.replace("</body>", _MEASURE + "</body>"), encoding="utf-8")
    document, _ = browse(copy, width)
    too_wide, sizes = re.search(r'<p id="result">(-?\d+)\|([^<]*)</p>', document).groups()
    assert int(too_wide) <= 0, "the page scrolls sideways"
    assert len(sizes.split(",")) == pictures
    assert all(int(side) > 0 for size in sizes.split(",") for side in size.split("x"))


# chromium's window is never narrower than 500 pixels
@pytest.mark.parametrize("width", [1200, 500])
def test_report_of_a_run(make_run, browse, width):
    _check(browse, write_report(make_run()), width)


def test_report_of_a_comparison(make_run, browse, tmp_path):
    runs = [make_run("one"), make_run("two with <b> & $x_1$", seed=1)]
    _check(browse, compare(runs, tmp_path / "compared"), 1200)
