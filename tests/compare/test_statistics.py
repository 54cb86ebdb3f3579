"""Tests of significance against what is known of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_prism.compare.statistics import ByUser, compare_all, compare_pair, holm, paired_bootstrap, paired_t


def as_arrays(users: dict) -> dict:
    """{model: {seed: {user: values}}} -> what was tested; several values are of several rows."""

    def tested(of: dict) -> ByUser:
        rows = [np.atleast_1d(of[user]) for user in sorted(of)]
        return ByUser(np.array(sorted(of)), np.array([len(r) for r in rows]), np.array([np.mean(r) for r in rows]))

    return {model: {s: tested(of) for s, of in seeds.items()} for model, seeds in users.items()}


P = st.lists(st.none() | st.floats(0, 1), max_size=8)


def test_holm_of_a_known_family():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, None, 0.9]) == [1.0, None, 1.0]


@given(P)
def test_holm_never_lowers_a_p_value_and_keeps_their_order(values):
    corrected = holm(values)
    known = [(p, c) for p, c in zip(values, corrected, strict=True) if p is not None]
    assert all(p <= c <= 1 for p, c in known)
    assert all(a[1] <= b[1] for a, b in zip(sorted(known), sorted(known)[1:], strict=False))
    assert [p is None for p in values] == [c is None for c in corrected]


def test_paired_t_is_scipys():
    from scipy.stats import ttest_rel

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=5), rng.normal(size=5)
    assert paired_t(a - b) == pytest.approx(ttest_rel(a, b).pvalue)
    assert paired_t(np.array([1.0])) is None and paired_t(np.zeros(3)) is None
    same = np.array([0.04, 0.045]) - np.array([0.03, 0.035])  # .01 twice, for the hundred users of a small set
    assert same[0] != same[1] and paired_t(same) is None, "rounding is no spread"


def test_bootstrap_finds_a_difference_and_only_where_there_is_one():
    rng = np.random.default_rng(0)
    clear, (low, high) = paired_bootstrap(rng.normal(0.5, 1, size=400))
    assert clear < 0.01 and 0.3 < low < 0.5 < high < 0.7
    none, (low, high) = paired_bootstrap(rng.normal(0, 1, size=400))
    assert none > 0.05 and low < 0 < high
    assert paired_bootstrap(np.zeros(10)) == (1.0, (0.0, 0.0))
    assert paired_bootstrap(np.empty(0)) == (None, None)


def test_bootstrap_p_values_are_uniform_without_a_difference():
    rng = np.random.default_rng(1)
    ps = np.array([paired_bootstrap(rng.normal(size=60), draws=500, seed=n)[0] for n in range(200)])
    assert 0.01 < (ps < 0.05).mean() < 0.11 and 0.4 < ps.mean() < 0.6


def test_seeds_and_users_are_paired_by_name():
    values = {"base": {1: 0.1, 2: 0.2, 3: 0.3}, "new": {3: 0.33, 2: 0.21, 1: 0.12}, "other": {9: 0.5}}
    users = {
        "base": dict.fromkeys((1, 2, 3), {"a": 0.0, "b": 1.0}),
        "new": dict.fromkeys((1, 2, 3), {"b": 1.0, "a": 0.5}),
    }
    found = compare_all(values, "base", users=as_arrays(users))
    assert set(found) == {"new"}
    assert found["new"].difference == pytest.approx(0.02) and found["new"].gain == pytest.approx(0.1)
    assert found["new"].p_seeds == found["new"].p_seeds_corrected
    assert found["new"].interval == pytest.approx((0, 0.5))


def test_models_that_tested_other_users_are_compared_on_those_in_common():
    """As Pop, which also tests users whose history is too short for a sequential model."""
    values = {"base": {1: 0.9, 2: 0.9}, "new": {1: 0.25, 2: 0.35}}
    users = {
        "base": {1: {"a": 0.1, "b": 0.2, "c": 1.0}, 2: {"a": 0.2, "b": 0.2, "c": 1.0}},
        "new": {1: {"a": 0.2, "b": 0.3}, 2: {"a": 0.4, "b": 0.3}},
    }
    found = compare_all(values, "base", users=as_arrays(users))["new"]
    assert found.difference == pytest.approx(0.125) and found.gain == pytest.approx(0.125 / 0.175)
    assert found.interval[0] <= found.difference <= found.interval[1]


def test_difference_and_interval_are_of_the_same_mean():
    """A metric is a mean over rows, so a user with many rows counts for many in either."""
    few = {f"u{n}": [0.5] for n in range(40)}
    users = {
        "base": {1: {**few, "many": [0.2] * 60}},
        "new": {1: {**dict.fromkeys(few, [0.4]), "many": [0.6] * 60}},
    }
    mean = {name: {1: np.mean([v for rows in of[1].values() for v in rows])} for name, of in users.items()}
    found = compare_all(mean, "base", users=as_arrays(users))["new"]
    assert found.difference == pytest.approx(0.2)
    assert found.interval[0] < 0 < found.difference < found.interval[1] and found.p_users > 0.05


def test_rows_that_are_counted_otherwise_are_compared_by_user():
    """A general model is asked once for all items of a user, a sequential one for each."""
    values = {"base": {1: 0.2}, "new": {1: 0.5}}
    users = {"base": {1: {"a": [0.1], "b": [0.3]}}, "new": {1: {"a": [0.5, 0.7, 0.6], "b": [0.2]}}}
    assert compare_all(values, "base", users=as_arrays(users))["new"].difference == pytest.approx(0.2)


def test_few_users_prove_nothing():
    assert paired_bootstrap(np.array([0.1]))[0] == 1
    assert paired_bootstrap(np.array([0.1, 0.2, 0.3]))[0] == 0.25
    rounding = np.random.default_rng(0).normal(size=500)
    found = compare_pair([0.1], [0.1], model_users=rounding * (1 + 1e-12), baseline_users=rounding)
    assert found.p_users == 1


def test_users_are_compared_on_the_seeds_that_both_models_have():
    values = {"base": {1: 0.1, 2: 0.4, 3: 0.4}, "new": {1: 0.11}}
    users = {name: {s: {"a": v, "b": v} for s, v in by_seed.items()} for name, by_seed in values.items()}
    found = compare_all(values, "base", users=as_arrays(users))["new"]
    assert found.difference == pytest.approx(0.01)
    assert found.interval == pytest.approx((0.01, 0.01))


def test_what_differs_in_length_is_not_paired():
    with pytest.raises(ValueError, match="2 and 1 seeds"):
        compare_pair([1, 2], [1])
