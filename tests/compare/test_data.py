"""A comparison is not continued with results of other data."""

import json

import numpy as np
import pytest

from recbole_prism.compare import data, runner, tables
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


def test_files_of_one_name_are_told_apart(job, data_path, tmp_path):
    files = {name: tmp_path / name / "vectors.npy" for name in ("image", "text")}
    for n, file in enumerate(files.values()):
        file.parent.mkdir()
        np.save(file, np.full((2, 3), n))
    run = job("PRISM_SASRec", modalities={name: str(file) for name, file in files.items()})
    before = data.digests(run)
    assert {"vectors.npy", "text: vectors.npy"} <= before.keys()
    for file in files.values():
        np.save(file, np.full((2, 3), 7))
        assert data.digests(run) != before
        before = data.digests(run)


def test_tables_leave_out_results_of_other_data(job, data_path, tmp_path):
    run = job("SASRec")
    folder = run.folder(tmp_path)
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(json.dumps({"data": data.digests(run)}))
    result = {"test": {"ndcg@10": 0.5}, "seconds_per_epoch": 1, "parameters": 2, "peak_memory": 3}
    (folder / "result.json").write_text(json.dumps(result))
    np.savez(folder / "users.npz", users=np.array(["a"]), **{"ndcg@10": np.array([0.5])})
    assert len(tables.collect([run], tmp_path, "SASRec")) == 1
    with open(data_path / "tiny" / "tiny.inter", "a") as file:
        file.write("u1\ti1\t3\t5000\n")
    assert tables.collect([run], tmp_path, "SASRec") == []
