"""One run of a comparison, in a process and a folder of its own: ``python -m recbole_prism.compare.job FOLDER``.

Reads job.json; writes versions.json, users.npz (metrics of every user) and, last and whole, result.json.
"""

from __future__ import annotations

import importlib.metadata
import inspect
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
from recbole_prism.version import __version__

PACKAGES = ("recbole", "torch", "numpy", "scipy", "pandas")


def main(folder: Path) -> int:
    """Train, test, and write what came out."""
    _end_with_parent()
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    sys.argv = sys.argv[:1]  # RecBole reads it into every Config
    os.chdir(folder)  # RecBole writes logs and checkpoints below the working directory
    import torch

    from recbole_prism.register import register
    from recbole_prism.run import recorded_trainers, run

    register()
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    versions |= {"recbole-prism": __version__, "python": platform.python_version(), "threads": torch.get_num_threads()}
    write_atomically(folder / "versions.json", json.dumps(versions, indent=1).encode())
    settings = job["settings"]
    if job["features"]:
        from recbole_prism.compare.controls import write_control_features

        settings |= {"modalities": write_control_features(folder, job)}
    start, seen = time.perf_counter(), _watch()
    with recorded_trainers() as trainers:
        result = run(job["model"], job["dataset"], [], settings)
    model = trainers[-1].model
    write_users(folder, seen)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    outcome = {
        "test": {name: float(value) for name, value in result["test_result"].items()},
        "valid": {name: float(value) for name, value in (result["best_valid_result"] or {}).items()},
        "epochs": result["summary"]["epochs"],
        "seconds_per_epoch": result["summary"]["seconds_per_epoch"],
        "seconds": time.perf_counter() - start,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "peak_memory": peak,
        "peak_gpu_memory": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
        "checkpoint": os.path.relpath(result["summary"]["checkpoint"], folder),
    }
    write_atomically(folder / "result.json", json.dumps(outcome, indent=1).encode())
    return 0


def _end_with_parent() -> None:
    """Of a comparison that was killed nothing goes on, or the next one would meet it in its folder."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _watch() -> dict:
    """Keep what RecBole hands to its metrics last, which is the test, and its loaders, which know the users."""
    import recbole.quick_start.quick_start as quick_start
    from recbole.evaluator import Evaluator

    seen: dict = {}
    evaluate, prepare = Evaluator.evaluate, quick_start.data_preparation

    def watched_evaluate(self, struct):
        seen["config"], seen["struct"] = self.config, struct
        return evaluate(self, struct)

    def watched_preparation(config, dataset):
        seen["loaders"] = prepare(config, dataset)
        seen["users"] = dataset.field2id_token[dataset.uid_field]
        return seen["loaders"]

    Evaluator.evaluate, quick_start.data_preparation = watched_evaluate, watched_preparation
    return seen


def write_users(folder: Path, seen: dict) -> None:
    """users.npz: user tokens [rows] and, for each metric at each k, its value for every evaluated row."""
    loader, config = seen["loaders"][2], seen["config"]
    ids = loader._dataset.inter_feat[loader._dataset.uid_field] if loader.is_sequential else loader.uid_list
    columns = {"users": np.array(seen["users"][ids.numpy()], dtype=str)}
    columns |= user_metrics(config, seen["struct"])
    temporary = folder / "users.tmp.npz"
    np.savez(temporary, **columns)
    os.replace(temporary, folder / "users.npz")


def user_metrics(config, struct) -> dict[str, np.ndarray]:
    """RecBole's own top-k metrics before it averages: {"ndcg@10": [rows], ...}."""
    from recbole.evaluator.base_metric import TopkMetric
    from recbole.evaluator.register import metrics_dict

    columns = {}
    for name in config["metrics"]:
        kind = metrics_dict[name.lower()]
        if not (issubclass(kind, TopkMetric) and kind.metric_need == ["rec.topk"]):
            continue
        metric = kind(config)
        hits, counts = metric.used_info(struct)
        takes_counts = "pos_len" in inspect.signature(kind.metric_info).parameters
        values = metric.metric_info(hits, counts) if takes_counts else metric.metric_info(hits)
        for k in config["topk"]:
            columns[f"{name.lower()}@{k}"] = np.asarray(values[:, k - 1], dtype=np.float32)
    return columns


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(Path(sys.argv[1]).resolve()), debug=True))
