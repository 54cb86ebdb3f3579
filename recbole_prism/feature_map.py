"""Rows of a model's tables predicted from features, for items that nothing else is known of.

As in Gantner et al., Learning Attribute-to-Feature Mappings for Cold-Start Recommendations (ICDM 2010): a linear map
from features to embeddings, here a ridge regression on the known items. Shapes: N items, n known ones that are learned
from, C to predict, F features of all modalities, D size of a row.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from recbole_prism.features import Aligned

TABLES = (
    "item_embedding.weight",
    "embedding_seq_item.weight",
    "output_bias",
)  # parameters with a row for each item, in the models that have them
PENALTIES = tuple(10.0**n for n in range(-2, 7))  # features have a length of feature_length or so
FITTED = 50_000  # known items to learn the map from, drawn at random where there are more


class FeatureMap:
    """Ridge regression on the features of items and on which modalities they have.

    The penalty is that of the least error on a fifth of the known items, left out. What depends on the features alone
    is computed once, so that ``predict`` may be called for table after table.
    """

    def __init__(self, features: Mapping[str, Aligned], known: np.ndarray, asked: np.ndarray) -> None:
        """features: scaled, of N items; known, asked: ids of items to learn from (at least two) and to predict, [C]."""
        self.fitted = known[np.random.default_rng(0).permutation(len(known))[:FITTED]]
        x, others = _inputs(features, self.fitted), _inputs(features, asked)
        self.left_out = max(1, len(x) // 5)
        self.whole, self.part = _Ridge(x), _Ridge(x[self.left_out :])
        self.others, self.checked = self.whole.turned(others), self.part.turned(x[: self.left_out])

    def predict(self, table: np.ndarray, spread: float = 0.0) -> np.ndarray:
        """Rows [C, ...] from a table [N, ...], of which the known items' rows are read.

        Predictions lie nearer to their mean than what they predict, on the items left out by a factor c; their distance
        from it is multiplied by c to the power of ``spread``.
        """
        y = table[self.fitted].reshape(len(self.fitted), -1).astype(np.float64)
        left_out, mean = y[: self.left_out], y.mean(0)
        fit = self.part.fit(y[self.left_out :])
        candidates = [fit(self.checked, penalty) for penalty in PENALTIES]
        best = int(np.argmin([((rows - left_out) ** 2).sum() for rows in candidates]))
        shrunk = np.linalg.norm(left_out - mean) / max(np.linalg.norm(candidates[best] - mean), 1e-12)
        rows = mean + (self.whole.fit(y)(self.others, PENALTIES[best]) - mean) * shrunk**spread
        return rows.reshape(-1, *table.shape[1:])


class _Ridge:
    """Ridge regressions with an intercept on inputs x [n, F], of any outputs and penalty."""

    def __init__(self, x: np.ndarray) -> None:
        from scipy.linalg import eigh

        self.x, self.mean = x, x.mean(0)
        centred = x - self.mean
        self.values, self.vectors = eigh(centred.T @ centred, overwrite_a=True)

    def turned(self, x: np.ndarray) -> np.ndarray:
        """Other inputs [C, F] as ``fit`` reads them."""
        return (x - self.mean) @ self.vectors

    def fit(self, y: np.ndarray):
        """Outputs y [n, D] -> a function of turned inputs [C, F] and a penalty that predicts [C, D]."""
        mean = y.mean(0)
        moments = self.vectors.T @ (self.x.T @ (y - mean))
        return lambda turned, penalty: mean + turned @ (moments / (self.values + penalty)[:, None])


def _inputs(features: Mapping[str, Aligned], items: np.ndarray) -> np.ndarray:
    """Features and coverage of items, side by side: float64 [len(items), F]."""
    parts = [part for each in features.values() for part in (each.features[items], each.covered[items, None])]
    return np.concatenate(parts, axis=1, dtype=np.float64)
