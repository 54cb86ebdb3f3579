"""A comparison is not continued with results of other data."""

import json

import pytest

from recbole_prism.compare import data, runner
from recbole_prism.compare.plan import make_plan


@pytest.fixture
def job(settings):
    """job(model, **settings) of the tiny dataset."""

    def make(model, **own):
        return make_plan({model: own}, ["tiny"], [1], settings=settings).jobs()[0]

    return make


def test_a_run_reads_its_own_files(job, data_path):
    (data_path / "tiny" / "tiny.yaml").write_text("modalities: [text]\n")
    common = {"tiny.inter", "tiny.item", "tiny.yaml"}
    assert data.digests(job("SASRec")).keys() == common
    assert data.digests(job("PRISM_SASRec")).keys() == common | {"tiny.text.safetensors"}
    own = {"image": None, "kind": "category", "audio": "none.npy"}  # a file, a field, a file that is not there
    assert data.digests(job("PRISM_SASRec", modalities=own)).keys() == common | {"tiny.image.safetensors"}


@pytest.mark.parametrize(
    ("name", "changed"), [("tiny.inter", True), ("tiny.text.safetensors", True), ("tiny.report.json", False)]
)
def test_what_read_other_files_is_run_again(job, data_path, tmp_path, monkeypatch, name, changed):
    class Process:
        def __init__(self, command, **_):
            folder = runner.Path(command[-1])
            assert not (folder / "result.json").exists()
            (folder / "result.json").write_text("{}")

        def poll(self):
            return 0

        def wait(self):
            pass

    monkeypatch.setattr(runner.subprocess, "Popen", Process)
    told = []

    def run():
        runner.run_jobs([job("PRISM_SASRec")], tmp_path / "out", at_once=1, report=lambda job, what: told.append(what))

    run()
    run()
    file = data_path / "tiny" / name
    file.write_bytes((file.read_bytes() if file.exists() else b"") + b"\n")
    run()
    assert told[1] == "finished before" and told[0].startswith("done in")
    assert (told[2] != "finished before") == changed


def test_runs_of_before_data_were_noted_count_as_finished(job, tmp_path):
    (tmp_path / "job.json").write_text(json.dumps({"model": "SASRec"}))
    assert not data.has_changed(job("SASRec"), tmp_path)
