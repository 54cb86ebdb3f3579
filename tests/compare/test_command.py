"""``recbole-prism compare`` from the first run to the table, through a failing job and a second start."""

import json
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import yaml

from recbole_prism.__main__ import main


@pytest.fixture
def plan(settings, data_path, tmp_path):
    """A plan of a general, a sequential and a PRISM model, the last with features that no run can find.

    What to load is said by the dataset's yaml alone, as ``recbole-prism prepare`` leaves it.
    """
    del settings["checkpoint_dir"]
    (data_path / "tiny" / "tiny.yaml").write_text(yaml.safe_dump({"load_col": settings.pop("load_col")}))
    models = {"Pop": None, "SASRec": None, "PRISM_GRU4Rec": {"modalities": ["nothing"]}}
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump({"models": models, "datasets": ["tiny"], "seeds": [3], "settings": settings}))
    return file


def test_a_comparison_survives_a_failing_job_and_resumes(plan, tmp_path, capsys):
    output = tmp_path / "out"
    assert main(["compare", str(plan), "-o", str(output), "--jobs", "2"]) == 1
    out = capsys.readouterr().out
    assert "PRISM_GRU4Rec seed 3: failed: " in out and "nothing.safetensors" in out
    assert "1 of 3 runs failed" in out and out.count("done in") == 2
    runs = {json.loads(file.read_text())["label"]: file.parent for file in output.rglob("job.json")}
    for name in ("Pop", "SASRec"):
        files = {file.name for file in runs[name].iterdir()}
        assert {"job.json", "versions.json", "log.txt", "result.json", "users.npz"} <= files
        result = json.loads((runs[name] / "result.json").read_text())
        assert result["peak_memory"] > 2**20 and (runs[name] / result["checkpoint"]).is_file()
        with np.load(runs[name] / "users.npz") as users:
            assert len(users["users"]) == 24 and set(users["users"]) == {f"u{n}" for n in range(24)}
            for metric, value in result["test"].items():
                assert users[metric].mean() == pytest.approx(value, abs=1e-5)
    written = {"table.csv", "table.json", "table.md", "table.tex", "slices.csv", "report.html"}
    assert written <= {file.name for file in output.iterdir()}
    assert not list(output.glob("runs/**/*.html"))  # one page for all, none for each
    assert str(runs["Pop"].relative_to(output)) in (output / "report.html").read_text()

    assert main(["compare", str(plan), "-o", str(output), "--only-tables"]) == 0
    assert (
        "1 of 3 runs are not finished, or of data that have changed since, and in no table" in capsys.readouterr().out
    )

    before = {name: (runs[name] / "result.json").stat().st_mtime_ns for name in ("Pop", "SASRec")}
    mended = yaml.safe_load(plan.read_text())
    del mended["models"]["PRISM_GRU4Rec"]
    plan.write_text(yaml.safe_dump(mended))
    assert main(["compare", str(plan), "-o", str(output), "--baseline", "SASRec"]) == 0
    out = capsys.readouterr().out
    assert out.count("finished before") == 2 and "against SASRec" in out
    assert before == {name: (runs[name] / "result.json").stat().st_mtime_ns for name in before}


def test_a_killed_comparison_leaves_no_process_and_no_result(settings, tmp_path):
    values = {**settings, "epochs": 100_000, "stopping_step": 100_000}
    pairs = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    command = [sys.executable, "-m", "recbole_prism", "compare", "--models=SASRec", "--datasets=tiny", "--seeds=1"]
    process = subprocess.Popen([*command, "--set", *pairs], cwd=tmp_path, stdout=subprocess.DEVNULL)
    jobs = wait_for(lambda: psutil.Process(process.pid).children())
    wait_for(lambda: list(tmp_path.rglob("versions.json")))
    process.kill()
    process.wait()
    assert not psutil.wait_procs(jobs, timeout=60)[1]
    assert not list(tmp_path.rglob("result.json"))


def wait_for(found, seconds=90):
    """The first true value of ``found()``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.1)
    raise AssertionError("waited in vain")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to compare"),
        (["--models", "Pop", "--datasets", "tinny"], "did you mean 'tiny'"),
        (["--models", "Pop", "--seeds", "0"], "name at least one"),
        (["--models", "Pop", "--seeds", ","], "seeds: ',' is not allowed"),
        (["--models", "Pop", "--jobs", "0"], "--jobs: 0 is not allowed"),
        (["--models", "Pop", "--set", "epochs"], "settings are written as KEY=VALUE"),
        (["--models", "Pop", "--set", "topk=[1"], "the value cannot be read"),
        (["--models", "Pop", "--only-tables"], "no run is finished"),
        (["--models", "Pop", "--metrics", "NDGC@10"], "'ndgc@10' is not measured (did you mean 'ndcg@10'"),
        (["--models", "Pop", "--metrics", "recall"], "--metrics: 'recall' is not measured"),
        (["--models", "Pop", "--set", "valid_metric=MRR@10"], "valid_metric: 'MRR@10' is not computed"),
        (["--models", "Pop", "--set", "topk=[a]"], "topk: ['a'] is not allowed; must be a list of integers"),
        (["--models", "SASRec", "--set", "epohcs=1"], "epohcs: known neither to RecBole nor to SASRec"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_one(data_path, capsys, tmp_path, arguments, message):
    given = ["--datasets", "tiny", "--set", f"data_path={data_path}", *arguments]
    assert main(["compare", *given]) == 1
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1
    assert not (tmp_path / "compared").exists()


def test_unreadable_plans_and_unknown_keys_are_named(tmp_path, capsys):
    assert main(["compare", "nowhere.yaml"]) == 1
    assert "nowhere.yaml: cannot be read" in capsys.readouterr().err
    (tmp_path / "plan.yaml").write_text("model: [Pop]\n")
    assert main(["compare", str(tmp_path / "plan.yaml")]) == 1
    assert "'model' is unknown (did you mean 'models'" in capsys.readouterr().err
