"""Does the right expert win? Every fusion on sequences whose dependence on image and text is known.

    python benchmarks/ground_truth.py results.jsonl [--kinds synergy ...] [--fusions prism prism:lambda_unique=1 ...]
        [--seeds 0 1 2] [--rows 7680] [--epochs 12]
    python benchmarks/ground_truth_tables.py results.jsonl [--plot docs/images/ground_truth.svg]

Makes a dataset per kind and seed (``recbole-prism synthesize``), trains PRISM_SASRec on it, and appends a line of JSON
per run: for each group of users the recall (1 if the class of the next item is known, 1 / clusters by chance), the mean
weight of each expert, and what the recall loses when an expert's weight is set to 0 and the others are renormalised, or
when a modality's pool is replaced by its mean over users. Runs that are in the file already are left out.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import yaml

KINDS = ("unique_image", "unique_text", "redundant", "synergy", "noise", "mixture")
SETTINGS = {
    "hidden_size": 32,
    "inner_size": 64,
    "n_layers": 1,
    "n_heads": 2,
    "hidden_dropout_prob": 0.1,
    "attn_dropout_prob": 0.1,
    "learning_rate": 0.003,
    "train_batch_size": 256,
    "eval_batch_size": 2048,
    "feature_length": 5.0,  # with projections that start so large; no target is smoothed in rows made elsewhere
    "expert_hidden_size": 128,  # what the tables of docs/ground_truth.md were made with
    "fusion_hidden_size": 128,
    "projection_init": 1.0,  # with 0.02 ids learn the training rows by heart before features learn XOR
    "add_projections": False,  # what features tell reaches the backbone through the fusion alone
    "use_gpu": False,
    "show_progress": False,
    "state": "CRITICAL",
}


def main() -> None:
    from recbole_prism.fusion import FUSIONS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--fusions", nargs="+", default=sorted(FUSIONS), help="NAME or NAME:key=value,key=value")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=7680, help="training rows; half as many per group of a mixture")
    parser.add_argument("--epochs", type=int, default=12)
    args = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads it
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    done = args.results.read_text().splitlines() if args.results.exists() else []
    done = {tuple(json.loads(line)[key] for key in ("kind", "fusion", "seed", "rows", "epochs")) for line in done}
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            for kind in args.kinds:
                rows = args.rows // 2 if kind == "mixture" else args.rows
                for fusion in args.fusions:
                    if (kind, fusion, seed, rows, args.epochs) in done:
                        continue
                    result = run(kind, fusion, seed, rows, args.epochs, Path(folder))
                    with open(args.results, "a") as file:
                        file.write(json.dumps(result) + "\n")
                    recalls = {str(name): round(group["recall"], 3) for name, group in result["groups"].items()}
                    print(kind, fusion, seed, recalls, f"{result['seconds']:.0f} s", flush=True)


def run(kind: str, fusion: str, seed: int, rows: int, epochs: int, folder: Path) -> dict:
    """Make the data, train, measure."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    from recbole_prism.synthetic import RULES, Sizes, parse_kinds, write_dataset

    dataset, sizes = f"{kind}_{seed}_{rows}", Sizes(rows=rows, repeats=8)
    if not (folder / dataset).exists():
        write_dataset(dataset, parse_kinds(kind), sizes=sizes, seed=seed, data_path=folder)
    name, _, keys = fusion.partition(":")
    keys = {key: yaml.safe_load(value) for key, value in (pair.split("=") for pair in keys.split(",") if pair)}
    own = {"data_path": str(folder), "checkpoint_dir": str(folder), "seed": seed, "fusion": name}
    config = Config(model="PRISM_SASRec", dataset=dataset, config_dict={**SETTINGS, **own, **keys})
    init_seed(seed, True)
    data = create_dataset(config)
    train, _, test = data_preparation(config, data)
    model = get_model("PRISM_SASRec")(config, train._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], "PRISM_SASRec")(config, model)
    start = time.process_time()
    for epoch in range(epochs):
        model.train()
        trainer._train_epoch(train, epoch)
    seconds = time.process_time() - start
    rows_of_users = (folder / dataset / f"{dataset}.user").read_text().splitlines()[1:]
    group_of = dict(line.split("\t") for line in rows_of_users)
    users = np.concatenate([batch[0]["user_id"].numpy() for batch in test])
    groups = np.array([group_of[token] for token in data.id2token("user_id", users)])
    measured = measure(model.eval(), test)
    result = {"kind": kind, "fusion": fusion, "seed": seed, "rows": rows, "epochs": epochs, "seconds": seconds}
    result["right"] = {g: RULES[g][1] for g in sorted(set(groups.tolist()))}
    result["chance"] = 1 / sizes.clusters
    result["groups"] = {}
    for group in sorted(set(groups.tolist())):
        inside = groups == group
        means = {name: {k: float(v[inside].mean()) for k, v in part.items()} for name, part in measured.items()}
        recall = means.pop("recall")["recall"]
        for part in ("expert_drop", "modality_drop"):
            means[part] = {k: recall - v for k, v in means[part].items()}
        result["groups"][group] = {"recall": recall, **means}
    return result


@torch.no_grad()
def measure(model, test) -> dict[str, dict[str, np.ndarray]]:
    """Per test row: hits as trained and with a part removed, and the weight of each expert."""
    hits, weights = score(model, test)
    names = getattr(model.fusion, "names", [])
    result = {"recall": {"recall": hits}, "weight": {}, "expert_drop": {}, "modality_drop": {}}
    if weights is not None:
        result["weight"] = {name: weights[:, k] for k, name in enumerate(names)}
        for k, name in enumerate(names):
            with without_expert(model, k):
                result["expert_drop"][name] = score(model, test)[0]
    for m, name in enumerate(model.modalities.names):
        with without_modality(model, m):
            result["modality_drop"][name] = score(model, test)[0]
    return result


def score(model, test) -> tuple[np.ndarray, np.ndarray | None]:
    """Whether the next item is among the ``topk`` of each row, and the weights [R, K]."""
    hits, weights = [], []
    for batch in test:
        scores = model.full_sort_predict(batch[0]).view(len(batch[0]), -1)
        scores[:, 0] = -torch.inf
        best = scores.topk(test.config["topk"][0]).indices
        hits.append((best == batch[3][:, None]).any(1).float())
        if model.expert_weights is not None:
            weights.append(model.expert_weights)
    return torch.cat(hits).numpy(), torch.cat(weights).numpy() if weights else None


@contextmanager
def without_expert(model, k: int) -> Iterator[None]:
    """Weight k set to 0, the others to sum to one again."""
    fusion = model.fusion

    def remove(module, inputs, outputs):
        outputs = outputs.index_fill(1, torch.tensor([k]), 0.0)
        return outputs / outputs.sum(1, keepdim=True).clamp(min=1e-9)

    forward = fusion.forward
    if hasattr(fusion, "gate"):
        handle = fusion.gate.register_forward_hook(remove)
    else:  # attention: the value of one modality

        def without(pooled, pooled_id, select=None, context=None):
            available = torch.ones(pooled.shape[:2], dtype=torch.bool)
            available[:, k] = False
            return forward(pooled, pooled_id, select, context._replace(available=available))

        fusion.forward, handle = without, None
    try:
        yield
    finally:
        if handle is None:
            del fusion.forward
        else:
            handle.remove()


@contextmanager
def without_modality(model, m: int) -> Iterator[None]:
    """Every history has the mean pool of modality m."""

    def replace(module, inputs):
        pooled = inputs[0].clone()
        pooled[:, m] = pooled[:, m].mean(0)
        return (pooled, *inputs[1:])

    handle = model.fusion.register_forward_pre_hook(replace)
    try:
        yield
    finally:
        handle.remove()


if __name__ == "__main__":
    main()
