"""A linear map from features to rows of a table."""

import numpy as np
import pytest
from scipy.linalg import solve

from recbole_prism import feature_map
from recbole_prism.feature_map import FeatureMap
from recbole_prism.features import Aligned


def test_a_map_is_learned_from_some_of_many_items(monkeypatch):
    monkeypatch.setattr(feature_map, "FITTED", 50)
    rng = np.random.default_rng(0)
    features = Aligned(rng.normal(size=(200, 4)).astype(np.float32), np.ones(200, dtype=bool), "")
    known = features.features @ rng.normal(size=(4, 3))
    found = FeatureMap({"text": features}, np.arange(1, 150), np.arange(150, 200)).predict(known[:150])
    np.testing.assert_allclose(found, known[150:], atol=0.02)


def test_spread_takes_predictions_as_far_from_the_mean_as_what_they_predict():
    """Features that tell a part of the embeddings, the rest being noise: the least error lies near the mean."""
    rng = np.random.default_rng(0)
    features = Aligned(rng.normal(size=(1500, 4)).astype(np.float32), np.ones(1500, dtype=bool), "")
    embeddings = features.features @ rng.normal(size=(4, 3)) + 4 * rng.normal(size=(1500, 3)) + [5, 0, 0]
    learned = FeatureMap({"text": features}, np.arange(1, 1000), np.arange(1000, 1500))
    predicted, middle, far = (learned.predict(embeddings[:1000], spread) for spread in (0, 0.5, 1))
    mean = embeddings[1:1000].mean(0)
    distances = [np.linalg.norm(rows - mean) for rows in (predicted, middle, far)]
    assert distances[2] == pytest.approx(np.linalg.norm(embeddings[1000:] - mean), rel=0.15)
    assert distances[0] < 0.6 * distances[2] and distances[1] ** 2 == pytest.approx(distances[0] * distances[2])
    np.testing.assert_allclose((far - mean) / distances[2], (predicted - mean) / distances[0])


def test_rows_are_those_of_ridge_regression_with_the_best_penalty(monkeypatch):
    """The same by the normal equations, an intercept and whether an item has each modality among the inputs."""
    monkeypatch.setattr(feature_map, "PENALTIES", (0.01, 10.0, 1e4))
    rng = np.random.default_rng(1)
    image = Aligned(rng.normal(size=(80, 3)).astype(np.float32), rng.random(80) < 0.7, "")
    text = Aligned(rng.normal(size=(80, 2)).astype(np.float32), np.ones(80, dtype=bool), "")
    x = np.column_stack([image.features, image.covered, text.features, text.covered]).astype(np.float64)
    table = x[:, :3] @ rng.normal(size=(3, 4)) + 2 * x[:, 3:4] + 4 * rng.normal(size=(80, 4))
    known, asked = np.arange(3, 70), np.array([1, 75, 2])

    def ridge(inputs, outputs, others, penalty):
        centred = inputs - inputs.mean(0)
        weights = solve(centred.T @ centred + penalty * np.eye(x.shape[1]), centred.T @ (outputs - outputs.mean(0)))
        return outputs.mean(0) + (others - inputs.mean(0)) @ weights

    order = known[np.random.default_rng(0).permutation(len(known))]
    out, rest = order[:13], order[13:]
    errors = [((ridge(x[rest], table[rest], x[out], p) - table[out]) ** 2).sum() for p in (0.01, 10.0, 1e4)]
    best = (0.01, 10.0, 1e4)[int(np.argmin(errors))]
    found = FeatureMap({"image": image, "text": text}, known, asked).predict(table)
    np.testing.assert_allclose(found, ridge(x[order], table[order], x[asked], best))
    assert best == 10.0, "the penalty in the middle, so that the choice is seen"
