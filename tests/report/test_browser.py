"""Pages in headless Chromium: no console errors, every chart drawn, nothing wider than a phone."""

import json
import re
import shutil
import subprocess

import pytest

from recbole_prism.report.compare_page import compare_page
from recbole_prism.report.results import read_results
from recbole_prism.report.run_page import run_page
from tests.report.conftest import made_columns, made_curves

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
QUIET = ["disable-quic", "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync"]

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here (Debian: apt-get install chromium)")

MEASURE = """<script>
const overlap = (chart) => { // of the x axis' title with its labels
  const title = chart.querySelector(".xtitle")?.getBoundingClientRect();
  const labels = [...chart.querySelectorAll(".xtick text")].map((label) => label.getBoundingClientRect().bottom);
  return title && Math.max(...labels) > title.top + 2;
};
addEventListener("load", () => setTimeout(() => {
  const charts = [...document.querySelectorAll(".chart")];
  document.documentElement.dataset.measured = JSON.stringify({
    drawn: charts.filter((chart) => chart.querySelector(".trace, .scatterlayer .point")).length, charts: charts.length,
    width: document.documentElement.scrollWidth, ground: getComputedStyle(document.body).backgroundColor,
    overlaps: charts.filter((chart) => overlap(chart)).length,
    widest: Math.max(...charts.map((chart) => chart.querySelector("svg").getBoundingClientRect().right)),
  });
}, 3000));</script>"""


@pytest.fixture(params=["comparison", "comparison of one", "run"])
def page(request, comparison, tmp_path):
    """HTML, and how many charts it has at least."""
    if request.param == "run":
        columns = made_columns()
        summary = {"seconds_per_epoch": 1.5, "epochs": 5, "checkpoint": "saved/PRISM_SASRec.pth"}
        test = {"ndcg@10": float(columns["ndcg@10"].mean())}
        result = {"summary": summary, "test_result": test, "best_valid_result": test}
        return run_page("PRISM_SASRec", "tiny", result, columns, made_curves()), 8
    _, results = comparison
    if request.param == "comparison of one":  # one row: the lowest charts
        results = read_results("tiny", results.rows[:2])
    return compare_page([results], ["ndcg@10"], "SASRec", tmp_path), 8


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (520, True)])
def test_charts_are_drawn_without_errors(page, tmp_path, width, dark):
    """520: Chromium makes no narrower windows; the layout for phones begins there."""
    text, charts = page
    (tmp_path / "page.html").write_text(text.replace("</body>", MEASURE + "</body>"))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", *(f"--{flag}" for flag in QUIET)]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1600", "--enable-logging=stderr"]
    command += ["--blink-settings=preferredColorScheme=0"] if dark else []
    command += ["--virtual-time-budget=20000", "--dump-dom", f"file://{tmp_path / 'page.html'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    root = re.search(r"<html[^>]*>", done.stdout).group(0)
    assert 'data-errors="0"' in root
    measured = json.loads(re.search(r"data-measured='?\"?(\{.*?\})", root.replace("&quot;", '"')).group(1))
    assert measured["drawn"] == measured["charts"] >= charts
    assert measured["overlaps"] == 0
    assert measured["width"] <= width and measured["widest"] <= width
    assert measured["ground"] == ("rgb(17, 20, 26)" if dark else "rgb(245, 246, 248)")
