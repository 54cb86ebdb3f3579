"""Features that tell nothing about their items: a gain that survives them comes from elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recbole_prism.features import READERS, FeatureFile, read_features, write_features


def write_control_features(folder: Path, job: dict) -> dict[str, str]:
    """Feature files of a control in the run's folder: {modality: path}, to take the place of ``modalities``."""
    from recbole.config import Config
    from recbole.data import create_dataset

    from recbole_prism.modalities import find_feature_file, load_modality, modality_sources

    config = Config(model=job["model"], dataset=job["dataset"], config_dict=dict(job["settings"]))
    rng, written, dataset = np.random.default_rng(job["seed"]), {}, None
    for name, source in modality_sources(config).items():
        if Path(source).suffix in READERS:
            contents = read_features(find_feature_file(config, source))
        else:
            if dataset is None:
                dataset = create_dataset(config)
                dataset.build()  # as where a model is built: fields are tensors then
            tokens = np.array(dataset.field2id_token[dataset.iid_field], dtype=str)
            aligned = load_modality(config, dataset, name, source)
            covered = aligned.covered
            contents = FeatureFile(tokens[covered].tolist(), aligned.features[covered], {"encoder": aligned.encoder})
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
