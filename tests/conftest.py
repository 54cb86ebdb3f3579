"""A tiny multimodal dataset on disk, and RecBole runs on it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import recbole_prism  # noqa: F401  (registers the models)
from tests.dataset_made import write_dataset


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


@pytest.fixture
def one_thread():
    """Threads cost more than they bring on tiny tensors."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
