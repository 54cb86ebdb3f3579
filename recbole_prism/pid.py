"""``recbole-prism pid``: how much two modalities of a history tell about the next item, alone, both, or only together.

Histories, and next items, are put into clusters (k-means); the counts of (cluster of the next item, of the history's
first modality, of its second) are decomposed (:mod:`.information`). Shape: R next items.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_prism.errors import PRISMError
from recbole_prism.information import PARTS, bootstrap, count, decompose, mutual_information
from recbole_prism.observations import Observations, observe

CAUTION = (
    "Bits are of clusters: finer ones tell more, and what k-means throws away is in none. `shuffled` is what as many "
    "next items in random order give: information that few counts make up. Gate weights are no measure of information."
)


@dataclass
class Report:
    """names of the parts, their bits, 95 % intervals and shuffled levels; told: bits of either and of both in all."""

    names: dict[str, str]
    bits: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    shuffled: dict[str, float]
    told: dict[str, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="a dataset with features of two modalities")
    parser.add_argument("--data-path", default="dataset", help="where datasets lie (dataset)")
    parser.add_argument("--modalities", nargs=2, metavar=("A", "B"), help="which two (the dataset's first two)")
    parser.add_argument("--clusters", type=int, default=8, help="of each modality's history (8)")
    parser.add_argument("--target-clusters", type=int, default=8, help="of next items, by both modalities (8)")
    parser.add_argument("--target", metavar="FIELD", help="instead: a token field of the .item file")
    parser.add_argument("--by", metavar="FIELD", help="a token field of the .user file: each group of users by itself")
    parser.add_argument("--history", choices=("mean", "last"), default="mean", help="all items or the last one (mean)")
    parser.add_argument("--bootstrap", type=int, default=100, help="resamples of users (100); 0 for no intervals")
    parser.add_argument("--seed", type=int, default=0, help="of clusters and resamples (0)")
    parser.add_argument(
        "--model", metavar="CHECKPOINT", help="print its gate weights and deletion tests beside the bits"
    )


def main(arguments: argparse.Namespace) -> int:
    """Print the decomposition."""
    for option, low in (("clusters", 2), ("target_clusters", 2), ("bootstrap", 0)):
        if getattr(arguments, option) < low:
            raise PRISMError(f"--{option.replace('_', '-')}: {getattr(arguments, option)} is less than {low}")
    modalities, observed, groups = observe(arguments)
    recommender = None
    if arguments.model is not None:
        from recbole_prism.recommend import Recommender
        from recbole_prism.recommend.bundle import is_bundle

        bundle = is_bundle(Path(arguments.model))
        recommender = Recommender.load(arguments.model, data_path=None if bundle else arguments.data_path)
        check_same(recommender.loaded, arguments.name, modalities)
    for group in sorted(set(groups)):
        inside = observed.only(groups == group)
        columns = model_columns(recommender, inside.users() if arguments.by else None)
        report = measure(modalities, inside, times=arguments.bootstrap, seed=arguments.seed)
        title = f"{arguments.name}, {arguments.by} {group}" if arguments.by else arguments.name
        print(f"{title}: {len(inside.y)} next items of {len(np.unique(inside.user))} users")
        print(as_text(report, columns) + "\n")
    sizes = observed.sizes()
    target = f"by {arguments.target}" if arguments.target else "by both modalities"
    print(
        f"next item: {sizes[0]} clusters {target}; history ({arguments.history}): {sizes[1]} and {sizes[2]} clusters;"
    )
    print(f"next items left out, which have no cluster or no history with both modalities: {observed.dropped}")
    print(CAUTION)
    return 0


def check_same(loaded, name: str, modalities: list[str]) -> None:
    """Raise PRISMError for a model of other data, whose weights would say nothing of these bits."""
    trained = loaded.settings.get("dataset", name)
    if trained != name:
        raise PRISMError(f"{loaded.source}: was trained on {trained}, and the bits are those of {name}")
    if hasattr(loaded.model, "modalities") and not set(modalities) <= set(loaded.model.modalities.names):
        has = list(loaded.model.modalities.names)
        raise PRISMError(f"{loaded.source}: has the modalities {has}, and the bits are those of {modalities}")


def measure(modalities: list[str], observed: Observations, *, times: int, seed: int) -> Report:
    """Decompose the counts; intervals from resampled users, the shuffled level from 5 random orders."""
    sizes = observed.sizes()
    table = count(observed.y, observed.a, observed.b, sizes)
    bits = decompose(table)
    owner = np.unique(observed.user, return_inverse=True)[1]
    flat = np.ravel_multi_index((observed.y, observed.a, observed.b), sizes)

    def resample(rng: np.random.Generator) -> np.ndarray:
        n_users = owner.max() + 1
        weight = rng.multinomial(n_users, np.full(n_users, 1 / n_users))[owner]
        return np.bincount(flat, weights=weight, minlength=table.size).reshape(sizes)

    rng = np.random.default_rng([seed, 1])
    orders = [decompose(count(rng.permutation(observed.y), observed.a, observed.b, sizes)) for _ in range(5)]
    p = table / table.sum()
    told = {
        f"{modalities[0]} alone": mutual_information(p.sum(2)),
        f"{modalities[1]} alone": mutual_information(p.sum(1)),
        "both": mutual_information(p.reshape(len(p), -1)),
        "of": mutual_information(np.diag(p.sum((1, 2)))),
    }
    names = dict(zip(PARTS, [*(f"unique_{name}" for name in modalities), *PARTS[2:]], strict=True))
    intervals = bootstrap(resample, bits, times, seed) if times else {}
    return Report(names, bits, intervals, {name: float(np.mean([o[name] for o in orders])) for name in PARTS}, told)


def as_text(report: Report, columns: dict[str, dict[str, float]]) -> str:
    """``columns``: further numbers per expert."""
    head = f"{'part':<18}{'bits':>8}{'95 % interval':>18}{'shuffled':>10}" + "".join(f"{c:>16}" for c in columns)
    lines = [head]
    for part, name in report.names.items():
        interval = "{:.4f}-{:.4f}".format(*report.intervals[part]) if report.intervals else ""
        line = f"{name:<18}{report.bits[part]:>8.4f}{interval:>18}{report.shuffled[part]:>10.4f}"
        lines.append(line + "".join(f"{column.get(name, float('nan')):>16.3f}" for column in columns.values()))
    told = dict(report.told)
    of = told.pop("of")
    lines += ["", "told: " + ", ".join(f"{name} {bits:.4f}" for name, bits in told.items()) + f", of {of:.4f} bits"]
    return "\n".join(lines)


def model_columns(recommender, users: set[str] | None) -> dict[str, dict[str, float]]:
    """Mean gate weight of each expert over the test histories of ``users`` (None: all; at most a thousand), and what
    the log-probability loses without it. Nothing without a model, or where none of the users is tested."""
    from recbole_prism.recommend import survey

    if recommender is None:
        return {}
    histories = recommender.loaded.histories
    if users is not None and not any(histories.has(histories.id_of[u], "test") for u in users if u in histories.id_of):
        return {}
    population = survey(recommender, n_users=1000, history="test", among=users)
    summary = population.summary
    if not population.experts:
        raise PRISMError(f"{recommender.loaded.source}: has no experts whose weights could stand beside the bits")
    return {
        "mean weight": {name: row["mean"] for name, row in summary["weights"].items()},
        "drop without": {name: row["mean"] for name, row in summary["expert_drops"].items()},
    }
