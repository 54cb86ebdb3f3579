"""Run jobs side by side, each a process with a folder; what is finished is not run again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from recbole_prism.compare.data import digests, has_changed
from recbole_prism.compare.plan import Job
from recbole_prism.errors import PRISMError
from recbole_prism.features import write_atomically

POLL = 0.1  # seconds


class Running(NamedTuple):
    """A process at work on a job, since ``start``, on a GPU if there is one."""

    job: Job
    start: float
    process: subprocess.Popen
    gpu: str | None


def run_jobs(jobs: Iterable[Job], root: Path, *, at_once: int, report: Callable[[Job, str], None]) -> list[Job]:
    """Run what has no result.json of the data there are, ``at_once`` at a time; returns the jobs that failed.

    ``report`` is told of each job: "finished before", "done in ... s" or "failed: ...". An exception, Ctrl-C included,
    ends the processes that run; their folders are begun anew the next time.
    """
    waiting, running, failed = list(jobs), [], []
    environment = shared_cores(at_once)
    gpus = visible_gpus()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                result = job.folder(root) / "result.json"
                if result.is_file() and not has_changed(job, result.parent):
                    report(job, "finished before")
                    continue
                result.unlink(missing_ok=True)  # of data that are others now
                gpu = next_gpu(gpus, [each.gpu for each in running])
                process = _start(job, job.folder(root), environment, gpu)
                running.append(Running(job, time.monotonic(), process, gpu))
            for ended in [each for each in running if each.process.poll() is not None]:
                running.remove(ended)
                job = ended.job
                if (job.folder(root) / "result.json").is_file():
                    report(job, f"done in {time.monotonic() - ended.start:.0f} s")
                else:
                    failed.append(job)
                    report(job, f"failed: {failure(job.folder(root), ended.process.returncode)}")
            time.sleep(POLL if running else 0)
    finally:
        for each in running:
            each.process.terminate()
        for each in running:
            each.process.wait()
    return failed


def shared_cores(at_once: int) -> dict[str, str]:
    """The environment of each of several processes that together use the cores once."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // at_once))
    return {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **os.environ}


def visible_gpus() -> list[str]:
    """Names of the GPUs that jobs may use: those of CUDA_VISIBLE_DEVICES, else all there are."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [name.strip() for name in allowed.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def next_gpu(gpus: list[str], taken: list[str | None]) -> str | None:
    """The GPU with the fewest running jobs, None without any."""
    return min(gpus, key=taken.count) if gpus else None


def _start(job: Job, folder: Path, environment: dict[str, str], gpu: str | None) -> subprocess.Popen:
    settings = dict(job.settings)
    if gpu is not None:
        settings.setdefault("gpu_id", gpu)  # RecBole sets CUDA_VISIBLE_DEVICES to this
    settings |= absolute_paths(job.dataset, settings)  # the job runs in its folder
    settings.setdefault("checkpoint_dir", "saved")
    config = {"model": job.model, "label": job.label, "dataset": job.dataset, "seed": job.seed}
    config |= {"features": job.features, "cold_items": job.cold_items, "settings": settings}
    config["data"] = digests(job)
    try:
        write_atomically(folder / "job.json", json.dumps(config, indent=1).encode())
    except TypeError as error:
        raise PRISMError(f"{job.label}: its settings cannot be written as JSON ({error})") from error
    with open(folder / "log.txt", "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "recbole_prism.compare.job", str(folder)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def absolute_paths(dataset: str, settings: dict) -> dict:
    """Those of ``settings`` that name files, as they are seen from the current directory.

    Features below ``dataset/NAME`` of the current directory count too, where ``data_path`` has none of that name.
    """
    data_path = Path(settings.get("data_path", "dataset/")).resolve()
    changed: dict = {"data_path": str(data_path)}
    if settings.get("resume"):
        changed["resume"] = os.path.abspath(settings["resume"])
    sources = settings.get("modalities") or {}
    if not isinstance(sources, Mapping):
        sources = dict.fromkeys([sources] if isinstance(sources, str) else sources)
    found = {}
    for name, source in sources.items():
        file = source or f"{dataset}.{name}.safetensors"
        near = [path for path in (Path("dataset") / dataset / file, Path(file)) if path.is_file()]
        if near and not (data_path / dataset / file).is_file():
            found[name] = str(near[0].resolve())
    return changed | ({"modalities": {**sources, **found}} if found else {})


def failure(folder: Path, returncode: int = 1) -> str:
    """The error or the signal that ended a job, else the last line that it wrote, and where the rest is."""
    lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").split("\n")
    lines = [line.strip() for line in reversed(lines) if line.strip()]
    errors = (line for line in lines if re.match(r"error: |[\w.]*(Error|Exception|Interrupt)\b", line))
    last = next(errors, lines[0] if lines else "killed before it wrote anything")
    if returncode < 0:  # as Linux does where memory runs out: RecBole's log says nothing of it
        hint = " (out of memory?)" if returncode == -signal.SIGKILL else ""
        last = f"ended by signal {-returncode}{hint} after: {last}"
    return f"{last[:300]} ({folder / 'log.txt'})"
