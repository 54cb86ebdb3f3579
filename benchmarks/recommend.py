"""Scoring all users of a dataset against the bare matrix product and top-k, and answering from a bundle.

    python benchmarks/recommend.py amazon-beauty --data-path FOLDER [--model PRISM_SASRec] [--repeats 5]

One thread, CPU seconds, both in turns in one process; the model has random weights, which cost what trained ones do.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

K, ROWS = 10, 256
ANSWER = """
import sys, time
import torch
from recbole_prism.recommend import Recommender
import recbole_prism.recommend.bundle, recbole_prism.recommend.standin, recbole.utils, recbole.model.layers
from recbole_prism.register import register
register()
torch.set_num_threads(1)
start = time.process_time()
recommender = Recommender.load(sys.argv[1])
recommender.for_sequence(recommender.catalogue.tokens[1:6], 10)
print(time.process_time() - start)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--data-path", default="dataset")
    parser.add_argument("--model", nargs="+", default=["SASRec", "PRISM_SASRec", "GRU4Rec", "PRISM_GRU4Rec"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--set", nargs="*", metavar="KEY=VALUE", default=[])
    arguments = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads it into every Config
    torch.set_num_threads(1)
    print(f"{'model':<16}{'users':>8}{'items':>8}{'bare':>8}{'all':>8}{'ratio':>8}{'bundle':>8}  seconds, medians")
    for model in arguments.model:
        measure(model, arguments)


def measure(model: str, arguments: argparse.Namespace) -> None:
    """One line: bare product and top-k, everything, their ratio, and loading a bundle and answering."""
    from recbole_prism.recommend import Recommender
    from recbole_prism.recommend.bundle import export_bundle
    from recbole_prism.recommend.recommender import load

    with tempfile.TemporaryDirectory() as folder:
        loaded = load(checkpoint(model, arguments, Path(folder)))
        recommender = Recommender(loaded)
        users = sum(loaded.histories.has(user, "full") for user in range(1, len(loaded.histories.tokens)))
        width = loaded.model.item_embedding.embedding_dim
        states, table = torch.randn(users, width), torch.randn(len(loaded.catalogue.tokens), width)
        times: dict[str, list[float]] = {"bare": [], "all": []}
        for _ in range(arguments.repeats + 1):
            times["bare"].append(seconds(lambda: bare(states, table)))
            times["all"].append(seconds(lambda: sum(len(chunk.users) for chunk in recommender.stream(k=K))))
        low, high = (statistics.median(each[1:]) for each in times.values())  # the first ones warm up
        ratios = [a / b for a, b in zip(times["all"][1:], times["bare"][1:], strict=True)]
        bundle = export_bundle(loaded, Path(folder) / "bundle")
        answers = [
            float(subprocess.run([sys.executable, "-c", ANSWER, bundle], capture_output=True, text=True).stdout)
            for _ in range(3)
        ]
    spread = f"ratio {min(ratios):.2f} to {max(ratios):.2f}"
    print(
        f"{model:<16}{users:>8}{len(table) - 1:>8}{low:>8.2f}{high:>8.2f}{statistics.median(ratios):>8.2f}"
        f"{statistics.median(answers):>8.2f}  {spread}",
        flush=True,
    )


@torch.no_grad()
def bare(states: torch.Tensor, table: torch.Tensor) -> None:
    for start in range(0, len(states), ROWS):
        torch.topk(states[start : start + ROWS] @ table.t(), K)


def seconds(work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def checkpoint(model: str, arguments: argparse.Namespace, folder: Path) -> Path:
    """A checkpoint as RecBole's trainer writes it, before any training."""
    import yaml
    from recbole.config import Config
    from recbole.data import create_dataset
    from recbole.utils import get_model, get_trainer, init_seed

    from recbole_prism.datasets import dataset_yaml
    from recbole_prism.recommend.checkpoint import quiet

    file = dataset_yaml(arguments.dataset, arguments.data_path)
    settings = {"data_path": arguments.data_path, "checkpoint_dir": str(folder), "train_neg_sample_args": None}
    settings |= {key: yaml.safe_load(value) for key, value in (each.split("=", 1) for each in arguments.set)}
    with quiet():
        config = Config(model, arguments.dataset, config_file_list=[str(file)] if file else None, config_dict=settings)
        init_seed(1, True)
        train = create_dataset(config).build()[0]
        trainer = get_trainer(config["MODEL_TYPE"], model)(config, get_model(model)(config, train))
        trainer._save_checkpoint(0, verbose=False)
    return Path(trainer.saved_model_file)


if __name__ == "__main__":
    import recbole_prism  # noqa: F401

    start = time.time()
    main()
    print(f"{time.time() - start:.0f} s", file=sys.stderr)
