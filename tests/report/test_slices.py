"""Groups of test rows, and metrics in them."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_prism.report.record import HISTORY, POPULARITY
from recbole_prism.report.slices import BY_HISTORY, BY_POPULARITY, COLD, Group, csv_slices, make_groups, make_slices
from tests.report.conftest import made_columns


def by_kind(groups):
    kinds = {}
    for group in groups:
        kinds.setdefault(group.kind, {})[group.label] = group.rows
    return kinds


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60))
def test_every_row_is_in_exactly_one_group_of_a_kind(lengths):
    columns = {HISTORY: np.array(lengths), POPULARITY: np.array(lengths)}
    kinds = by_kind(make_groups(columns))
    if BY_HISTORY in kinds:
        assert (sum(rows.astype(int) for rows in kinds[BY_HISTORY].values()) == 1).all()
    if BY_POPULARITY in kinds:  # of warm targets
        assert (sum(rows.astype(int) for rows in kinds[BY_POPULARITY].values()) == (np.array(lengths) > 0)).all()


def test_groups_are_named_after_what_is_in_them():
    kinds = by_kind(make_groups(made_columns()))
    assert list(kinds[COLD]) == ["cold", "warm"] and kinds[COLD]["cold"].sum() == 20
    assert list(kinds[BY_POPULARITY]) == ["5", "10"]
    assert list(kinds[BY_HISTORY]) == ["3–5", "6–8", "9–11", "12–14"]
    assert kinds["image of the target"]["lacks image"].sum() == 30
    assert list(kinds["image in the history"]) == ["all items", "some items"]


def test_a_kind_with_one_group_says_nothing():
    assert make_groups({HISTORY: np.full(9, 4), POPULARITY: np.full(9, 3), "target_has.text": np.ones(9)}) == []


def test_intervals_of_metrics_do_not_go_below_zero():
    """One hit of twelve: the normal approximation would go to -.08."""
    rows = np.eye(1, 12)
    groups = [Group(COLD, "cold", np.ones(12, dtype=bool))]
    (only,) = make_slices("d", groups, {"m": {"recall@10": rows}})
    assert only.mean == pytest.approx(1 / 12) and only.low == 0 < only.mean < only.high
    worse = make_slices("d", groups, {"base": {"recall@10": rows}, "m": {"recall@10": 0 * rows}}, "base")[1]
    assert worse.difference == pytest.approx(-1 / 12) and worse.difference_low < worse.difference < 0


def test_slices_are_means_differences_and_intervals():
    groups = [group for group in make_groups(made_columns()) if group.kind == COLD]
    rng = np.random.default_rng(0)
    base = rng.random((2, 60))
    better = base + np.where(groups[0].rows, 0.2, 0.0)
    slices = make_slices("d", groups, {"base": {"ndcg@10": base}, "better": {"ndcg@10": better}}, "base")
    cold = {each.model: each for each in slices if each.group == "cold"}
    assert cold["base"].difference is None and cold["base"].rows == 20
    assert cold["base"].mean == pytest.approx(base[:, groups[0].rows].mean())
    assert cold["base"].low < cold["base"].mean < cold["base"].high
    assert cold["better"].difference == pytest.approx(0.2) == pytest.approx(cold["better"].difference_low)
    warm = next(each for each in slices if each.group == "warm" and each.model == "better")
    assert warm.difference == 0
    seeds = {"base": [1, 2], "better": [2]}
    fewer = make_slices("d", groups, {"base": {"r": base}, "better": {"r": base[1:] + 0.1}}, "base", seeds)
    assert next(each.difference for each in fewer if each.model == "better") == pytest.approx(0.1)
    lines = list(csv.DictReader(io.StringIO(csv_slices(slices))))
    assert len(lines) == 4 and float(lines[2]["mean"]) == pytest.approx(slices[2].mean)
