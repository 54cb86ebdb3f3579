"""Runs made up and real."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_prism.report.record import HISTORY, POPULARITY, WEIGHT

EXPERTS = ("unique_image", "unique_text", "synergy", "redundancy")


def made_columns(n: int = 60, *, seed: int = 0, better: float = 0.0) -> dict[str, np.ndarray]:
    """Columns of a run on n users; a third of the targets are cold, half of the targets lack an image."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(len(EXPERTS)), n)
    return {
        "users": np.array([f"u{i}" for i in range(n)]),
        "ndcg@10": (rng.random(n) * 0.3 + better).astype(np.float32),
        HISTORY: np.arange(n) % 12 + 3,
        POPULARITY: np.arange(n) % 3 * 5,
        "target_has.image": (np.arange(n) % 2).astype(np.float32),
        "history_has.image": np.where(np.arange(n) % 4 == 0, 1.0, 0.5),
        **{WEIGHT + name: weights[:, k] for k, name in enumerate(EXPERTS)},
    }


def made_curves(n: int = 5) -> dict:
    return {
        "seconds": [1.0] * n,
        "losses": [{"recommendation": 9.0 - i, "synergy": 0.1} for i in range(n)],
        "valid": [{"ndcg@10": 0.1 + i / 100} for i in range(n)],
        "valid_every": 1,
    }


@pytest.fixture
def comparison(tmp_path):
    """Two models and a control with hostile names, two seeds, as finished runs: (rows, results)."""
    import json

    from recbole_prism.compare import tables
    from recbole_prism.compare.tables import Row
    from recbole_prism.report.results import read_results

    rows = []
    for number, label in enumerate(["SASRec", "PRISM_SASRec", "PRISM_SASRec+</script><b>&"]):
        row = Row("tiny", label, costs={"seconds_per_epoch": 1.5 + number, "peak_memory": 2**28, "parameters": 1000})
        for seed in (1, 2):
            folder = tmp_path / "runs" / f"{number}-{seed}"
            folder.mkdir(parents=True)
            columns = made_columns(seed=seed, better=0.1 * number)
            if number == 0:
                columns = {name: values for name, values in columns.items() if not name.startswith(WEIGHT)}
            np.savez(folder / "users.npz", **columns)
            value = float(columns["ndcg@10"].mean())
            outcome = {"test": {"ndcg@10": value}, "epochs": 5, "curves": made_curves(), "seconds": 7.0, **row.costs}
            outcome["removed"] = {"0.0": {"ndcg@10": value}, "1.0": {"ndcg@10": value / 2}} if number else None
            (folder / "result.json").write_text(json.dumps(outcome))
            row.values.setdefault("ndcg@10", {})[seed] = value
            row.runs[seed] = str(folder)
        rows.append(row)
    users = {("tiny", row.label): {s: tables.read_users(tables.Path(f)) for s, f in row.runs.items()} for row in rows}
    tables._compare("tiny", rows, users, "SASRec")
    return rows, read_results("tiny", rows)
