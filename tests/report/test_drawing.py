"""The same figures on paper."""

import pytest

from recbole_prism.report.compare_page import compare_panels
from recbole_prism.report.drawing import draw, file_name, write_figures
from recbole_prism.report.figures import Figure, Series, panel

pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: figures)")


def test_every_figure_becomes_an_svg_and_a_png(comparison, tmp_path):
    _, results = comparison
    panels = compare_panels(results, ["ndcg@10"], "SASRec")
    chosen = [each for each in panels if each.title in ("Metrics", "Cost against accuracy", "By history length")]
    chosen += [each for each in panels if each.title == "Expert weights over users"]
    count = write_figures(chosen, tmp_path / "figures")
    files = sorted(file.name for file in (tmp_path / "figures").iterdir())
    assert len(files) == 2 * count == 2 * sum(len(each.figures) for each in chosen)
    assert (tmp_path / "figures" / "metrics-ndcg-10.svg").read_text().count("PRISM_SASRec") >= 2
    assert (tmp_path / "figures" / "metrics-ndcg-10.png").read_bytes().startswith(b"\x89PNG")


def test_a_drawing_has_the_numbers_of_its_figure():
    series = Series("a", [0.1, 0.2], ["x", "y"], [0.05, 0.1], [0.2, 0.25])
    axes = draw(Figure("dots", "n", "value", "", [series], zero_line=True)).axes[0]
    assert axes.lines[0].get_xdata().tolist() == [0.1, 0.2]
    assert axes.get_xlabel() == "value" and axes.yaxis_inverted()


def test_file_names_are_plain():
    (each,) = panel("By history length", [Figure("lines", "ndcg@10, difference", "x", "y", [Series("a", [1], [2])])])
    assert file_name(each, each.figures[0]) == "by-history-length-ndcg-10-difference"
