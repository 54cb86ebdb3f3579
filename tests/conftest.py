"""A tiny multimodal dataset on disk, and RecBole runs on it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

import recbole_prism  # noqa: F401  (registers the models)
from recbole_prism.features import write_features

N_USERS, N_ITEMS = 24, 20


@pytest.fixture(autouse=True)
def clean_command_line(monkeypatch, tmp_path):
    """RecBole reads sys.argv into every Config, and writes logs below the working directory."""
    monkeypatch.setattr("sys.argv", ["test"])
    monkeypatch.chdir(tmp_path)
    yield
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if type(handler).__module__ == "logging":
            root.removeHandler(handler)


def write_dataset(folder: Path, name: str = "tiny", *, seed: int = 0, lengths=(4, 12)) -> Path:
    """Interactions, item fields, and features of two modalities (item i20 has no image). Returns the data_path."""
    rng = np.random.default_rng(seed)
    home = folder / name
    home.mkdir(parents=True, exist_ok=True)
    rows = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(N_USERS):
        for step, item in enumerate(rng.integers(1, N_ITEMS + 1, size=rng.integers(*lengths))):
            rows.append(f"u{user}\ti{item}\t{rng.integers(1, 6)}\t{step}")
    rows += [f"u{item % 2}\ti{item}\t3\t{100 + item}" for item in range(1, N_ITEMS + 1)]
    (home / f"{name}.inter").write_text("\n".join(rows) + "\n")
    items = ["item_id:token\tcategory:token\tprice:float"]
    items += [f"i{i}\tc{i % 3}\t{i / 2}" for i in range(1, N_ITEMS + 1)]
    (home / f"{name}.item").write_text("\n".join(items) + "\n")
    tokens = [f"i{i}" for i in range(1, N_ITEMS + 1)]
    image = rng.normal(size=(N_ITEMS - 1, 6)).astype(np.float32)
    text = rng.normal(size=(N_ITEMS, 5)).astype(np.float32)
    write_features(home / f"{name}.image.safetensors", tokens[:-1], image, encoder="test image")
    write_features(home / f"{name}.text.safetensors", tokens, text, encoder="test text")
    return folder


@pytest.fixture
def data_path(tmp_path) -> Path:
    return write_dataset(tmp_path / "dataset")


@pytest.fixture
def settings(data_path, tmp_path) -> dict:
    """A config_dict for small, quick runs."""
    return {
        "data_path": str(data_path),
        "checkpoint_dir": str(tmp_path / "saved"),
        "epochs": 1,
        "show_progress": False,
        "train_batch_size": 64,
        "MAX_ITEM_LIST_LENGTH": 10,
        "hidden_size": 8,
        "embedding_size": 8,
        "inner_size": 16,
        "expert_hidden_size": 12,
        "fusion_hidden_size": 10,
        "metrics": ["Recall", "NDCG"],
        "valid_metric": "NDCG@10",
        "use_gpu": False,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    }


@pytest.fixture
def build(settings):
    """build(model, **overrides) -> (config, model, (train, valid, test) loaders), as run_recbole makes them."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, init_seed

    def make(model: str, dataset: str = "tiny", **overrides):
        config = Config(model=model, dataset=dataset, config_dict={**settings, **overrides})
        init_seed(config["seed"], config["reproducibility"])
        loaders = data_preparation(config, create_dataset(config))
        init_seed(config["seed"], config["reproducibility"])
        return config, get_model(model)(config, loaders[0]._dataset), loaders

    return make
