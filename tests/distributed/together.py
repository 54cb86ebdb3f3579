"""Functions run by several gloo processes, forked from a server that has imported everything once."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import traceback
from pathlib import Path

import torch
import torch._dynamo  # with the first optimizer; here, so that forks have it

import recbole_prism  # noqa: F401  (for the server of forks)
from recbole_prism.distributed.sharding import batch_spread
from recbole_prism.experts import InteractionExperts
from recbole_prism.mrdib import Bottleneck

ROOT = Path(__file__).resolve().parents[2]
NO_DROPOUT = dict.fromkeys(
    ("hidden_dropout_prob", "attn_dropout_prob", "dropout_prob", "expert_dropout", "fusion_dropout"), 0.0
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def run_together(work, settings: dict, folder: Path, *arguments, world_size: int = 2) -> list:
    """What ``work(settings, *arguments)`` returns in each process, the exception that it raises, or its last words."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])  # the server's only path
    port = free_port()
    children = [
        context.Process(target=_child, args=(work, settings, folder, rank, world_size, port, arguments))
        for rank in range(world_size)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        child.kill()
    return [_read(folder / f"{port}-{rank}.pt") for rank in range(world_size)]


def _read(file: Path):
    return torch.load(file, weights_only=False) if file.exists() else file.with_suffix(".err").read_text()


def _child(work, settings: dict, folder: Path, rank: int, world_size: int, port: int, arguments) -> None:
    from recbole_prism.distributed import meeting

    with open(folder / f"{port}-{rank}.err", "wb") as file:
        os.dup2(file.fileno(), 2)
    os.chdir(folder)
    sys.argv = ["test"]
    torch.set_num_threads(1)
    place = {"world_size": world_size, "nproc": world_size, "ip": "localhost", "port": port, "offset": 0}
    try:
        result = work({**settings, **place, "local_rank": rank}, *arguments)
        meeting.leave()
    except Exception as error:
        traceback.print_exc()
        result = error
    torch.save(result, folder / f"{port}-{rank}.pt")


def prepare(settings: dict, model: str, **overrides):
    """(config, trainer, loaders) as ``run_recbole`` makes them; everything that is drawn fixed, weights in float64."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    InteractionExperts.draw_noise = _fixed_noise
    Bottleneck.draw = _mean_code
    config = Config(model=model, dataset="tiny", config_dict={**settings, **NO_DROPOUT, **overrides})
    init_seed(config["seed"], config["reproducibility"])
    loaders = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    network = get_model(model)(config, loaders[0]._dataset).double()
    return config, get_trainer(config["MODEL_TYPE"], model)(config, network), loaders


def _fixed_noise(self, pooled, available=None):
    return torch.sin(37.0 * pooled.detach()) * batch_spread(pooled.detach(), available)


def _mean_code(self, mean, log_variance, available=None):
    return mean if available is None else mean * available.unsqueeze(-1)


def train(settings: dict, model: str, overrides: dict) -> dict:
    """Parameters, losses and metrics of a short run."""
    _, trainer, loaders = prepare(settings, model, **overrides)
    trainer.fit(loaders[0], loaders[1], verbose=False)
    test = trainer.evaluate(loaders[2], load_best_model=False)
    return {
        "parameters": {name: p.detach().clone() for name, p in trainer.model.named_parameters()},
        "losses": trainer.train_loss_dict,
        "metrics": {name: float(value) for name, value in test.items()},
        "weights": getattr(trainer, "mean_expert_weights", {}),
        "file": trainer.saved_model_file,
    }
