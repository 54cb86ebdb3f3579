"""How well items are ranked that did not exist while the model was trained.

    python benchmarks/new_items.py FOLDER/ml-1m-sparse [--model PRISM_SASRec] [--share 0.05] [--seeds 1 2]
        [--set KEY=VALUE ...]

A share of the items is drawn and every interaction of them taken out; the model is trained on the rest and then gets
the drawn items by ``with_new_items``. Asked are the users whose last item is one of them and who have three others
before. Recall@10 is that among the new items (by chance: 10 over their number, which is also what a model without
features reaches) and among all items; the control gets the features of the new items shuffled among them. The last
lines test the differences of Recall@10 among the new items as ``compare`` does.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from recbole_prism.compare.held_out import LEFT, cold_items
from recbole_prism.compare.statistics import compare_pair
from recbole_prism.features import read_features, write_features

K = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a dataset's folder, with its .inter and feature files")
    parser.add_argument("--model", default="PRISM_SASRec")
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--set", nargs="*", metavar="KEY=VALUE", default=[])
    arguments = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads it into every Config
    settings = {key: yaml.safe_load(value) for key, value in (text.split("=", 1) for text in arguments.set)}
    data, here = arguments.data.resolve(), os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # RecBole writes its logs here
        new, histories, targets = hold_out(data, Path(folder) / "data" / data.name, arguments.share)
        print(f"{len(new)} new items, {len(targets)} users whose last item is one; by chance {K / len(new):.3f}")
        print(f"{'seed':<6}{'features':<10}{'among new':>10}{'median':>8}{'among all':>11}{'median':>8}")
        hits = {"own": [], "shuffled": [], "chance": []}  # among the new items, [seeds, users]
        for seed in arguments.seeds:
            recommender = train(arguments.model, Path(folder) / "data" / data.name, {**settings, "seed": seed})
            for kind in ("own", "shuffled"):
                files = feature_files(recommender, data, new, Path(folder), seed if kind == "shuffled" else None)
                among_new, among_all = ranks(recommender.with_new_items(files), new, histories, targets)
                hits[kind].append(among_new < K)
                print(
                    f"{seed:<6}{kind:<10}{(among_new < K).mean():>10.3f}{np.median(among_new) + 1:>8.0f}"
                    f"{(among_all < K).mean():>11.3f}{np.median(among_all) + 1:>8.0f}",
                    flush=True,
                )
            hits["chance"].append(np.full(len(targets), K / len(new)))
        for other in ("shuffled", "chance"):
            print(f"own against {other}: {compare_hits(hits['own'], hits[other])}")
        os.chdir(here)


def compare_hits(ours: list[np.ndarray], theirs: list[np.ndarray]) -> str:
    """Difference of two recalls with its tests over seeds and users; hits [seeds, users]."""
    ours, theirs = np.array(ours, float), np.array(theirs, float)
    found = compare_pair(ours.mean(1), theirs.mean(1), model_users=ours.mean(0), baseline_users=theirs.mean(0), seed=0)
    over_seeds = "one seed" if found.p_seeds is None else f"p {found.p_seeds:.4f} over seeds"
    low, high = found.interval
    return (
        f"{found.difference:+.3f} ({low:+.3f} to {high:+.3f} over users), {over_seeds}, {found.p_users:.4f} over users"
    )


def hold_out(data: Path, target: Path, share: float) -> tuple[list[str], list[list[str]], list[str]]:
    """Write the dataset without the drawn items; they, and history and next item of the users to ask."""
    target.mkdir(parents=True)
    for file in data.iterdir():
        if file.suffix != ".inter":
            shutil.copy(file, target)
    frame = pd.read_csv(data / f"{data.name}.inter", sep="\t", dtype=str, keep_default_na=False)
    user, item = (next(c for c in frame if c.split(":")[0] == name) for name in ("user_id", "item_id"))
    time = next(c for c in frame if c.split(":")[0] == "timestamp")
    tokens = np.array(["[PAD]", *sorted(frame[item].unique())])
    new = tokens[cold_items(tokens, share)]
    is_new = frame[item].isin(new)
    frame[~is_new].to_csv(target / f"{data.name}.inter", sep="\t", index=False)
    histories, targets = [], []
    ordered = frame.assign(_time=frame[time].astype(float)).sort_values("_time", kind="stable")
    for _, rows in ordered.groupby(user):
        known = [token for token in rows[item] if token not in set(new)]
        if rows[item].iloc[-1] in set(new) and len(known) >= LEFT:
            histories.append(known)
            targets.append(rows[item].iloc[-1])
    return new.tolist(), histories, targets


def train(model: str, data: Path, settings: dict):
    from recbole_prism.recommend import Recommender
    from recbole_prism.run import run

    common = {"data_path": str(data.parent), "show_progress": False, "report": False, "valid_metric": "NDCG@10"}
    result = run(model, data.name, [], {**common, **settings})
    return Recommender.load(result["summary"]["checkpoint"])


def feature_files(recommender, data: Path, new: list[str], folder: Path, shuffled: int | None) -> dict[str, str]:
    """Files of the new items' features, one a modality; a seed to shuffle them among the items."""
    made = {}
    for name in recommender.loaded.model.modalities.names:
        contents = read_features(data / f"{data.name}.{name}.safetensors")
        row_of = {token: row for row, token in enumerate(contents.item_ids)}
        found = [token for token in new if token in row_of]
        rows = np.array([row_of[token] for token in found])
        if shuffled is not None:
            rows = np.random.default_rng(shuffled).permutation(rows)
        made[name] = str(folder / f"new.{name}.safetensors")
        write_features(made[name], found, contents.features[rows])
    return made


def ranks(recommender, new: list[str], histories: list[list[str]], targets: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Rank of each target, 0 for the best, among the new items and among all."""
    catalogue = recommender.catalogue
    scores = recommender.scorer.scores([np.array(catalogue.ids(history)) for history in histories]).numpy()
    scores[:, 0] = -np.inf
    of_target = scores[np.arange(len(targets)), catalogue.ids(targets)][:, None]
    better = scores > of_target
    return better[:, catalogue.ids(new)].sum(1), better.sum(1)


if __name__ == "__main__":
    main()
