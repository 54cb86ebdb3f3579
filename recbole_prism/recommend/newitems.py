"""Items that did not exist at training time: the model's table grows, their embeddings predicted from their features.

As in Gantner et al., Learning Attribute-to-Feature Mappings for Cold-Start Recommendations (ICDM 2010): a linear map
from features to embeddings, here a ridge regression on the known items. Shapes: N known items, C new ones, D hidden
size, F features of all modalities.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from recbole_prism.errors import PRISMError, suggest
from recbole_prism.features import Aligned, FeatureFile, read_features
from recbole_prism.models.table import BACKBONES, MODELS
from recbole_prism.recommend.catalogue import Catalogue
from recbole_prism.recommend.loaded import Loaded
from recbole_prism.recommend.standin import build_model, model_features

PENALTIES = tuple(10.0**n for n in range(-2, 7))  # features have a length of feature_length or so
FITTED = 50_000  # known items to learn the map from, drawn at random where there are more


def with_new_items(loaded: Loaded, files: Mapping[str, str | Path], spread: float = 0.0) -> Loaded:
    """The same model with the items of feature files {modality: path} that it does not know appended to its catalogue.

    They can be recommended and stand in histories. An item may lack a modality. ``spread``: how far from their mean the
    predicted embeddings lie, from 0, as predicted, to 1, as far as those of known items (``predict_rows``). Raises
    PRISMError if the model has no features or no item embeddings to rank by, or if a file is of an unknown modality, of
    another size, or has no new item.
    """
    if not 0 <= spread <= 1:
        raise PRISMError(f"spread: {spread} is not allowed; must be a number from 0 to 1")
    if loaded.name not in MODELS:
        raise PRISMError(
            f"{loaded.source}: {loaded.name} knows items by their ids alone, so it cannot rank items that it was not "
            "trained on; train a PRISM model"
        )
    if not BACKBONES[MODELS[loaded.name]].content:
        raise PRISMError(f"{loaded.source}: {loaded.name} ranks items by a table of its own, which cannot grow")
    model, tokens = loaded.model, loaded.catalogue.tokens
    contents = {name: _read(loaded, name, Path(path)) for name, path in files.items()}
    new = list(dict.fromkeys(t for c in contents.values() for t in c.item_ids if t not in loaded.catalogue.id_of))
    if not new:
        raise PRISMError(f"{', '.join(map(str, files.values()))}: no item in it is new to {loaded.source}")
    scalings = loaded.scalings
    features = {
        name: _appended(aligned, contents.get(name), new, scalings[name], loaded.settings["missing"])
        for name, aligned in model_features(model, len(tokens)).items()
    }
    grown = build_model(
        loaded.name,
        loaded.settings,
        [*tokens, *new],
        _grown_state(model, features, len(tokens), spread),
        n_users=loaded.n_users,
        features=features,
        device=str(model.device),
    )
    catalogue = Catalogue([*tokens, *new], loaded.catalogue.titles)
    return dataclasses.replace(loaded, model=grown, catalogue=catalogue)


def _read(loaded: Loaded, name: str, path: Path) -> FeatureFile:
    names = loaded.model.modalities.names
    if name not in names:
        raise PRISMError(f"{name!r}: no modality of {loaded.source}{suggest(name, names)}; it has {names}")
    contents = read_features(path)
    size = getattr(loaded.model.modalities, f"values_{name}").shape[1]
    if contents.features.shape[1] != size:
        raise PRISMError(
            f"{path}: features of size {contents.features.shape[1]}, and {loaded.source} was trained on {name} of size "
            f"{size}; encode them with the same encoder"
        )
    return contents


def _appended(aligned: Aligned, contents: FeatureFile | None, new: list[str], scaling, missing: str) -> Aligned:
    """Scaled features of old items followed by those of the new ones."""
    values = np.zeros((len(new), aligned.features.shape[1]), np.float32)
    row_of = {} if contents is None else {token: row for row, token in enumerate(contents.item_ids)}
    rows = np.array([row_of.get(token, -1) for token in new])
    covered = rows >= 0
    if covered.any():
        values[covered] = scaling(contents.features[rows[covered]].astype(np.float32))
    if missing == "mean" and not covered.all():
        values[~covered] = aligned.features[aligned.covered].mean(0)
        covered[:] = True
    return Aligned(
        np.concatenate([aligned.features, values]), np.concatenate([aligned.covered, covered]), aligned.encoder
    )


def _grown_state(
    model: torch.nn.Module, features: Mapping[str, Aligned], n_items: int, spread: float
) -> dict[str, torch.Tensor]:
    """Weights with predicted rows for the new items between the ``n_items`` and a mask token, if there is one."""
    state = dict(model.state_dict())
    for key in ("item_embedding.weight", "output_bias"):
        if key in state:
            old = state[key]
            rows = predict_rows(features, old[:n_items].cpu().numpy(), spread)
            state[key] = torch.cat([old[:n_items], torch.from_numpy(rows).to(old), old[n_items:]])
    if model.modalities.missing == "learned":
        for name, aligned in features.items():
            if not aligned.covered[1:].all():  # where no item lacked it, its vector stayed where it starts
                zero = torch.zeros(model.modalities.projection[name].out_features)
                state.setdefault(f"modalities.missing_vector.{name}", zero)
    return state


def predict_rows(features: Mapping[str, Aligned], known: np.ndarray, spread: float = 0.0) -> np.ndarray:
    """Rows [C, ...] of items that follow the known ones in ``features``; known [N, ...], padding first.

    Ridge regression on the features and on which of them an item has. The penalty is that of the least error on a fifth
    of the known items, left out. Predictions lie nearer to their mean than what they predict, on those left out by a
    factor c; their distance from it is multiplied by c to the power of ``spread``.
    """
    n_items = len(known)
    inputs = [part for each in features.values() for part in (each.features, each.covered[:, None])]
    inputs = np.concatenate(inputs, axis=1).astype(np.float64)
    fitted = 1 + np.random.default_rng(0).permutation(n_items - 1)[:FITTED]
    x, y = inputs[fitted], known.reshape(n_items, -1)[fitted].astype(np.float64)
    left_out = max(1, len(fitted) // 5)
    candidates = [predict(x[:left_out]) for predict in _ridge(x[left_out:], y[left_out:], PENALTIES)]
    best = int(np.argmin([((rows - y[:left_out]) ** 2).sum() for rows in candidates]))
    mean = y.mean(0)
    (predict,) = _ridge(x, y, [PENALTIES[best]])
    shrunk = np.linalg.norm(y[:left_out] - mean) / max(np.linalg.norm(candidates[best] - mean), 1e-12)
    rows = mean + (predict(inputs[n_items:]) - mean) * shrunk**spread
    return rows.reshape(-1, *known.shape[1:])


def _ridge(x: np.ndarray, y: np.ndarray, penalties: Sequence[float]) -> list[Callable[[np.ndarray], np.ndarray]]:
    """Ridge regressions of y [n, D] on x [n, F] with an intercept, each as a function of other inputs [C, F]."""
    from scipy.linalg import solve

    mean_x, mean_y = x.mean(0), y.mean(0)
    centred = x - mean_x
    gram, moments = centred.T @ centred, centred.T @ (y - mean_y)

    def fit(penalty: float) -> Callable[[np.ndarray], np.ndarray]:
        weights = solve(gram + penalty * np.eye(len(gram)), moments, assume_a="pos", overwrite_a=True)
        return lambda other: mean_y + (other - mean_x) @ weights

    return [fit(penalty) for penalty in penalties]
