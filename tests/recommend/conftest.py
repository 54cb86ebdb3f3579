"""Checkpoints of small models, each made once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from recbole_prism.features import read_features, write_features
from tests.dataset_made import write_dataset


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """trained(model, **settings) -> path of a checkpoint on the tiny dataset with titles."""
    home = tmp_path_factory.mktemp("trained")
    data_path = write_dataset(home / "dataset")
    add_titles(data_path)
    made: dict = {}

    def train(model: str, **overrides) -> Path:
        key = (model, tuple(sorted((name, str(value)) for name, value in overrides.items())))
        if key not in made:
            made[key] = save_once(model, data_path, home / f"saved{len(made)}", overrides)
        return made[key]

    train.data_path = data_path
    return train


def save_once(model: str, data_path: Path, saved: Path, overrides: dict) -> Path:
    """A checkpoint as RecBole's trainer writes it, of random weights: scores need no training to be compared."""
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset
    from recbole.utils import get_model, get_trainer, init_seed

    settings = {
        "data_path": str(data_path),
        "checkpoint_dir": str(saved),
        "MAX_ITEM_LIST_LENGTH": 6,  # shorter than some histories
        "hidden_size": 8,
        "embedding_size": 8,
        "inner_size": 16,
        "expert_hidden_size": 12,
        "fusion_hidden_size": 10,
        "use_gpu": False,
        "train_neg_sample_args": None,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    }
    argv, here = sys.argv, os.getcwd()
    saved.mkdir()
    sys.argv = ["test"]
    os.chdir(saved)
    try:
        config = Config(model=model, dataset="tiny", config_dict={**settings, **overrides})
        init_seed(1, True)
        built = get_model(model)(config, create_dataset(config).build()[0])
        for parameter in built.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        trainer = get_trainer(config["MODEL_TYPE"], model)(config, built)
        trainer._save_checkpoint(0, verbose=False)
        return Path(trainer.saved_model_file)
    finally:
        sys.argv = argv
        os.chdir(here)


def add_titles(data_path: Path) -> None:
    file = data_path / "tiny" / "tiny.item"
    header, *rows = file.read_text().splitlines()
    rows = [f"{row}\tThe {row.split()[0]} story" for row in rows]
    file.write_text("\n".join([header + "\titem_title:token_seq", *rows]) + "\n")


@pytest.fixture
def new_items(trained, tmp_path) -> dict[str, str]:
    """Feature files with two items that the dataset lacks (new1 without an image), and one it has."""
    files = {}
    for name, tokens in (("image", ["new2", "i3"]), ("text", ["new1", "new2", "i3"])):
        known = read_features(trained.data_path / "tiny" / f"tiny.{name}.safetensors")
        rows = np.stack([known.features[5] if token == "new2" else known.features[7] for token in tokens])
        files[name] = str(tmp_path / f"new.{name}.safetensors")
        write_features(files[name], tokens, rows)
    return files
