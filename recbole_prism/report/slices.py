"""Metrics of groups of test rows: by history length, popularity of the target, cold targets, missing modalities.

Shapes: R rows, S seeds.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import NamedTuple

import numpy as np

from recbole_prism.report.record import HISTORY, HISTORY_HAS, POPULARITY, TARGET_HAS

N_GROUPS = 4
BY_HISTORY, BY_POPULARITY, COLD = "history length", "popularity of the target", "cold or warm target"


class Group(NamedTuple):
    """Test rows that have something in common: ``rows`` bool [R]."""

    kind: str
    label: str
    rows: np.ndarray


@dataclass
class Slice:
    """One metric of one model in one group; low, high: 95 % over rows. ``difference`` is to the baseline, paired by
    row, None where there is none."""

    dataset: str
    kind: str
    group: str
    rows: int
    model: str
    metric: str
    mean: float
    low: float
    high: float
    std_over_seeds: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None


def make_groups(columns: Mapping[str, np.ndarray]) -> list[Group]:
    """All groups that the columns of a run (``record``) tell; a kind is left out where it has fewer than two."""
    groups = []
    if HISTORY in columns:
        groups += _quantile_groups(BY_HISTORY, columns[HISTORY])
    popularity = columns.get(POPULARITY)
    if popularity is not None and (popularity >= 0).all():
        warm = popularity > 0
        found = [Group(COLD, "cold", ~warm), Group(COLD, "warm", warm)]
        groups += [group for group in found if 0 < group.rows.sum() < len(warm)]
        groups += _quantile_groups(BY_POPULARITY, popularity, where=warm)
    for column, values in columns.items():
        if column.startswith(TARGET_HAS):
            name = column.removeprefix(TARGET_HAS)
            cuts = {f"has {name}": values > 0, f"lacks {name}": values == 0}
            groups += _named_groups(f"{name} of the target", cuts)
        elif column.startswith(HISTORY_HAS):
            name = column.removeprefix(HISTORY_HAS)
            cuts = {"all items": values == 1, "some items": (values > 0) & (values < 1), "no item": values == 0}
            groups += _named_groups(f"{name} in the history", cuts)
    return groups


def _quantile_groups(kind: str, values: np.ndarray, where: np.ndarray | None = None) -> list[Group]:
    """Quarters of about equal size (fewer where values repeat), named after the values in them."""
    where = np.ones(len(values), dtype=bool) if where is None else where
    if not where.any():
        return []
    edges = np.unique(np.quantile(values[where], np.linspace(0, 1, N_GROUPS + 1)[1:]).astype(int))
    edges[-1] = values[where].max()
    place, cuts = np.searchsorted(edges, values), {}
    for number in range(len(edges)):
        inside = where & (place == number)
        if inside.any():
            low, high = int(values[inside].min()), int(values[inside].max())
            cuts[f"{low}" if low == high else f"{low}–{high}"] = inside
    return _named_groups(kind, cuts)


def _named_groups(kind: str, cuts: Mapping[str, np.ndarray]) -> list[Group]:
    groups = [Group(kind, label, rows) for label, rows in cuts.items() if rows.any()]
    return groups if len(groups) > 1 else []


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean of values [R] and its 95 % interval, normal approximation; no width for one row."""
    mean = float(values.mean())
    half = 1.96 * float(values.std(ddof=1)) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return mean, mean - half, mean + half


def metric_interval(values: np.ndarray) -> tuple[float, float, float]:
    """``mean_interval`` of a metric, which is never below 0; few rows would have the approximation go there."""
    mean, low, high = mean_interval(values)
    return mean, max(low, 0.0), high


def make_slices(
    dataset: str,
    groups: list[Group],
    values: Mapping[str, Mapping[str, np.ndarray]],
    baseline: str | None = None,
    seeds: Mapping[str, Sequence[int]] | None = None,
) -> list[Slice]:
    """values {model: {metric: [S, R]}}, rows in the order of the groups'; seeds {model: [S]}, the same ones if None.

    Differences are over the seeds that both models have.
    """
    slices = []
    for group in groups:
        for model, by_metric in values.items():
            for metric, by_seed in by_metric.items():
                some = by_seed[:, group.rows]
                entry = Slice(
                    dataset, group.kind, group.label, some.shape[1], model, metric, *metric_interval(some.mean(0))
                )
                if len(some) > 1:
                    entry.std_over_seeds = float(some.mean(1).std(ddof=1))
                theirs = values.get(baseline, {}).get(metric)
                ours, others = _paired(len(some), seeds and seeds[model], seeds and seeds.get(baseline))
                if theirs is not None and model != baseline and ours:
                    gains = some[ours].mean(0) - theirs[others][:, group.rows].mean(0)
                    entry.difference, entry.difference_low, entry.difference_high = mean_interval(gains)
                slices.append(entry)
    return slices


def _paired(n: int, ours: Sequence[int] | None, theirs: Sequence[int] | None) -> tuple[list[int], list[int]]:
    """Where the seeds stand that both have; all n, where they are not named."""
    if ours is None or theirs is None:
        return list(range(n)), list(range(n))
    common = [seed for seed in ours if seed in theirs]
    return [ours.index(seed) for seed in common], [theirs.index(seed) for seed in common]


def csv_slices(slices: list[Slice]) -> str:
    """One line a group, model and metric."""
    file = io.StringIO()
    writer = csv.DictWriter(file, [field.name for field in fields(Slice)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(each) for each in slices)
    return file.getvalue()
