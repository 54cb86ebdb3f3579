"""How much of a batch's gradient is signal, packed and by rows: why packed training may need a larger learning rate.

    python benchmarks/gradient_noise.py [--model PRISM_SASRec] [--data dataset/ml-100k] [--epochs 3 8] [--batches 20]

After so many packed epochs, gradients of that many batches are taken at the same parameters, for each way of making
batches of the same number of targets. The share of signal is |E g|^2 / E |g|^2, unbiased over the batches (it is
1 / (1 + B_simple / B) of McCandlish et al., arXiv 1812.06162, section 2.2): 1 where all batches agree, 0 where a batch
tells nothing about the next. Adam divides by the root of E g^2, so a step goes forward by about the root of the share.
Three groups of parameters: the backbone without its table, the fusion, the table of items. Prints a markdown table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from recbole_prism.training.batches import PackedBatches
from recbole_prism.training.packing import GROUP_GROWTH, PackedBatch, Windows, cut_rows, pack

GROUPS = ("backbone", "fusion", "items")
WAYS = ("packed", "stride 10", "rows", "rows, batches of packed", "packed, targets one by one")


def make_trainer(model: str, data: Path, folder: str, seed: int):
    """A trainer on the dataset, and its train loader."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    settings = {"data_path": str(data.parent), "checkpoint_dir": folder, "show_progress": False, "seed": seed}
    settings |= {"training_mode": "packed", "load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
    yaml_file = data / f"{data.name}.yaml"
    files = [str(yaml_file)] if yaml_file.is_file() else None
    config = Config(model=model, dataset=data.name, config_file_list=files, config_dict=settings)
    init_seed(seed, config["reproducibility"])
    train, _, _ = data_preparation(config, create_dataset(config))
    return get_trainer(config["MODEL_TYPE"], model)(config, get_model(model)(config, train._dataset)), train


def batches(trainer, train, way: str, epoch: int) -> Iterator[PackedBatch]:
    """The batches of an epoch, made in one of the WAYS."""
    packed = trainer._packed_batches(train, epoch)
    sequences, longest = trainer._sequences, trainer.config["MAX_ITEM_LIST_LENGTH"]
    if way in ("stride 10", "rows"):
        options = {"batch_size": train.step, "max_length": longest, "epoch": epoch, "seed": trainer.config["seed"]}
        yield from PackedBatches(sequences, stride=None if way == "rows" else 10, random_offset=True, **options)
        return
    rows = cut_rows(sequences.first, sequences.targets, longest)
    row_of = np.zeros(len(sequences.items), dtype=np.int64)  # by target
    row_of[rows.start + rows.length] = np.arange(len(rows.start))
    if way == "packed, targets one by one":  # each with what its window shows of its past
        start, length, skip = (np.repeat(part, packed.windows.length) for part in packed.windows)
        shown = 1 + np.arange(len(start)) - np.repeat(packed.windows.length.cumsum(), packed.windows.length) + length
        trains = (shown > skip) & sequences.trained[start + shown]
        order = np.random.default_rng(epoch).permutation(np.flatnonzero(trains))
        chosen = (Windows(start[p], shown[p], shown[p] - 1) for p in np.array_split(order, len(packed)))
    for batch in packed:
        if way == "packed":
            yield batch
            continue
        if way == "rows, batches of packed":
            windows = Windows(*(part[row_of[batch.target_index]] for part in rows))
        else:
            windows = next(chosen)
        yield pack(sequences.items, windows, sequences.trained, GROUP_GROWTH)


def group_of(name: str) -> str:
    if name.startswith("item_embedding"):
        return "items"
    return "fusion" if name.startswith("fusion") else "backbone"


def backward(trainer, loss, batch: PackedBatch) -> None:
    trainer.optimizer.zero_grad()
    losses = loss(batch.to(trainer.device))
    (sum(losses) if isinstance(losses, tuple) else losses).backward()


def signal_shares(trainer, train, loss, way: str, n_batches: int) -> dict[str, float]:
    """|E g|^2 / E |g|^2 per group of parameters, each unbiased."""
    total, squares, n = {}, defaultdict(float), 0
    for batch in islice(batches(trainer, train, way, epoch=1000), n_batches):
        backward(trainer, loss, batch)
        n += 1
        for name, parameter in trainer.model.named_parameters():
            if parameter.grad is not None:
                gradient = parameter.grad.double()
                total[name] = total.get(name, 0) + gradient
                squares[name] += float(gradient.square().sum())
    agree, size = defaultdict(float), defaultdict(float)
    for name, gradient in total.items():
        agree[group_of(name)] += (float(gradient.square().sum()) - squares[name]) / (n * (n - 1))
        size[group_of(name)] += squares[name] / n
    return {group: agree[group] / size[group] for group in size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="PRISM_SASRec")
    parser.add_argument("--data", type=Path, default=Path("dataset/ml-100k"))
    parser.add_argument("--epochs", type=int, nargs="+", default=[3, 8])
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads it
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    import recbole_prism  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:
        trainer, train = make_trainer(args.model, args.data.resolve(), folder, args.seed)
        loss, trained = trainer._packed_loss(train), 0
        trainer.model.train()
        print("| epochs | batches | windows | " + " | ".join(GROUPS) + " |\n" + "|---" * (3 + len(GROUPS)) + "|")
        for epochs in sorted(args.epochs):
            for epoch in range(trained, epochs):
                for batch in batches(trainer, train, "packed", epoch):
                    backward(trainer, loss, batch)
                    trainer.optimizer.step()
            trained = epochs
            for way in WAYS:
                windows = len(next(batches(trainer, train, way, epoch=1000)).lengths)
                shares = signal_shares(trainer, train, loss, way, args.batches)
                cells = (f"{shares[group]:.3f}" if group in shares else "" for group in GROUPS)
                print(f"| {epochs} | {way} | {windows} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
