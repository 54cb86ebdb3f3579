"""What ``recbole-prism pid`` counts: clusters of next items and of the modalities of the history before them.

Shapes: I interactions in order of user and time, R of them next items of a history with both modalities, N items, d
dimensions.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_prism.errors import PRISMError, suggest

DIMENSIONS = 32  # principal components that k-means sees


@dataclass
class Observations:
    """Codes [R] of next item, first and second modality of its history; user [R]; dropped: next items without them."""

    y: np.ndarray
    a: np.ndarray
    b: np.ndarray
    user: np.ndarray
    dropped: int
    tokens: tuple[str, ...] = ()

    def only(self, rows: np.ndarray) -> Observations:
        """Those of a mask [R]."""
        return Observations(self.y[rows], self.a[rows], self.b[rows], self.user[rows], self.dropped, self.tokens)

    def users(self) -> set[str]:
        """Tokens of those who are asked."""
        return {self.tokens[user] for user in np.unique(self.user)}

    def sizes(self) -> tuple[int, int, int]:
        return tuple(int(codes.max()) + 1 for codes in (self.y, self.a, self.b))


def observe(arguments: argparse.Namespace) -> tuple[list[str], Observations, np.ndarray]:
    """Clusters of next items and of the histories before them, as RecBole reads the dataset; groups [R] of ``--by``."""
    from recbole_prism.modalities import load_modality, modality_sources

    config, dataset, histories = load(arguments)
    sources = modality_sources(config)
    names = list(arguments.modalities or list(sources)[:2])
    unknown = [name for name in names if name not in sources]
    if unknown or len(set(names)) < 2:
        raise PRISMError(
            f"two different modalities are needed, not {names}{suggest(names[-1], sources)}; {list(sources)}"
        )
    aligned = [load_modality(config, dataset, name, sources[name]) for name in names]
    values = [components(a.features, a.covered) for a in aligned]
    covered = np.stack([a.covered for a in aligned], 1)  # [N, 2]
    if arguments.target:
        classes = field_codes(dataset.item_feat, dataset, "target", arguments.target)
    else:
        both = covered.all(1)
        spread = [v[both].std() or 1.0 for v in values]
        joint = np.concatenate([v / s for v, s in zip(values, spread, strict=True)], 1)
        classes = np.full(len(joint), -1)
        classes[both] = cluster(joint[both], arguments.target_clusters, arguments.seed)
    length = 1 if arguments.history == "last" else config["MAX_ITEM_LIST_LENGTH"]
    pooled = [pool(v, c, histories, length) for v, c in zip(values, covered.T, strict=True)]
    kept = pooled[0][1] & pooled[1][1] & (classes[histories.items] >= 0)
    if not kept.any():
        raise PRISMError(
            f"{arguments.name}: no next item has a cluster and a history with both {names[0]} and {names[1]}"
        )
    codes = [cluster(mean[kept], arguments.clusters, arguments.seed) for mean, _ in pooled]
    users = np.repeat(np.arange(len(histories.offsets) - 1), np.diff(histories.offsets))
    y = np.unique(classes[histories.items[kept]], return_inverse=True)[1]
    n_next = len(histories.items) - int((np.diff(histories.offsets) > 0).sum())
    observed = Observations(y, *codes, users[kept], n_next - int(kept.sum()), tuple(histories.tokens))
    if not arguments.by:
        return names, observed, np.zeros(len(y), dtype=np.int64)
    groups = field_codes(dataset.user_feat, dataset, "by", arguments.by) + 1
    return names, observed, dataset.id2token(arguments.by, groups[observed.user])


def load(arguments: argparse.Namespace):
    """Config, dataset and histories of a dataset."""
    from recbole.config import Config
    from recbole.data import create_dataset

    from recbole_prism.datasets import check_dataset
    from recbole_prism.recommend.checkpoint import own_command_line, quiet, read_histories, read_interactions
    from recbole_prism.register import register

    check_dataset(arguments.name, arguments.data_path)
    register()
    settings = {"data_path": arguments.data_path, "show_progress": False}
    with quiet(), own_command_line():
        try:
            config = Config(model="PRISM_SASRec", dataset=arguments.name, config_dict=settings)
        except PRISMError as error:
            file = Path(arguments.data_path) / arguments.name / f"{arguments.name}.yaml"
            raise PRISMError(f"{error}; pid reads the settings of a dataset from {file}") from error
        columns = config["load_col"]
        for kind, id_field, field in (
            ("item", "ITEM_ID_FIELD", arguments.target),
            ("user", "USER_ID_FIELD", arguments.by),
        ):
            if field and columns is not None and columns.get(kind) != "*":  # where nothing is said, all are loaded
                named = [config[id_field], *columns.get(kind, []), field]
                columns = {**columns, kind: list(dict.fromkeys(named))}
        config["load_col"] = columns
        dataset = create_dataset(config)
        interactions = read_interactions(dataset)
        return config, dataset, read_histories(dataset, interactions, dataset.build())


def field_codes(features, dataset, option: str, field: str) -> np.ndarray:
    """The token of each item or user in a field (the first one of several), -1 = none: [N]."""
    if features is None or field not in features.columns or not dataset.field2type[field].value.startswith("token"):
        raise PRISMError(f"--{option} {field}: no token field of that name in the .item or .user file")
    column = features[field].numpy()
    return column.reshape(len(column), -1)[:, 0].astype(np.int64) - 1


def components(features: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """The first principal components of the covered items, zero for the others: [N, d] -> [N, <= DIMENSIONS]."""
    centred = features[covered] - features[covered].mean(0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:DIMENSIONS]
    result = np.zeros((len(features), len(axes)), dtype=np.float32)
    result[covered] = centred @ axes.T
    return result


def pool(values: np.ndarray, covered: np.ndarray, histories, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean over those of the ``length`` items before each interaction that have the modality, and whether any has.

    values [N, d], covered [N] -> [I, d], [I].
    """
    items = histories.items
    place = np.arange(len(items))
    first = np.repeat(histories.offsets[:-1], np.diff(histories.offsets))
    begin = np.maximum(first, place - length)
    per_item = np.concatenate([values, covered[:, None]], 1).astype(np.float64)
    sums = np.concatenate([np.zeros((1, per_item.shape[1])), np.cumsum(per_item[items], axis=0)])
    totals = sums[place] - sums[begin]
    n = totals[:, -1].round()
    return totals[:, :-1] / np.maximum(n, 1)[:, None], n > 0


def cluster(points: np.ndarray, n: int, seed: int) -> np.ndarray:
    """k-means codes of points [R, d] -> [R]."""
    from sklearn.cluster import KMeans

    distinct = len(np.unique(points, axis=0))
    if distinct < n:
        raise PRISMError(f"{n} clusters of {distinct} distinct points; ask for fewer (--clusters, --target-clusters)")
    rng = np.random.default_rng(seed)
    sample = points if len(points) <= 20000 else points[rng.choice(len(points), 20000, replace=False)]
    return KMeans(n, n_init=4, random_state=seed).fit(sample).predict(points)
