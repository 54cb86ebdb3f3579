"""The runs of a comparison on one dataset, joined by user, so that every figure is about the same test rows.

Shapes: S seeds, U users.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from recbole_prism.compare.tables import Row
from recbole_prism.report.record import WEIGHT
from recbole_prism.report.slices import Group, Slice, make_groups, make_slices


@dataclass
class Results:
    """values {label: {metric: [S, U]}}; facts: what is known of each user's test row [U]; weights {label: {expert:
    [S, U]}}; outcomes {label: [result.json of each seed]}; seeds {label: [S]}; groups: empty where users
    have several test rows."""

    dataset: str
    rows: list[Row]
    users: np.ndarray
    values: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    facts: dict[str, np.ndarray] = field(default_factory=dict)
    weights: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    outcomes: dict[str, list[dict]] = field(default_factory=dict)
    seeds: dict[str, list[int]] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)

    def slices(self, baseline: str) -> list[Slice]:
        return make_slices(self.dataset, self.groups, self.values, baseline, self.seeds)


def read_results(dataset: str, rows: list[Row]) -> Results:
    """Of the rows of one dataset. Users that some run did not test are left out."""
    folders = [Path(folder) for row in rows for folder in row.runs.values()]
    columns = {folder: _read(folder / "users.npz") for folder in folders}
    users = None
    for each in columns.values():
        found = np.unique(each["users"])
        users = found if users is None else np.intersect1d(users, found, assume_unique=True)
    results = Results(dataset, rows, users)
    joined = {folder: by_user(each, users) for folder, each in columns.items()}
    for row in rows:
        results.seeds[row.label] = list(row.runs)
        seeds = [joined[Path(folder)] for folder in row.runs.values()]
        results.outcomes[row.label] = [
            json.loads((Path(folder) / "result.json").read_text(encoding="utf-8")) for folder in row.runs.values()
        ]
        for name in seeds[0]:
            if not all(name in seed for seed in seeds):
                continue
            if "@" in name:
                results.values.setdefault(row.label, {})[name] = np.stack([seed[name] for seed in seeds])
            elif name.startswith(WEIGHT):
                expert = name.removeprefix(WEIGHT)
                results.weights.setdefault(row.label, {})[expert] = np.stack([seed[name] for seed in seeds])
            else:
                results.facts.setdefault(name, seeds[0][name])
    if all(len(np.unique(each["users"])) == len(each["users"]) for each in columns.values()):
        results.groups = make_groups(results.facts)
    return results


def _read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def by_user(columns: dict[str, np.ndarray], users: np.ndarray) -> dict[str, np.ndarray]:
    """Means over the rows of each user, in the order of ``users`` [U]."""
    found, place = np.unique(columns["users"], return_inverse=True)
    counts, order = np.bincount(place), np.searchsorted(found, users)
    return {name: (np.bincount(place, values) / counts)[order] for name, values in columns.items() if name != "users"}
