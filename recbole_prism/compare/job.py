"""One run of a comparison, in a process and a folder of its own: ``python -m recbole_prism.compare.job FOLDER``.

Reads job.json; writes versions.json, users.npz (each test row: metrics, what is known of it, weights of the experts)
and, last and whole, result.json.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import sys
import threading
import time
from pathlib import Path

import numpy as np

from recbole_prism.command import guarded
from recbole_prism.features import write_atomically
from recbole_prism.plugins import import_plugins
from recbole_prism.version import __version__

PACKAGES = ("recbole", "torch", "numpy", "scipy", "pandas")


def main(folder: Path) -> int:
    """Train, test, and write what came out."""
    _end_with_parent()
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    sys.argv = sys.argv[:1]  # RecBole reads it into every Config
    os.chdir(folder)  # RecBole writes logs and checkpoints below the working directory
    import torch

    from recbole_prism.compare.held_out import held_out
    from recbole_prism.compare.removed import removed_features
    from recbole_prism.register import register
    from recbole_prism.report.record import training_curves, watched
    from recbole_prism.run import recorded_trainers, run

    register()
    import_plugins()
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    versions |= {"recbole-prism": __version__, "python": platform.python_version(), "threads": torch.get_num_threads()}
    write_atomically(folder / "versions.json", json.dumps(versions, indent=1).encode())
    settings = job["settings"] | {"report": False, "figures": False}
    if job["features"]:
        from recbole_prism.compare.controls import write_control_features

        settings |= {"modalities": write_control_features(folder, job)}
    start = time.perf_counter()
    with watched() as record, held_out(job.get("cold_items")), recorded_trainers() as trainers:
        result = run(job["model"], job["dataset"], [], settings)
    trainer, seconds = trainers[-1], time.perf_counter() - start
    peak = resident_peak()
    outcome = {
        "test": {name: float(value) for name, value in result["test_result"].items()},
        "valid": {name: float(value) for name, value in (result["best_valid_result"] or {}).items()},
        "epochs": result["summary"]["epochs"],
        "seconds_per_epoch": result["summary"]["seconds_per_epoch"],
        "seconds": seconds,
        "parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "peak_memory": peak,
        "peak_gpu_memory": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
        "checkpoint": os.path.relpath(result["summary"]["checkpoint"], folder),
        "curves": training_curves(trainer),
    }
    write_users(folder, record.columns(trainer))
    outcome["removed"] = removed_features(trainer, record.loaders[2], seed=job["seed"])
    write_atomically(folder / "result.json", json.dumps(outcome, indent=1).encode())
    return 0


def resident_peak() -> int:
    """Bytes of memory at most; where Linux tells them of this process alone, without its parent's at the start."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _end_with_parent() -> None:
    """Of a comparison that was killed nothing goes on, or the next one would meet it in its folder."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def write_users(folder: Path, columns: dict[str, np.ndarray]) -> None:
    """users.npz: the columns of the run's test (``report.record``)."""
    temporary = folder / "users.tmp.npz"
    np.savez(temporary, **columns)
    os.replace(temporary, folder / "users.npz")


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(Path(sys.argv[1]).resolve()), debug=True))
