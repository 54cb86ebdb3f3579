"""Pages in headless Chromium: no console errors, every chart drawn, nothing wider than a phone."""

import json
import re
import shutil
import subprocess

import pytest

from recbole_prism.report.compare_page import compare_page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
QUIET = ["disable-quic", "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync"]

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here (Debian: apt-get install chromium)")

MEASURE = """<script>addEventListener("load", () => setTimeout(() => {
  const charts = [...document.querySelectorAll(".chart")];
  document.documentElement.dataset.measured = JSON.stringify({
    drawn: charts.filter((chart) => chart.querySelector(".trace, .scatterlayer .point")).length, charts: charts.length,
    width: document.documentElement.scrollWidth, ground: getComputedStyle(document.body).backgroundColor,
    widest: Math.max(...charts.map((chart) => chart.querySelector("svg").getBoundingClientRect().right)),
  });
}, 3000));</script>"""


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (520, True)])
def test_charts_are_drawn_without_errors(comparison, tmp_path, width, dark):
    """520: Chromium makes no narrower windows; the layout for phones begins there."""
    _, results = comparison
    page = compare_page([results], ["ndcg@10"], "SASRec", tmp_path)
    (tmp_path / "page.html").write_text(page.replace("</body>", MEASURE + "</body>"))
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
    assert measured["drawn"] == measured["charts"] >= 8
    assert measured["width"] <= width and measured["widest"] <= width
    assert measured["ground"] == ("rgb(17, 20, 26)" if dark else "rgb(245, 246, 248)")
