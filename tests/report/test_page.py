"""Pages without a browser: whole, self-contained, and safe against what names hold."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from recbole_prism.report.compare_page import compare_page
from recbole_prism.report.figures import Figure, panel
from recbole_prism.report.panels import curve_series, loss_panel, weight_panels
from recbole_prism.report.results import read_results
from recbole_prism.report.run_page import run_page
from recbole_prism.report.slices import BY_HISTORY, Group
from tests.report.conftest import made_columns, made_curves

VOID = {"meta", "wbr", "br", "link", "img"}


class Reader(HTMLParser):
    """Open elements, ids, links, what is loaded, text, and the contents of scripts."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open, self.loaded, self.links, self.cards, self.scripts, self.text = [], [], [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("script", "img", "link", "iframe") and (values.get("src") or values.get("href")):
            self.loaded.append(values)
        if tag == "a":
            self.links.append(values["href"])
        if "data-panel" in values:
            self.cards.append(int(values["data-panel"]))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        (self.scripts if self.open and self.open[-1] == "script" else self.text).append(data)


@pytest.fixture
def compared(comparison, tmp_path):
    rows, results = comparison
    page = compare_page([results], ["ndcg@10"], "SASRec", tmp_path)
    return page, Reader(page), rows


@pytest.fixture
def trained():
    result = {
        "test_result": {"ndcg@10": 0.1512},
        "best_valid_result": {"ndcg@10": 0.2},
        "summary": {"epochs": 5, "seconds_per_epoch": 1.0, "checkpoint": "saved/a.pth", "log": "a.log"},
    }
    return Reader(run_page("PRISM_SASRec", "tiny", result, made_columns(), made_curves(), settings="a: <1>"))


def panels_of(reader: Reader) -> list[dict]:
    return json.loads(reader.scripts[0])


@pytest.mark.parametrize("page", ["compared", "trained"])
def test_a_page_is_whole_and_loads_nothing(page, request):
    reader = request.getfixturevalue(page)
    reader = reader[1] if page == "compared" else reader
    assert reader.open == [] and reader.loaded == []
    assert any("plotly.js v" in script for script in reader.scripts)
    panels = panels_of(reader)
    assert reader.cards == list(range(len(panels))) and len(panels) >= 6
    for each in panels:
        assert each["figures"] and all(any(s["x"] for s in figure["series"]) for figure in each["figures"])


def test_a_comparison_shows_what_was_measured(compared, tmp_path):
    _, reader, rows = compared
    text = " ".join(reader.text)
    for row in rows:
        assert f"{row.mean('ndcg@10'):.4f}" in text
    titles = [each["title"] for each in panels_of(reader)]
    for wanted in ("Metrics", "Difference from SASRec", "Cost against accuracy", "Validation during training"):
        assert wanted in titles
    assert {"By history length", "Features removed at random", "Expert weights over users"} <= set(titles)
    assert {"By cold or warm target", "By image of the target", "Expert weights by history length"} <= set(titles)
    runs = [link for link in reader.links if link.startswith("runs/")]
    assert len(runs) == 6 and all((tmp_path / link / "result.json").is_file() for link in runs)


def test_figures_hold_the_numbers_of_the_runs(compared):
    _, reader, rows = compared
    metrics = next(each for each in panels_of(reader) if each["title"] == "Metrics")["figures"][0]
    means = {s["name"]: s for s in metrics["series"] if not s["small"]}
    for row in rows:
        assert means[row.label]["x"][0] == pytest.approx(row.mean("ndcg@10"), abs=1e-6)
        assert means[row.label]["low"][0] < means[row.label]["x"][0] < means[row.label]["high"][0]


def test_names_cannot_break_out(compared):
    page, reader, rows = compared
    assert "</script><b>&" in rows[2].label
    assert "</script><b>" not in page
    assert any(series["name"] == rows[2].label for series in panels_of(reader)[0]["figures"][0]["series"])


def test_a_run_shows_test_weights_and_settings(trained):
    text = " ".join(trained.text)
    assert "0.1512" in text and "a: <1>" in text and "95 % over users" in text
    titles = [each["title"] for each in panels_of(trained)]
    assert {"Validation and test", "Training losses", "Expert weights over users", "By history length"} <= set(titles)


def test_users_without_weights_are_left_out_of_their_figures():
    text = np.array([0.2, 0.4, 0.0, 0.6])
    weights = {"text": text, "image": np.where(text > 0, 1 - text, 0)}
    groups = [Group(BY_HISTORY, "1", np.array([0, 2])), Group(BY_HISTORY, "2", np.array([2]))]
    spread, lengths = weight_panels({"PRISM": weights}, groups)
    assert max(spread.figures[0].series[0].y) == pytest.approx(100 / 3, abs=0.01)
    assert lengths.figures[0].series[0].x == ["1"] and lengths.figures[0].series[0].y == [0.2]
    nothing = {"text": np.zeros(3)}
    assert weight_panels({"PRISM": nothing}, [])[0].figures[0].series


def test_numbers_that_are_none_are_refused_not_written():
    from recbole_prism.report.page import _json

    with pytest.raises(ValueError, match="not JSON compliant"):
        _json({"x": float("nan")})


def test_epochs_of_a_resumed_run_are_counted_from_its_beginning():
    curves = {"first": 3, "losses": [{"a": 2.0}, {"a": 1.0}, {"a": 0.5}], "valid": [{"m": 0.1}, {"m": 0.2}]}
    assert curve_series("run", {**curves, "valid_every": 2}, "m").x == [4, 6]
    assert loss_panel(curves)[0].figures[0].series[0].x == [4, 5, 6]
    assert curve_series("run", {"valid": [{"m": 0.1}], "valid_every": 1}, "m").x == [1]  # of a version before


def test_empty_panels_are_left_out_and_unknown_kinds_refused():
    assert panel("nothing", [Figure("lines", "a", "x", "y")]) == []
    with pytest.raises(ValueError, match="unknown kind of figure 'pie'"):
        Figure("pie", "a", "x", "y")


def test_script_and_figures_know_the_same_kinds():
    from recbole_prism.report.drawing import DRAW
    from recbole_prism.report.figures import KINDS
    from recbole_prism.report.page import HERE

    script = (HERE / "page.js").read_text()
    assert set(DRAW) == set(KINDS)
    assert set(re.findall(r'figure\.kind (?:===|!==) "(\w+)"', script)) <= set(KINDS)


def test_where_small_is_good_the_smallest_is_best(comparison, tmp_path):
    rows, results = comparison
    for number, row in enumerate(rows):
        row.values["averagepopularity@10"] = {1: 3.0 - number % 2, 2: 4.0 - number % 2}
    text = " ".join(Reader(compare_page([results], ["averagepopularity@10", "ndcg@10"], "SASRec", tmp_path)).text)
    assert "2.5000" in text and "best averagepopularity@10: PRISM_SASRec" in text


def test_a_row_of_fewer_seeds_says_so(comparison, tmp_path):
    rows, _ = comparison
    del rows[1].runs[2], rows[1].values["ndcg@10"][2]
    text = " ".join(Reader(compare_page([read_results("tiny", rows)], ["ndcg@10"], "SASRec", tmp_path)).text)
    assert text.count("(1 of 2 seeds)") == 1


def test_users_with_several_test_items_are_one_observation_each():
    result = {
        "test_result": {"ndcg@10": 0.15},
        "best_valid_result": {},
        "summary": {"epochs": 5, "seconds_per_epoch": None, "checkpoint": "a.pth"},
    }
    columns = made_columns(30)
    three = {name: np.repeat(values, 3) for name, values in columns.items()}
    once, thrice = (Reader(run_page("Pop", "tiny", result, each, made_curves())) for each in (columns, three))
    assert "90 items of 30 users" in " ".join(thrice.text)
    tiles = [next(text for text in page.text if "95 % over users" in text) for page in (once, thrice)]
    assert re.sub(r"mean of users [.\d]+, ", "", tiles[1]) == tiles[0] != tiles[1]
    assert "By history length" not in " ".join(thrice.text)
