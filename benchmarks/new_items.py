"""How well items are ranked that did not exist while the model was trained.

    python benchmarks/new_items.py FOLDER/ml-1m-sparse [--model PRISM_SASRec] [--share 0.05] [--seeds 1 2]
        [--spread 0 1] [--set KEY=VALUE ...]

A share of the items is drawn and every interaction of them taken out; the model is trained on the rest and then gets
the drawn items by ``with_new_items``. Asked are the users whose last item is one of them and who have three others
before. Recall@10 is that among the new items (by chance: 10 over their number, which is also what a model without
features reaches) and among all items; the control gets the features of the new items shuffled among them. ``--spread``
is that of ``recommend --new-item-spread``. What it costs is seen in the NDCG@10 of users whose last item is a known one
(with 0 new items hardly come before any), what it gives in the share that new items have of the first ten there.
The last lines test the differences of Recall@10 as ``compare`` does, for each spread.
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
    parser.add_argument("--spread", type=float, nargs="+", default=[0.0])
    parser.add_argument("--set", nargs="*", metavar="KEY=VALUE", default=[])
    arguments = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads it into every Config
    settings = {key: yaml.safe_load(value) for key, value in (text.split("=", 1) for text in arguments.set)}
    data, here = arguments.data.resolve(), os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # RecBole writes its logs here
        new, asked, others = hold_out(data, Path(folder) / "data" / data.name, arguments.share)
        print(f"{len(new)} new items, {len(asked)} users whose last item is one; by chance {K / len(new):.3f}")
        print(
            f"{'seed':<6}{'spread':>7}  {'features':<10}{'among new':>10}{'median':>8}{'among all':>11}{'median':>8}"
            f"{'new of ten':>12}{'known NDCG':>12}"
        )
        hits = {(s, kind): ([], []) for s in arguments.spread for kind in ("own", "shuffled")}  # [seeds, users], twice
        for seed in arguments.seeds:
            recommender = train(arguments.model, Path(folder) / "data" / data.name, {**settings, "seed": seed})
            for spread, kind in hits:
                files = feature_files(recommender, data, new, Path(folder), seed if kind == "shuffled" else None)
                grown = recommender.with_new_items(files, spread)
                (among_new, among_all), known = ranks(grown, new, asked), ranks(grown, new, others)[1]
                for found, rank in zip(hits[spread, kind], (among_new, among_all), strict=True):
                    found.append(rank < K)
                gain = np.where(known < K, 1 / np.log2(known + 2), 0.0).mean()
                print(
                    f"{seed:<6}{spread:>7}  {kind:<10}{(among_new < K).mean():>10.3f}{np.median(among_new) + 1:>8.0f}"
                    f"{(among_all < K).mean():>11.3f}{np.median(among_all) + 1:>8.0f}"
                    f"{share_of_new(grown, new, others):>12.3f}{gain:>12.4f}",
                    flush=True,
                )
        by_chance = [np.full(len(asked), K / len(new))] * len(arguments.seeds)
        for spread in arguments.spread:
            (own, own_all), (shuffled, shuffled_all) = hits[spread, "own"], hits[spread, "shuffled"]
            print(f"spread {spread}, among new, own against shuffled: {compare_hits(own, shuffled)}")
            print(f"spread {spread}, among new, own against chance: {compare_hits(own, by_chance)}")
            print(f"spread {spread}, among all, own against shuffled: {compare_hits(own_all, shuffled_all)}")
        os.chdir(here)


def compare_hits(ours: list[np.ndarray], theirs: list[np.ndarray]) -> str:
    """Difference of two recalls with its tests over seeds and users; hits [seeds, users]."""
    ours, theirs = np.array(ours, float), np.array(theirs, float)
    found = compare_pair(ours.mean(1), theirs.mean(1), model_users=ours.mean(0), baseline_users=theirs.mean(0), seed=0)
    over_seeds = "no test over seeds" if found.p_seeds is None else f"p {found.p_seeds:.4f} over seeds"
    low, high = found.interval
    return (
        f"{found.difference:+.3f} ({low:+.3f} to {high:+.3f} over users), {over_seeds}, {found.p_users:.4f} over users"
    )


Question = tuple[list[str], str]  # a history and the item that came next


def hold_out(data: Path, target: Path, share: float) -> tuple[list[str], list[Question], list[Question]]:
    """Write the dataset without the drawn items; they, and what to ask users whose last item is one, and the others."""
    target.mkdir(parents=True)
    for file in data.iterdir():
        if file.suffix != ".inter":
            shutil.copy(file, target)
    frame = pd.read_csv(data / f"{data.name}.inter", sep="\t", dtype=str, keep_default_na=False)
    user, item = (next(c for c in frame if c.split(":")[0] == name) for name in ("user_id", "item_id"))
    time = next(c for c in frame if c.split(":")[0] == "timestamp")
    tokens = np.array(["[PAD]", *sorted(frame[item].unique())])
    new = tokens[cold_items(tokens, share)].tolist()
    is_new = frame[item].isin(new)
    frame[~is_new].to_csv(target / f"{data.name}.inter", sep="\t", index=False)
    asked, others = [], []
    ordered = frame.assign(_time=frame[time].astype(float), _new=is_new).sort_values("_time", kind="stable")
    for _, rows in ordered.groupby(user):
        last, past = rows.iloc[-1], rows.iloc[:-1]
        known = past[item][~past["_new"]].tolist()
        if len(known) >= LEFT:
            (asked if last["_new"] else others).append((known, last[item]))
    return new, asked, others


def train(model: str, data: Path, settings: dict):
    from recbole_prism.recommend import Recommender
    from recbole_prism.run import run

    quiet = {"show_progress": False, "report": False, "state": "ERROR"}
    common = {"data_path": str(data.parent), "valid_metric": "NDCG@10", **quiet}
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


def ranks(recommender, new: list[str], asked: list[Question]) -> tuple[np.ndarray, np.ndarray]:
    """Rank of what came next, 0 for the best, among the new items and among all."""
    catalogue, scores = recommender.catalogue, scores_of(recommender, asked)
    of_target = scores[np.arange(len(asked)), catalogue.ids([target for _, target in asked])][:, None]
    better = scores > of_target
    return better[:, catalogue.ids(new)].sum(1), better.sum(1)


def share_of_new(recommender, new: list[str], asked: list[Question]) -> float:
    """How many of the first ten are new items."""
    best = np.argpartition(-scores_of(recommender, asked), K, axis=1)[:, :K]
    return float(np.isin(best, recommender.catalogue.ids(new)).mean())


def scores_of(recommender, asked: list[Question]) -> np.ndarray:
    """[users, items], that of the padding -inf."""
    histories = [np.array(recommender.catalogue.ids(history)) for history, _ in asked]
    scores = recommender.scorer.scores(histories).numpy()
    scores[:, 0] = -np.inf
    return scores


if __name__ == "__main__":
    main()
