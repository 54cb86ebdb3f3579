"""Features that tell nothing about their items: a gain that survives them comes from elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recbole_prism.errors import PRISMError
from recbole_prism.features import READERS, FeatureFile, read_features, write_features


def write_control_features(folder: Path, job: dict) -> dict[str, str]:
    """Feature files of a control in the run's folder: {modality: path}, to take the place of ``modalities``.

    Raises PRISMError for modalities that are fields of the .item file.
    """
    from recbole.config import Config

    from recbole_prism.modalities import find_feature_file, modality_sources

    config = Config(model=job["model"], dataset=job["dataset"], config_dict=dict(job["settings"]))
    rng, written = np.random.default_rng(job["seed"]), {}
    for name, source in modality_sources(config).items():
        if Path(source).suffix not in READERS:
            raise PRISMError(f"modality {name!r} is the field {source!r}; only feature files can be {job['features']}")
        contents = read_features(find_feature_file(config, source))
        path = folder / f"{job['dataset']}.{name}.safetensors"
        changed = MAKERS[job["features"]](contents, rng)
        encoder = f"{contents.metadata.get('encoder', 'unknown')}, {job['features']}"
        write_features(path, contents.item_ids, changed, encoder=encoder, created_by="recbole-prism compare")
        written[name] = str(path)
    return written


def _shuffled(contents: FeatureFile, rng: np.random.Generator) -> np.ndarray:
    """The same vectors, each at another item's place."""
    return contents.features[rng.permutation(len(contents.features))]


def _noise(contents: FeatureFile, rng: np.random.Generator) -> np.ndarray:
    """Normal, with the mean and spread that each dimension had."""
    features = contents.features.astype(np.float32)
    drawn = rng.standard_normal(features.shape, dtype=np.float32)
    return features.mean(0) + features.std(0) * drawn


MAKERS = {"shuffled": _shuffled, "noise": _noise}
