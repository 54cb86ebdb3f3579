"""Explanations of many users together: how gate weights are distributed, and whether they are faithful.

Shapes: B users, K experts, M modalities, G groups of history length.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from recbole_prism.errors import PRISMError
from recbole_prism.recommend import deletion
from recbole_prism.recommend.recommender import Recommender

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
N_GROUPS = 4
USERS_AT_ONCE = 256


@dataclass
class Population:
    """weights [B, K]; drops of the best item's log-probability without an expert [B, K] or a modality [B, M]."""

    users: list[str]
    lengths: np.ndarray
    experts: list[str]
    weights: np.ndarray
    expert_drops: np.ndarray
    modalities: list[str]
    modality_drops: np.ndarray
    summary: dict = field(default_factory=dict)


def survey(
    recommender: Recommender, *, n_users: int, history: str = "full", seed: int = 0, among: set[str] | None = None
) -> Population:
    """Deletion tests of experts and modalities for ``n_users`` users drawn at random (all, if there are no more).

    ``among``: tokens of the users to draw from. Raises PRISMError for models without modalities or users.
    """
    model, histories = recommender.loaded.model, recommender.loaded.users()
    experts, modalities = deletion.gated_names(model), deletion.modality_names(model)
    if not modalities:
        raise PRISMError(
            f"{recommender.loaded.name} has neither experts nor modalities; explain a user or a --sequence"
        )
    users = np.array([user for user in range(1, len(histories.tokens)) if histories.has(user, history)])
    if among is not None:
        users = np.array([user for user in users if histories.tokens[user] in among])
    if not len(users):
        raise PRISMError(f"no user has the history {history!r}; see eval_args")
    if n_users < len(users):
        users = np.sort(np.random.default_rng(seed).choice(users, n_users, replace=False))
    parts: list[tuple[np.ndarray, ...]] = []
    for start in range(0, len(users), USERS_AT_ONCE):
        some = users[start : start + USERS_AT_ONCE].tolist()
        with recommender.loaded.lock:
            parts.append(_drops(recommender, [histories.history(user, history) for user in some], some))
    weights, expert_drops, modality_drops = (np.concatenate(each) for each in zip(*parts, strict=True))
    lengths = np.array([len(histories.history(user, history)) for user in users])
    tokens = [histories.tokens[user] for user in users]
    population = Population(tokens, lengths, experts, weights, expert_drops, modalities, modality_drops)
    population.summary = summarize(population)
    return population


def _drops(recommender: Recommender, histories, users) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights [B, K], drops without each expert [B, K] and without each modality [B, M]."""
    model, experts = recommender.loaded.model, deletion.gated_names(recommender.loaded.model)
    scores, weights = scores_and_weights(recommender, histories, users)
    target = deletion.best_unseen(scores, histories)
    drops: dict[str, list[np.ndarray]] = {"expert": [], "modality": []}
    for k in range(len(experts)):
        with deletion.without_expert(model, k):
            without = recommender.scorer.scores(histories, users)
        drops["expert"].append(deletion.compare(scores, without, target)[1])
    for name in deletion.modality_names(model):
        with deletion.without_modality(model, name):
            without = recommender.scorer.scores(histories, users)
        drops["modality"].append(deletion.compare(scores, without, target)[1])
    stacked = [np.stack(each, 1) if each else np.empty((len(users), 0)) for each in drops.values()]
    return weights, stacked[0], stacked[1]


def scores_and_weights(recommender: Recommender, histories, users):
    """Scores [B, N] and gate weights [B, K] of one pass over many histories."""
    import torch

    model = recommender.loaded.model
    scores = torch.empty(len(histories), recommender.scorer.n_items)
    weights = np.full((len(histories), len(deletion.gated_names(model))), np.nan)
    for rows, part in recommender.scorer.batches(histories, users):
        scores[torch.from_numpy(rows)] = part.cpu()
        found = deletion.expert_weights(model)
        if found is not None:
            weights[rows] = found.numpy()
    return scores.to(model.device), weights


def summarize(population: Population) -> dict:
    """Distributions, groups by history length, faithfulness; plain numbers, ready for JSON."""
    summary: dict = {"users": len(population.users)}
    if population.experts:
        weights = population.weights[weighed(population.weights)]
        summary["weights"] = {name: _distribution(weights[:, k]) for k, name in enumerate(population.experts)}
        summary["by_history_length"] = by_length(population)
        summary["faithfulness"] = faithfulness(population.weights, population.expert_drops)
        summary["expert_drops"] = {
            name: _distribution(population.expert_drops[:, k]) for k, name in enumerate(population.experts)
        }
    total = np.abs(population.modality_drops).sum(1, keepdims=True)
    shares = np.abs(population.modality_drops) / np.where(total > 0, total, 1)
    summary["modalities"] = {
        name: {"drop": _distribution(population.modality_drops[:, m]), "mean_share": float(shares[:, m].mean())}
        for m, name in enumerate(population.modalities)
    }
    return summary


def weighed(weights: np.ndarray) -> np.ndarray:
    """Which users have weights [B, K]; a history without any modality has none. All, if nobody has: bool [B]."""
    some = weights.any(1)
    return some if some.any() else np.ones(len(weights), dtype=bool)


def by_length(population: Population) -> list[dict]:
    """Mean weights of users in quarters of history length (fewer groups where lengths repeat)."""
    edges = np.unique(np.quantile(population.lengths, np.linspace(0, 1, N_GROUPS + 1)[1:]).astype(int))
    group = np.searchsorted(edges, population.lengths)
    has_weights = weighed(population.weights)
    rows = []
    for g in range(len(edges)):
        inside = (group == g) & has_weights
        if inside.any():
            weights = population.weights[inside].mean(0)
            rows.append(
                {
                    "lengths": [int(population.lengths[inside].min()), int(population.lengths[inside].max())],
                    "users": int(inside.sum()),
                    "weights": dict(zip(population.experts, weights.tolist(), strict=True)),
                }
            )
    return rows


def faithfulness(weights: np.ndarray, drops: np.ndarray) -> dict:
    """Does removing the expert of the highest weight hurt more than removing that of the lowest? weights, drops [B, K].

    ``rank_correlation``: Spearman's, of weights and drops within each user, averaged. Standard errors are over users.
    A weight of 0 is that of an expert that is switched off, or of a modality that is not there: neither counts. Asked
    are the ``users`` whose other weights differ; where there are none, nothing else is told.
    """
    on = weights > 0
    lowest, highest = np.where(on, weights, np.inf), np.where(on, weights, -np.inf)
    asked = lowest.min(1) < highest.max(1)
    if not asked.any():
        return {"users": 0}
    weights, drops, on = weights[asked], drops[asked], on[asked]
    rows = np.arange(len(weights))
    high, low = drops[rows, highest[asked].argmax(1)], drops[rows, lowest[asked].argmin(1)]
    correlations = _rank_correlation(np.where(on, weights, np.nan), np.where(on, drops, np.nan))
    error = float(correlations.std(ddof=1) / np.sqrt(len(rows))) if len(rows) > 1 else None
    return {
        "users": len(rows),
        "drop_without_highest": float(high.mean()),
        "drop_without_lowest": float(low.mean()),
        "users_where_highest_hurts_more": float((high > low).mean()),
        "rank_correlation": float(correlations.mean()),
        "rank_correlation_standard_error": error,
    }


def stability(first: Population, second: Population) -> dict[str, float]:
    """Spearman's correlation over users of each expert's weight in two models, say of two seeds.

    Raises PRISMError if the models have other experts, or no two users in common.
    """
    from scipy.stats import spearmanr

    if first.experts != second.experts:
        raise PRISMError(f"the models have other experts: {first.experts} and {second.experts}")
    place = {user: n for n, user in enumerate(second.users)}
    pairs = [(n, place[user]) for n, user in enumerate(first.users) if user in place]
    if len(pairs) < 3:
        raise PRISMError(f"the models have {len(pairs)} users in common; too few to compare their weights")
    mine, theirs = np.array(pairs).T
    return {
        name: float(spearmanr(first.weights[mine, k], second.weights[theirs, k]).statistic)
        for k, name in enumerate(first.experts)
    }


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each row of a and b [B, K] -> [B], NaN left out; 0 where one does not vary."""
    from scipy.stats import rankdata

    ranks = (rankdata(x, axis=1, nan_policy="omit") for x in (a, b))
    a, b = (np.nan_to_num(x - np.nanmean(x, axis=1, keepdims=True)) for x in ranks)
    norm = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.divide((a * b).sum(1), norm, out=np.zeros(len(a)), where=norm > 0)


def _distribution(values: np.ndarray) -> dict:
    quantiles = np.quantile(values, QUANTILES)
    return {
        "mean": float(values.mean()),
        "std": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        "quantiles": {str(q): float(v) for q, v in zip(QUANTILES, quantiles, strict=True)},
    }
