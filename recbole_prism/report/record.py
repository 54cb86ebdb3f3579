"""What the test of a run was made of, row by row: metrics, what is known of each row, weights of the experts.

A row is one test question: a user, and the item asked for. Shapes: R rows, N items (padding included), K experts.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

HISTORY, POPULARITY = "history_length", "target_popularity"  # columns; -1 where a row has no such thing
WEIGHT, TARGET_HAS, HISTORY_HAS = "weight.", "target_has.", "history_has."  # begin of columns, a name follows


@dataclass
class Record:
    """RecBole's objects of one run, as ``watched`` met them."""

    dataset: object = None
    interactions: object = None  # all there are, before RecBole turns them into rows
    loaders: tuple = ()
    config: object = None
    struct: object = None  # of the last evaluation

    def columns(self, trainer=None) -> dict[str, np.ndarray]:
        """Columns [R] of the last evaluation, taken for the test: ``users`` (tokens), each metric at each k, and what
        ``known_of_rows`` and the trainer know."""
        users = self._users()
        columns = {"users": np.array(self.dataset.field2id_token[self.dataset.uid_field][users], dtype=str)}
        columns |= row_metrics(self.config, self.struct)
        columns |= self._known_of_rows(users)
        if trainer is not None:
            columns |= self._coverage(trainer.model)
            weights = getattr(trainer, "expert_weights", None)
            if weights is not None:
                columns |= {WEIGHT + name: weights[:, k].numpy() for k, name in enumerate(trainer.model.fusion.names)}
        return {name: column for name, column in columns.items() if len(column) == len(users)}

    def _users(self) -> np.ndarray:
        """The user of each row; loaders with a ``uid_list`` ask each user once for all items."""
        loader = self.loaders[2]
        by_user = getattr(loader, "uid_list", None)
        return np.asarray(loader._dataset.inter_feat[loader._dataset.uid_field] if by_user is None else by_user)

    def _known_of_rows(self, users: np.ndarray) -> dict[str, np.ndarray]:
        """How many items the user has before the target, and how many training interactions the target has."""
        from recbole_prism.recommend.checkpoint import read_histories

        if self.interactions is None:
            return {}
        histories = read_histories(self.dataset, self.interactions, [loader._dataset for loader in self.loaders])
        targets = self._targets(users)
        popularity = training_counts(histories, self.dataset.item_num)[targets]
        return {
            HISTORY: histories.test[users] + _occurrence(users),
            POPULARITY: np.where(targets > 0, popularity, -1),
        }

    def _targets(self, users: np.ndarray) -> np.ndarray:
        """The item each row asks for, 0 where it asks for several."""
        loader = self.loaders[2]
        rows = loader._dataset.inter_feat
        items = rows[loader._dataset.iid_field].numpy()
        if getattr(loader, "uid_list", None) is None:
            return items
        owners = rows[loader._dataset.uid_field].numpy()
        target_of = np.zeros(self.dataset.user_num, dtype=np.int64)
        target_of[owners] = items
        return np.where(np.bincount(owners, minlength=self.dataset.user_num)[users] == 1, target_of[users], 0)

    def _coverage(self, model) -> dict[str, np.ndarray]:
        """Whether the target has each modality, and the share of the history's items (those the model sees) that do."""
        modalities, loader = getattr(model, "modalities", None), self.loaders[2]
        rows = loader._dataset.inter_feat
        if modalities is None or not loader.is_sequential or model.ITEM_SEQ not in rows:
            return {}
        history, target = rows[model.ITEM_SEQ].numpy(), rows[loader._dataset.iid_field].numpy()
        columns = {}
        for name, covered in modalities.coverage.items():
            columns[TARGET_HAS + name] = covered[target].astype(np.float32)
            columns[HISTORY_HAS + name] = (covered[history].sum(1) / (history > 0).sum(1)).astype(np.float32)
        return columns


@contextmanager
def watched() -> Iterator[Record]:
    """While in force, the record keeps what RecBole prepares, and what it hands to its metrics last: the test."""
    import recbole.quick_start.quick_start as quick_start
    from recbole.evaluator import Evaluator

    from recbole_prism.recommend.checkpoint import read_interactions

    record, evaluate, prepare = Record(), Evaluator.evaluate, quick_start.data_preparation

    def watched_evaluate(self, struct):
        record.config, record.struct = self.config, struct
        return evaluate(self, struct)

    def watched_preparation(config, dataset):
        record.dataset = dataset
        record.interactions = read_interactions(dataset)
        record.loaders = prepare(config, dataset)
        return record.loaders

    Evaluator.evaluate, quick_start.data_preparation = watched_evaluate, watched_preparation
    try:
        yield record
    finally:
        Evaluator.evaluate, quick_start.data_preparation = evaluate, prepare


def row_metrics(config, struct) -> dict[str, np.ndarray]:
    """RecBole's own top-k metrics before it averages: {"ndcg@10": [R], ...}."""
    from recbole.evaluator.base_metric import TopkMetric
    from recbole.evaluator.register import metrics_dict

    columns = {}
    for name in config["metrics"]:
        kind = metrics_dict[name.lower()]
        if not (issubclass(kind, TopkMetric) and kind.metric_need == ["rec.topk"]):
            continue
        metric = kind(config)
        hits, counts = metric.used_info(struct)
        takes_counts = "pos_len" in inspect.signature(kind.metric_info).parameters
        values = metric.metric_info(hits, counts) if takes_counts else metric.metric_info(hits)
        for k in config["topk"]:
            columns[f"{name.lower()}@{k}"] = np.asarray(values[:, k - 1], dtype=np.float32)
    return columns


def training_counts(histories, n_items: int) -> np.ndarray:
    """Interactions of each item in the training part, be they a target there or only part of a history: [N]."""
    lengths = np.diff(histories.offsets)
    end = np.where(histories.test >= 0, histories.test, lengths)
    end = np.where(histories.valid >= 0, histories.valid, end)
    place = np.arange(len(histories.items)) - np.repeat(histories.offsets[:-1], lengths)
    return np.bincount(histories.items[place < np.repeat(end, lengths)], minlength=n_items)


def _occurrence(users: np.ndarray) -> np.ndarray:
    """How many earlier rows are of the same user: [R]."""
    order = np.argsort(users, kind="stable")
    begins = np.flatnonzero(np.diff(users[order], prepend=-1))
    counts = np.empty(len(users), dtype=np.int64)
    counts[order] = np.arange(len(users)) - np.repeat(begins, np.diff(np.append(begins, len(users))))
    return counts


def training_curves(trainer) -> dict:
    """Seconds and losses of each epoch after the ``first`` ones, which a run that was resumed has from before, and
    validation metrics every ``valid_every`` epochs; plain numbers."""
    every = getattr(trainer, "eval_step", 1) or 1
    valid = [{name: float(value) for name, value in result.items()} for result in getattr(trainer, "valid_results", [])]
    return {
        "first": int(getattr(trainer, "start_epoch", 0)),
        "seconds": list(getattr(trainer, "epoch_seconds", [])),
        "losses": [dict(losses) for losses in getattr(trainer, "epoch_losses", [])],
        "valid": valid,
        "valid_every": int(every),
    }
