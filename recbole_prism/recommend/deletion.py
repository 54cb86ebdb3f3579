"""Deletion tests: how the score of one item changes when a part of what the model saw is taken away.

Shapes: B histories, N items (padding included), K experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recbole_prism.errors import PRISMError
from recbole_prism.recommend.recommender import Recommender


@dataclass
class Effect:
    """What taking ``name`` away does to the explained item: a positive change means that it spoke for the item.

    ``score``: score with everything minus score without; ``log_probability``: the same after a softmax over all items,
    which a shift of all scores leaves alone; ``rank``: of the item afterwards, among all items.
    """

    name: str
    score: float
    log_probability: float
    rank: int
    title: str = ""
    weight: float | None = None
    share: float | None = None


@dataclass
class Explanation:
    """Why ``item`` has ``score`` and ``rank`` after a history. ``share``s are |log_probability| over their sum."""

    item: str
    title: str
    score: float
    rank: int
    experts: list[Effect]
    modalities: list[Effect]
    history: list[Effect]


def explain(
    recommender: Recommender, history: np.ndarray, *, user: int | None = None, item: str | None = None
) -> Explanation:
    """Deletion tests for one history of item ids and one item token (None: the best one not in the history).

    ``history``: ids of ``catalogue.ids``, int64 [L]. Items of it beyond MAX_ITEM_LIST_LENGTH do not reach the model and
    are left out, and so is the first item with BERT4Rec (``drops_first``). Of the effects only items have titles, and
    only experts weights. Raises PRISMError for an unknown item and for a history that is empty or holds no ids.
    """
    history = np.asarray(history)
    if history.ndim != 1 or not len(history) or history.dtype.kind not in "iu":
        raise PRISMError("history: must hold at least one item, as ids (catalogue.ids makes them of tokens)")
    if history.min() < 1 or history.max() >= len(recommender.catalogue.tokens):
        raise PRISMError(f"history: ids are from 1 to {len(recommender.catalogue)}, and it has {history.tolist()}")
    with recommender.loaded.lock:
        return _explain(recommender, history.astype(np.int64), user, item)


def _explain(recommender: Recommender, history: np.ndarray, user: int | None, item: str | None) -> Explanation:
    model, catalogue = recommender.loaded.model, recommender.catalogue
    past, history = history, history[-recommender.scorer.max_length :]
    users = None if user is None else [user]
    scores = recommender.scorer.scores([history], users)
    weights = expert_weights(model)
    target = best_unseen(scores, [past]) if item is None else np.array(catalogue.ids([item]))

    def effect(name: str, without: Tensor, **more) -> Effect:
        drop, log_drop, rank = (values[0] for values in compare(scores, without, target))
        return Effect(name, float(drop), float(log_drop), int(rank), **more)

    experts = []
    for k, name in enumerate(gated_names(model)):
        with without_expert(model, k):
            weight = None if weights is None else float(weights[0, k])
            experts.append(effect(name, recommender.scorer.scores([history], users), weight=weight))
    modalities = []
    for name in modality_names(model):
        with without_modality(model, name):
            modalities.append(effect(name, recommender.scorer.scores([history], users)))
    items, first = [], int(drops_first(model))
    if len(history) - first > 1:  # without its only item there is no history
        places = range(first, len(history))
        shorter = [np.delete(history, n) for n in places]
        rows = recommender.scorer.scores(shorter, users and users * len(shorter))
        for n, row in zip(places, rows, strict=True):
            token = catalogue.tokens[history[n]]
            items.append(effect(token, row.unsqueeze(0), title=catalogue.title(token)))
    for group in (experts, modalities, items):
        total = sum(abs(each.log_probability) for each in group)
        for each in group:
            each.share = abs(each.log_probability) / total if total else None
    token = catalogue.tokens[target[0]]
    score = float(scores[0, target[0]])
    return Explanation(token, catalogue.title(token), score, int(ranks(scores, target)[0]), experts, modalities, items)


def compare(scores: Tensor, without: Tensor, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Drops of score and of log-probability of each row's target, and its rank without; each [B]."""
    rows, columns = torch.arange(len(target)), torch.from_numpy(target)
    drop = scores[rows, columns] - without[rows, columns]
    log_drop = (_log_softmax(scores) - _log_softmax(without))[rows, columns]
    return drop.cpu().numpy(), log_drop.cpu().numpy(), ranks(without, target)


def ranks(scores: Tensor, target: np.ndarray) -> np.ndarray:
    """Rank of each row's target among all items, 1 for the best: [B]."""
    mine = scores[torch.arange(len(target)), torch.from_numpy(target)]
    return 1 + (scores[:, 1:] > mine[:, None]).sum(1).cpu().numpy()


def best_unseen(scores: Tensor, histories: Sequence[np.ndarray]) -> np.ndarray:
    """Id of each row's best item that its history lacks, or of its best item if it lacks none: [B]."""
    unseen = torch.ones_like(scores, dtype=torch.bool)
    for row, history in enumerate(histories):
        unseen[row, torch.from_numpy(history)] = False
    unseen[:, 0] = False
    unseen |= ~unseen.any(1, keepdim=True)
    unseen[:, 0] = False
    return scores.masked_fill(~unseen, -torch.inf).argmax(1).cpu().numpy()


def _log_softmax(scores: Tensor) -> Tensor:
    scores = scores.clone()
    scores[:, 0] = -torch.inf  # padding is no item
    return torch.log_softmax(scores.double(), dim=1)


# -- what a model has ------------------------------------------------------------------------------------------------


def expert_weights(model) -> Tensor | None:
    """Gate weights [B, K] of the last forward pass; None for models and fusions without a gate."""
    weights = getattr(model, "expert_weights", None)
    return weights.detach().float().cpu() if weights is not None and gated_names(model) else None


def gated_names(model) -> list[str]:
    """Names of what the gate weighs; empty without a gate."""
    fusion = getattr(model, "fusion", None)
    return list(getattr(fusion, "names", ())) if hasattr(fusion, "gate") else []


def drops_first(model) -> bool:
    """Whether a row's first item never reaches the model, as in RecBole's BERT4Rec, which puts a mask at the end."""
    return hasattr(model, "reconstruct_test_data")


def modality_names(model) -> list[str]:
    """Modalities of a PRISM model; empty for a plain backbone."""
    return list(model.modalities.names) if hasattr(model, "modalities") else []


@contextmanager
def without_expert(model, k: int) -> Iterator[None]:
    """Expert k adds nothing to the fused vector; the weights of the others stay."""

    def zero(module, inputs, weights: Tensor) -> Tensor:
        kept = torch.ones_like(weights)
        kept[..., k] = 0
        return weights * kept

    handle = model.fusion.gate.register_forward_hook(zero)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def without_modality(model, name: str) -> Iterator[None]:
    """The items of the history lack this modality, as items without features do; candidates keep it."""
    if name not in modality_names(model):
        raise PRISMError(f"{name!r}: no modality of this model; it has {modality_names(model)}")
    modalities, embedding = model.modalities, model.item_embedding
    candidates = getattr(embedding, "content", None)
    with torch.no_grad():
        whole = modalities()[0].sum(1)
        with modalities.lacking(name, torch.ones_like(getattr(modalities, f"covered_{name}"))):
            reduced = modalities()
    model.project_table = lambda: reduced
    if candidates is not None:
        embedding.content = lambda: whole
    try:
        yield
    finally:
        del model.project_table
        if candidates is not None:
            embedding.content = candidates
