"""What fusing adds to a training step row by row: PRISM_* and MRdIB_* against RecBole's plain backbone.

    python benchmarks/row_overhead.py [--data dataset/ml-100k] [--models SASRec NARM ...] [--rows 1024] [--rounds 3]

Anomaly detection is off in all. All train rows drawn from the same data with ``fusion_scope: sequence``, as their
trainers do (ours without padding where a backbone can be packed), one step each in turn, on one thread; the least of
the rounds counts. ``plain`` is RecBole's model and trainer, ``same kernels`` that model under our trainer's kernels
(faster dropout, GELU and Adam, freed memory kept). Prints a table in markdown.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from speed import Run

from recbole_prism.models.table import BACKBONES, ITEM_FIELDS, KNOWLEDGE

FIELDS = {
    "selected_features": ["release_year"],
    "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "release_year"]},
}


def settings_of(model: str, rows: int) -> dict:
    """Keys that a backbone needs on ml-100k."""
    settings = {"train_batch_size": rows, **BACKBONES[model].defaults}  # FEARec's contrast for the plain model too
    if BACKBONES[model].needs == ITEM_FIELDS:
        settings |= FIELDS
    if "CE" in BACKBONES[model].losses:
        settings["loss_type"] = "CE"
    return settings


def step_seconds(model: str, data: Path, folder: str, rows: int, rounds: int) -> dict[str, float]:
    """The least seconds of a step, per variant."""
    settings = settings_of(model, rows)
    ours = {**settings, "training_mode": "rows", "fusion_scope": "sequence"}
    runs = {"plain": Run(model, data, "RecBole, anomaly detection off", folder, **settings)}
    if model != "BERT4Rec":  # ours encodes what is masked only, so its plain pass is another one
        runs["same kernels"] = Run(model, data, "RecBole, anomaly detection off", folder, **settings)
        use_our_kernels(runs["same kernels"])
    for fusion in ("prism", "mrdib"):
        runs[fusion] = Run(model, data, "PRISM", folder, fusion=fusion, **ours)
    seconds = [{name: run.step_seconds(1) for name, run in runs.items()} for _ in range(rounds + 1)][1:]
    return {name: min(each[name] for each in seconds) for name in runs}


def use_our_kernels(run: Run) -> None:
    """What our trainer does to a model, on RecBole's own."""
    from recbole_prism.training.kernels import use_fast_kernels

    trainer, run.keeps_memory = run.trainer, True
    use_fast_kernels(trainer.model)
    trainer.optimizer = torch.optim.Adam(trainer.model.parameters(), lr=trainer.learning_rate, fused=True)


def main() -> None:
    possible = [name for name, row in BACKBONES.items() if row.needs != KNOWLEDGE and name != "S3Rec"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("dataset/ml-100k"))
    parser.add_argument("--models", nargs="+", default=possible, choices=possible)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads it
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    import recbole_prism  # noqa: F401

    print("| backbone | plain | same kernels | `prism` | `mrdib` |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for model in args.models:
            seconds = step_seconds(model, args.data.resolve(), folder, args.rows, args.rounds)
            plain = seconds.pop("plain")
            cells = {name: f"{value:.3f} ({value / plain:.2f})" for name, value in seconds.items()}
            columns = [cells.get(name, "") for name in ("same kernels", "prism", "mrdib")]
            print(f"| {model} | {plain:.3f} | " + " | ".join(columns) + " |", flush=True)


if __name__ == "__main__":
    main()
