"""Is one model better than another: paired tests over seeds and over users, corrected for how many are compared.

Shapes: S seeds, U users.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass
class Comparison:
    """A model against the baseline on one metric; p-values are two-sided, None where there is nothing to test.

    ``gain`` is relative (None if the baseline is zero); ``interval``: 95 % of the mean difference over users.
    """

    difference: float
    gain: float | None
    p_seeds: float | None = None
    p_users: float | None = None
    interval: tuple[float, float] | None = None
    p_seeds_corrected: float | None = None
    p_users_corrected: float | None = None


def compare_pair(
    model: Sequence[float],
    baseline: Sequence[float],
    *,
    model_users: np.ndarray | None = None,
    baseline_users: np.ndarray | None = None,
    rows: np.ndarray | None = None,
    seed: int = 0,
) -> Comparison:
    """model, baseline [S]: one value a seed, paired by seed; model_users, baseline_users [U]: means over seeds.

    ``rows`` [U]: how many test rows each user counts for (None: one).
    Raises ValueError if what is paired differs in length.
    """
    ours, theirs = np.asarray(model, float), np.asarray(baseline, float)
    if ours.shape != theirs.shape:
        raise ValueError(f"{len(ours)} and {len(theirs)} seeds cannot be paired")
    difference = float(ours.mean() - theirs.mean())
    comparison = Comparison(difference, difference / float(theirs.mean()) if theirs.mean() else None)
    comparison.p_seeds = paired_t(ours - theirs)
    if model_users is not None and baseline_users is not None:
        if model_users.shape != baseline_users.shape:
            raise ValueError(f"{len(model_users)} and {len(baseline_users)} users cannot be paired")
        equal = np.isclose(model_users, baseline_users, rtol=1e-9, atol=1e-12)  # but for rounding
        differences = np.where(equal, 0.0, model_users - baseline_users)
        comparison.p_users, comparison.interval = paired_bootstrap(differences, rows, seed=seed)
    return comparison


def paired_t(differences: np.ndarray) -> float | None:
    """Student's paired test on differences [S]; None for fewer than two seeds, or where they do not vary at all."""
    from scipy.stats import ttest_1samp

    if len(differences) < 2 or np.ptp(differences) <= 1e-9 * np.abs(differences).max():  # equal, but for rounding
        return None
    return float(ttest_1samp(differences, 0.0).pvalue)


def paired_bootstrap(
    differences: np.ndarray,
    rows: np.ndarray | None = None,
    *,
    draws: int = 10_000,
    seed: int = 0,
    at_once: int = 1 << 22,
) -> tuple[float | None, tuple[float, float] | None]:
    """Two-sided p-value and 95 % interval of the mean of differences [U], by drawing users with replacement.

    ``rows`` [U]: how many test rows a user counts for (None: one). p is twice the smaller share of drawn means on
    either side of zero, at most 1 (1 also where no user differs), at least 2 / draws and what a sign test of the users
    could give at best, so that few users prove nothing. None without users. ``at_once``: users drawn at a time, which
    bounds memory.
    """
    n_users = len(differences)
    if not n_users:
        return None, None
    rng, means, at_once = np.random.default_rng(seed), np.empty(draws), max(1, at_once // n_users)
    for start in range(0, draws, at_once):
        chosen = rng.integers(n_users, size=(min(at_once, draws - start), n_users))
        drawn = means[start : start + len(chosen)]
        if rows is None:
            drawn[:] = differences[chosen].mean(1)
        else:
            drawn[:] = (differences * rows)[chosen].sum(1) / rows[chosen].sum(1)
    tail = min((means <= 0).mean(), (means >= 0).mean())
    low, high = np.quantile(means, [0.025, 0.975])
    return float(min(1.0, max(2 * tail, 2 / draws, 2.0 ** (1 - n_users)))), (float(low), float(high))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction of a family of p-values; None stays None and does not count."""
    known = sorted((p, n) for n, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, n) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        corrected[n] = largest
    return corrected


def _common(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a if np.array_equal(a, b) else np.intersect1d(a, b, assume_unique=True)


@dataclass
class ByUser:
    """Test rows of a run, by user: names [U], ascending, how many rows [U] and the mean of a metric over them [U]."""

    names: np.ndarray
    rows: np.ndarray
    values: np.ndarray

    def of(self, names: np.ndarray) -> ByUser:
        places = np.searchsorted(self.names, names)
        return ByUser(names, self.rows[places], self.values[places])


def compare_all(
    values: Mapping[str, Mapping[int, float]],
    baseline: str,
    *,
    users: Mapping[str, Mapping[int, ByUser]] | None = None,
) -> dict[str, Comparison]:
    """Every model against the baseline on one metric: one family for Holm's correction.

    values: {model: {seed: value}}; users: {model: {seed: what was tested}}. Only seeds and users that both models have
    are paired; a model that shares no seed with the baseline is left out. Where runs tested other users, or a user in
    another number of rows (as general models do, once for all items), seeds are compared on the users in common, too.
    """
    comparisons = {}
    for name, by_seed in values.items():
        seeds = sorted(by_seed.keys() & values[baseline].keys())
        if name == baseline or not seeds:
            continue
        pair = [np.array([values[each][seed] for seed in seeds]) for each in (name, baseline)]
        if not (users and users.get(name) and users.get(baseline)):
            comparisons[name] = compare_pair(*pair)
            continue
        runs = [[users[each][seed] for seed in seeds] for each in (name, baseline)]
        flat = [run for of_model in runs for run in of_model]
        common = functools.reduce(_common, [run.names for run in flat])
        inside = [[run.of(common) for run in of_model] for of_model in runs]
        rows = inside[0][0].rows
        alike = all(np.array_equal(run.rows, rows) for of_model in inside for run in of_model)
        rows = rows if alike and rows.max(initial=1) > 1 else None
        if len(common) and not (alike and all(len(run.names) == len(common) for run in flat)):
            pair = [np.array([np.average(run.values, weights=rows) for run in of_model]) for of_model in inside]
        means = [np.mean([run.values for run in of_model], axis=0) for of_model in inside]
        comparisons[name] = compare_pair(*pair, model_users=means[0], baseline_users=means[1], rows=rows)
    for kind in ("seeds", "users"):
        corrected = holm([getattr(each, f"p_{kind}") for each in comparisons.values()])
        for each, p in zip(comparisons.values(), corrected, strict=True):
            setattr(each, f"p_{kind}_corrected", p)
    return comparisons
