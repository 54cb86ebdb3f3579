"""Items that did not exist at training time: the model's table grows, their embeddings predicted from their features.

How they are predicted: :mod:`recbole_prism.feature_map`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from logging import getLogger
from pathlib import Path

import numpy as np
import torch

from recbole_prism.errors import PRISMError, suggest
from recbole_prism.feature_map import TABLES, FeatureMap
from recbole_prism.features import Aligned, FeatureFile, read_features
from recbole_prism.models.table import BACKBONES, FIELDS, MODELS
from recbole_prism.recommend.catalogue import Catalogue
from recbole_prism.recommend.loaded import Loaded
from recbole_prism.recommend.standin import build_model, model_features


def with_new_items(loaded: Loaded, files: Mapping[str, str | Path], spread: float = 0.0) -> Loaded:
    """The same model with the items of feature files {modality: path} that it does not know appended to its catalogue.

    They can be recommended and stand in histories. An item may lack a modality. ``spread``: how far from their mean the
    predicted embeddings lie, from 0, as predicted, to 1, as far as those of known items (``FeatureMap``). Raises
    PRISMError if the model has no features or no item embeddings to rank by, or if a file is of an unknown modality, of
    another size, or has no new item.

    For a modality that is a field of the dataset's ``.item`` file, such a file may be given too; tokens that are new
    count as empty, and are named in a warning.
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
    if MODELS[loaded.name] in FIELDS:
        raise PRISMError(
            f"{loaded.source}: {loaded.name} reads fields of the .item file, which new items do not have here"
        )
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
    size = getattr(loaded.model.modalities, f"values_{name}").shape[1]
    if name in loaded.fields and path.suffix == ".item":
        contents, unknown = loaded.fields[name].read(path, loaded.settings, size)
        if unknown:
            some = f"{unknown[:5]}{f' and {len(unknown) - 5} more' if len(unknown) > 5 else ''}"
            getLogger(__name__).warning(
                f"warning: {path}: {name} {some} left out, new since {loaded.source} was trained"
            )
        return contents
    contents = read_features(path)
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
    total = len(next(iter(features.values())).covered)
    learned = FeatureMap(features, known=np.arange(1, n_items), asked=np.arange(n_items, total))
    for key in TABLES:
        if key in state:
            old = state[key]
            rows = learned.predict(old[:n_items].cpu().numpy(), spread)
            state[key] = torch.cat([old[:n_items], torch.from_numpy(rows).to(old), old[n_items:]])
    if model.modalities.missing == "learned":
        for name, aligned in features.items():
            if not aligned.covered[1:].all():  # where no item lacked it, its vector stayed where it starts
                zero = torch.zeros(model.modalities.projection[name].out_features)
                state.setdefault(f"modalities.missing_vector.{name}", zero)
    return state
