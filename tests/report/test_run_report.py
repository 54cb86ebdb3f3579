"""A finished run leaves a page, unless told not to."""

import sys

import pytest

from recbole_prism.errors import PRISMError
from recbole_prism.run import run, summary_text


@pytest.mark.parametrize("model", ["PRISM_SASRec", "Pop"])
def test_a_run_leaves_a_page_beside_its_checkpoint(settings, model):
    files = {"modalities": {"text": f"{settings['data_path']}/tiny/tiny.text.safetensors"}}
    result = run(model, "tiny", [], settings | (files if model.startswith("PRISM") else {}))
    report, checkpoint = result["summary"]["report"], result["summary"]["checkpoint"]
    assert str(report) == str(checkpoint).replace(".pth", ".html") and report.is_file()
    page = report.read_text()
    assert f"{result['test_result']['ndcg@10']:.4f}" in page and f"{model} on tiny" in page
    assert ("Expert weights over users" in page) == model.startswith("PRISM")
    assert settings["data_path"] not in page  # of this machine, and a page is passed on
    assert str(report) in summary_text(model, "tiny", result)


@pytest.mark.parametrize("model", ["PRISM_SASRec", "Pop"])
def test_report_false_leaves_none(settings, tmp_path, model):
    result = run(model, "tiny", [], {**settings, "report": False})
    assert not result["summary"].get("report") and not list(tmp_path.rglob("*.html"))


def test_a_report_that_fails_does_not_fail_the_run(settings, monkeypatch, capsys):
    monkeypatch.setattr("recbole_prism.report.page.plotly_js", lambda: 1 / 0)
    result = run("PRISM_SASRec", "tiny", [], dict(settings))
    assert result["test_result"] and "report" not in result["summary"]
    assert "no report: ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["PRISM_SASRec", "Pop"])
def test_figures_of_a_run_lie_beside_its_checkpoint(settings, tmp_path, model):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: figures)")
    result = run(model, "tiny", [], {**settings, "report": False, "figures": True})
    folder = result["summary"]["figures"]
    assert str(folder) == str(result["summary"]["checkpoint"]).replace(".pth", "-figures")
    names = {file.name for file in folder.iterdir()}
    assert {"validation-and-test-metrics.svg", "validation-and-test-metrics.png"} <= names
    assert any(name.startswith("expert-weights-over-users") for name in names) == model.startswith("PRISM")
    assert not list(tmp_path.rglob("*.html")) and str(folder) in summary_text(model, "tiny", result)


@pytest.mark.parametrize("model", ["PRISM_SASRec", "Pop"])
def test_figures_without_matplotlib_are_refused_before_training(settings, monkeypatch, model):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("recbole_prism.training.trainer.RecordingMixin._train_epoch", lambda *_, **__: 1 / 0)
    with pytest.raises(PRISMError, match="figures needs matplotlib"):
        run(model, "tiny", [], {**settings, "figures": True})
