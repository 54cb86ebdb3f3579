"""Jobs are spread over the GPUs and cores there are."""

import pytest

from recbole_prism.compare import runner


def test_a_job_goes_to_the_gpu_with_the_fewest():
    assert runner.next_gpu(["0", "1"], []) == "0"
    assert runner.next_gpu(["0", "1"], ["0"]) == "1"
    assert runner.next_gpu(["0", "1"], ["0", "1", "1"]) == "0"
    assert runner.next_gpu([], []) is None


@pytest.mark.parametrize(("allowed", "gpus"), [("2, 3", ["2", "3"]), ("", []), ("GPU-8f2", ["GPU-8f2"])])
def test_only_visible_gpus_are_used(monkeypatch, allowed, gpus):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    assert runner.visible_gpus() == gpus


def test_each_job_is_told_its_gpu_and_its_share_of_the_cores(monkeypatch, tmp_path):
    """Processes that only note what they were started with, and end at once."""
    import json

    from recbole_prism.compare.plan import make_plan

    started = []

    class Process:
        def __init__(self, command, env, **_):
            folder = runner.Path(command[-1])
            started.append((json.loads((folder / "job.json").read_text())["settings"].get("gpu_id"), env))
            (folder / "result.json").write_text("{}")

        def poll(self):
            return 0 if len(started) > 1 else None

        def wait(self):
            pass

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(runner.os, "cpu_count", lambda: 6)
    monkeypatch.setattr(runner.subprocess, "Popen", Process)
    jobs = make_plan(["Pop", "BPR"], ["d"], 1).jobs()
    assert runner.run_jobs(jobs, tmp_path, at_once=2, report=lambda job, what: None) == []
    assert [gpu for gpu, _ in started] == ["4", "7"]
    assert all(env["OMP_NUM_THREADS"] == "3" for _, env in started)


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("one\nrecbole.Error: what\nValueError: no [x] in [a\n    b\n].\n", "ValueError: no [x] in [a"),
        ("error: no such file\n", "error: no such file"),
        ("epoch 1\nKilled\n", "Killed"),
        ("", "killed before it wrote anything"),
    ],
)
def test_a_failure_is_the_error_and_not_its_last_line(tmp_path, log, said):
    (tmp_path / "log.txt").write_text(log)
    assert runner.failure(tmp_path) == f"{said} ({tmp_path / 'log.txt'})"


@pytest.mark.parametrize(
    ("signal", "said"), [(9, "ended by signal 9 (out of memory?)"), (15, "ended by signal 15")], ids=["kill", "term"]
)
def test_a_signal_is_named_beside_the_last_line(tmp_path, signal, said):
    (tmp_path / "log.txt").write_text("epoch 13 evaluating\n")
    assert runner.failure(tmp_path, -signal) == f"{said} after: epoch 13 evaluating ({tmp_path / 'log.txt'})"


def test_files_are_those_of_the_current_directory(tmp_path, monkeypatch):
    """A job runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    for file in ("feats/clip.safetensors", "dataset/tiny/tiny.text.safetensors", "elsewhere/tiny/a.npy"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    sources = {"image": "feats/clip.safetensors", "text": None, "audio": "a.npy", "kind": "category"}
    found = runner.absolute_paths("tiny", {"data_path": "elsewhere", "modalities": sources, "resume": "saved/x.pth"})
    assert found["data_path"] == str(tmp_path / "elsewhere") and found["resume"] == str(tmp_path / "saved/x.pth")
    assert found["modalities"] == {
        "image": str(tmp_path / "feats/clip.safetensors"),
        "text": str(tmp_path / "dataset/tiny/tiny.text.safetensors"),
        "audio": "a.npy",
        "kind": "category",
    }
    assert set(runner.absolute_paths("tiny", {"modalities": ["image"]})) == {"data_path"}
