"""run_recbole_prism.py as a user starts it: on one machine, on two, through torchrun; killed and resumed."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from recbole_prism.run import run
from tests.dataset_made import write_dataset
from tests.distributed.together import free_port

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "run_recbole_prism.py")


@pytest.fixture
def command(settings):
    """command(*options) -> the words of a run on the tiny dataset."""

    def make(*options, **keys) -> list[str]:
        pairs = {**settings, "load_col": "{'inter':['user_id','item_id','timestamp']}", **keys}
        pairs["metrics"] = "['Recall','NDCG']"
        return [sys.executable, SCRIPT, "--dataset=tiny", *options, *(f"--{k}={v}" for k, v in pairs.items())]

    return make


def start(words: list[str], folder: Path, name: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with open(folder / name, "wb") as out:
        return subprocess.Popen(words, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT)


def wait_for(text: str, file: Path, process: subprocess.Popen, seconds: float = 50) -> None:
    end = time.monotonic() + seconds
    while text not in file.read_text() and time.monotonic() < end and process.poll() is None:
        time.sleep(0.1)
    assert text in file.read_text(), file.read_text()[-2000:]


def test_a_killed_process_ends_the_run_and_it_resumes(command, tmp_path):
    """Killed in mid-epoch; afterwards the run goes on from its checkpoint, with one log and one summary."""
    output, port = tmp_path / "out", free_port()
    words = command("--nproc=2", f"--port={port}", epochs=10**6, valid_metric="Recall@20", topk="[20]", stopping_step=9)
    started = start(words, tmp_path, "out")  # every item is among 20: each epoch is as good, and saved
    wait_for("epoch 2 evaluating", output, started)
    (victim,) = [c for c in psutil.Process(started.pid).children() if c.environ().get("RANK") == "1"]
    victim.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    assert started.wait(30) == 1 and time.monotonic() - killed < 20
    errors = [line for line in output.read_text().splitlines() if line.startswith("error:")]
    assert errors == ["error: rank 1 was killed by SIGKILL (out of memory?)"]
    assert not psutil.pid_exists(victim.pid)
    (checkpoint,) = (tmp_path / "saved").glob("*.pth")
    last = max(map(int, re.findall(r"epoch (\d+) evaluating", output.read_text())))
    keys = {"epochs": last + 3, "valid_metric": "Recall@20", "topk": "[20]", "show_progress": True}
    again = start(command("--nproc=2", f"--port={port}", f"--resume={checkpoint}", **keys), tmp_path, "again")
    assert again.wait(50) == 0, (tmp_path / "again").read_text()[-2000:]
    text = (tmp_path / "again").read_text()
    resumed = int(re.search(r"Resume training from epoch (\d+)", text).group(1))
    assert resumed in (last, last + 1)
    assert text.count(f"epoch {last + 2} training") == 1 and text.count("expert weights") == 1
    assert (
        len(set(re.findall(r"Train +(\d+): +0%", text))) == text.count(":   0%|") / 2 - 0.5
    )  # one bar, and one of test
    assert (
        len(list((tmp_path / "log" / "PRISM_SASRec").iterdir())) == 2 == len(list(tmp_path.glob("log_tensorboard/*")))
    )


def test_a_port_in_use_is_one_line(command, tmp_path):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        done = subprocess.run(command("--nproc=2", f"--port={port}"), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == f"error: port {port} is in use; choose another --port, the same on every machine\n"


def test_places_beyond_the_world_are_refused(command, tmp_path):
    done = subprocess.run(
        command("--nproc=2", "--world_size=3", "--group_offset=2"), capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 1 and "beyond --world_size=3" in done.stderr and len(done.stderr.splitlines()) == 1


def test_torchrun_starts_the_same_run(command, tmp_path):
    _, *words = command(model="SASRec")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    started = start([*torchrun, *words], tmp_path, "out")
    assert started.wait(55) == 0, (tmp_path / "out").read_text()[-2000:]
    text = (tmp_path / "out").read_text()
    assert text.count("SASRec on tiny") == 1 and text.count("epoch 0 training") == 1
    assert len(list((tmp_path / "saved").glob("*.pth"))) == 1


def test_the_page_of_two_processes_is_that_of_one(command, settings, tmp_path, monkeypatch):
    """From the same checkpoint with nothing left to train: the same users, metrics and weights in the same order."""
    monkeypatch.chdir(tmp_path)
    keys = {"epochs": 2, "eval_batch_size": 7}
    trained = run("PRISM_SASRec", "tiny", [], {**settings, **keys, "report": False})
    keys["resume"] = trained["summary"]["checkpoint"]
    report = run("PRISM_SASRec", "tiny", [], {**settings, **keys})["summary"]["report"]
    one = panels_of(report)
    report.unlink()
    words = command("--nproc=2", f"--port={free_port()}", **keys)
    assert start(words, tmp_path, "out").wait(55) == 0, (tmp_path / "out").read_text()[-2000:]
    assert str(report) in (tmp_path / "out").read_text()
    assert panels_of(report) == one and "Expert weights over users" in [panel["title"] for panel in one]


def panels_of(page: Path) -> list[dict]:
    """The figures of a page, as data."""
    return json.loads(re.search(r'id="panels">(.*?)</script>', page.read_text()).group(1))


def test_two_hosts_train_one_model(command, tmp_path):
    """Each with its own data, folders and network (see two_hosts.sh); the first has the log and the checkpoint."""
    calls = []
    for rank, name in enumerate("ab"):
        host = tmp_path / name
        write_dataset(host / "dataset")
        place = ["--nproc=1", "--world_size=2", "--ip=10.77.0.1", "--port=29555", f"--group_offset={rank}"]
        words = command(*place, data_path=host / "dataset", checkpoint_dir=host / "saved")
        calls += [str(host), f"OMP_NUM_THREADS=1 {shlex.join(words)}"]
    script = ["sh", str(Path(__file__).with_name("two_hosts.sh")), *calls]
    done = subprocess.run(script, capture_output=True, text=True, timeout=58)
    if done.returncode == 77:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    outputs = [(tmp_path / name / "out").read_text() for name in "ab"]
    assert done.returncode == 0, "\n".join(output[-2000:] for output in outputs)
    assert [output.count("expert weights") for output in outputs] == [1, 0]
    assert [len(list((tmp_path / name / "saved").glob("*.pth"))) for name in "ab"] == [1, 0]
