"""Partial information decomposition of two sources about a target, in bits (Bertschinger et al., Entropy 16, 2014).

BROJA: among all joint distributions q(y, a, b) with the pairwise marginals q(y, a) = p(y, a) and q(y, b) = p(y, b), the
one with the least I_q(Y; A, B) holds no synergy. With that least value J:

    unique_a = J - I(Y; B),  unique_b = J - I(Y; A),  redundancy = I(Y; A) + I(Y; B) - J,  synergy = I_p(Y; A, B) - J

J is a convex programme over exponential cones (Makkeh, Theis, Vicente, Entropy 20, 2018), solved here by Clarabel.
Shapes: p [Y, A, B], a table of probabilities or counts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from recbole_prism.errors import PRISMError

PARTS = ("unique_a", "unique_b", "redundancy", "synergy")


def decompose(table: np.ndarray) -> dict[str, float]:
    """The four parts in bits, of a table [Y, A, B] of probabilities or counts."""
    p = np.asarray(table, dtype=np.float64)
    if p.ndim != 3 or p.min(initial=0) < 0 or p.sum() <= 0:
        raise PRISMError(f"a table [Y, A, B] of counts is needed, not one of shape {list(p.shape)} and sum {p.sum():g}")
    p = p / p.sum()
    with_a, with_b = mutual_information(p.sum(2)), mutual_information(p.sum(1))
    joint = mutual_information(p.reshape(len(p), -1))
    least = min(max(_entropy(p.sum((1, 2))) - most_conditional_entropy(p), with_a, with_b), joint)
    values = (least - with_b, least - with_a, with_a + with_b - least, joint - least)
    return {name: max(0.0, float(value)) for name, value in zip(PARTS, values, strict=True)}


def mutual_information(p: np.ndarray) -> float:
    """I(Y; X) in bits of a table p [Y, X] that sums to one."""
    return _entropy(p.sum(1)) + _entropy(p.sum(0)) - _entropy(p)


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum())


def most_conditional_entropy(p: np.ndarray) -> float:
    """max H_q(Y | A, B) over q with p's marginals (y, a) and (y, b), in bits: p [Y, A, B].

    Variables r and q of every cell (y, a, b) that both marginals allow, and w of every (a, b); maximise sum r subject
    to the marginals, w = sum_y q, and (r, q, w) in the exponential cone, that is r <= q log(w / q).
    """
    from scipy import sparse

    clarabel = _solver()
    allowed = (p.sum(2) > 0)[:, :, None] & (p.sum(1) > 0)[:, None, :]
    y, a, b = np.nonzero(allowed)
    n, cell = len(y), np.arange(len(y))
    n_y, n_a, n_b = p.shape
    one = np.ones(n)
    # marginals (y, a) and (y, b); of these, rows without a cell and one dependent row per y do no harm but are left out
    marginals = sparse.vstack(
        [
            sparse.csr_matrix((one, (y * n_a + a, cell)), shape=(n_y * n_a, n)),
            sparse.csr_matrix((one, (y * n_b + b, cell)), shape=(n_y * n_b, n)),
        ]
    ).tocsr()
    value = np.concatenate([p.sum(2).ravel(), p.sum(1).ravel()])
    kept = value > 0
    first_b = {}
    for row in np.flatnonzero(kept[n_y * n_a :]):
        first_b.setdefault(row // n_b, n_y * n_a + row)
    kept[list(first_b.values())] = False
    marginals, value = marginals[kept], value[kept]
    pair, where = np.unique(a * n_b + b, return_inverse=True)
    totals = len(pair)  # a variable for each sum over y keeps the cones sparse
    by_pair = sparse.csr_matrix((one, (where, cell)), shape=(totals, n))
    cones = -sparse.block_diag([sparse.eye(n), sparse.eye(n), by_pair.T], format="csr")
    order = np.arange(3 * n).reshape(3, n).T.ravel()  # r, q, sum of one cell side by side
    left = sparse.vstack(
        [
            sparse.hstack([sparse.csr_matrix((len(value), n)), marginals, sparse.csr_matrix((len(value), totals))]),
            sparse.hstack([sparse.csr_matrix((totals, n)), by_pair, -sparse.eye(totals)]),
            cones[order],
        ]
    )
    right = np.concatenate([value, np.zeros(totals + 3 * n)])
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    objective = np.concatenate([-one, np.zeros(n + totals)])
    shape = [clarabel.ZeroConeT(len(value) + totals), *[clarabel.ExponentialConeT()] * n]
    solution = clarabel.DefaultSolver(
        sparse.csc_matrix((left.shape[1],) * 2), objective, left.tocsc(), right, shape, settings
    ).solve()
    if str(solution.status) not in ("Solved", "AlmostSolved"):
        raise PRISMError(f"the decomposition of a table {list(p.shape)} was not solved ({solution.status})")
    return -float(solution.obj_val) / np.log(2)


def _solver():
    try:
        import clarabel
    except ImportError as error:
        raise PRISMError("pid needs the solver Clarabel: pip install recbole-prism[pid]") from error
    return clarabel


def count(y: np.ndarray, a: np.ndarray, b: np.ndarray, sizes: tuple[int, int, int]) -> np.ndarray:
    """How often each combination occurs: codes [R] each -> [Y, A, B]."""
    flat = np.bincount(np.ravel_multi_index((y, a, b), sizes), minlength=int(np.prod(sizes)))
    return flat.reshape(sizes)


def bootstrap(
    draw: Callable[[np.random.Generator], np.ndarray], estimate: dict[str, float], times: int, seed: int
) -> dict[str, tuple[float, float]]:
    """95 % intervals from ``times`` tables that ``draw`` makes by resampling.

    Basic bootstrap, 2 estimate - quantile: a resample overstates information once more than the sample does, and the
    reflection takes that off. Cut at zero.
    """
    rng = np.random.default_rng(seed)
    values = [decompose(draw(rng)) for _ in range(times)]
    intervals = {}
    for name, value in estimate.items():
        low, high = np.quantile([v[name] for v in values], [0.025, 0.975])
        intervals[name] = (max(0.0, 2 * value - high), max(0.0, 2 * value - low))
    return intervals
