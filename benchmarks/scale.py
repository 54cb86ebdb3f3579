"""Growth with catalogue and data: start-up, seconds and memory of an epoch of PRISM_SASRec, each in its own process.

    python benchmarks/scale.py [--interactions 1000000] [--items 10000 50000 200000] [--steps 8]

Generated interactions (popularity falls with a power of the rank, 12 per user on average), one modality of width 128.
The start-up is split into what RecBole reads and filters, our rows and split, the model and its first step; imports
come on top. Seconds are CPU seconds of one thread, a few steps scaled to an epoch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from speed import First, resident_peak


def generate(folder: Path, interactions: int, items: int) -> Path:
    """An atomic file and features below ``folder``; returns the dataset's folder."""
    from recbole_prism.features import write_features

    home = folder / f"scale-{items}"
    home.mkdir()
    generator = np.random.default_rng(0)
    users = np.sort(generator.integers(interactions // 12, size=interactions))
    rank = (items * generator.random(interactions) ** 2).astype(int)
    lines = [f"u{u}\ti{i}\t{t}" for t, (u, i) in enumerate(zip(users.tolist(), rank.tolist(), strict=True))]
    head = "user_id:token\titem_id:token\ttimestamp:float\n"
    (home / f"{home.name}.inter").write_text(head + "\n".join(lines) + "\n")
    names = [f"i{i}" for i in range(items)]
    features = generator.normal(size=(items, 128)).astype(np.float32)
    write_features(home / f"{home.name}.text.safetensors", names, features, encoder="random")
    return home


def child(home: Path, loss_type: str, steps: int) -> None:
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.trainer import Trainer
    from recbole.utils import get_model, get_trainer, init_seed

    settings = {
        "data_path": str(home.parent),
        "checkpoint_dir": str(home),
        "show_progress": False,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "modalities": ["text"],
        "loss_type": loss_type,
    }
    name = "PRISM_SASRec"
    config = Config(model=name, dataset=home.name, config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    marks = [time.process_time()]
    dataset = create_dataset(config)
    marks.append(time.process_time())
    train, _, _ = data_preparation(config, dataset)
    marks.append(time.process_time())
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, get_model(name)(config, train._dataset))
    batches = trainer._packed_batches(train, 0)
    loss = trainer._packed_loss(train)
    Trainer._train_epoch(trainer, First(batches, 1), 0, loss_func=loss)
    marks.append(time.process_time())
    Trainer._train_epoch(trainer, First(batches, steps), 0, loss_func=loss)
    epoch = (time.process_time() - marks[-1]) / min(steps, len(batches)) * len(batches)
    print(json.dumps([*np.diff(marks), epoch, len(batches), resident_peak()]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 50_000, 200_000])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads it
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    import recbole_prism  # noqa: F401

    if args.child:
        return child(Path(args.child[0]), args.child[1], args.steps)
    print("| items | loss | reading s | rows and split s | model and first step s | s / epoch | steps | peak MB |")
    print("|" + "---|" * 8)
    with tempfile.TemporaryDirectory() as folder:
        for items in args.items:
            home = generate(Path(folder), args.interactions, items)
            for loss_type in ("CE", "sampled"):
                command = [sys.executable, __file__, "--steps", str(args.steps), "--child", str(home), loss_type]
                answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
                *seconds, epoch, steps, peak = json.loads(answer.splitlines()[-1])
                cells = [f"{items:,}", loss_type, *(f"{s:.1f}" for s in seconds), f"{epoch:.0f}", steps, f"{peak:.0f}"]
                print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
