"""An accelerator that computes on the CPU, where operations that mix its tensors with the CPU's fail as on a GPU.

    python -m tests.accelerator FOLDER CASES    # the tiny dataset's folder, [[model, settings], ...] as JSON

trains each case for an epoch there, evaluates it, and evaluates the same weights on the CPU; prints a line of JSON for
each: {"there": metrics, "here": metrics}, or {"error": ...}. Settings with "recommend" are trained on the CPU and
recommend and explain on both; "there" and "here" are what they say then.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
import warnings

import torch
import torch.utils.backend_registration as registration
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "pretended"
INDEXING = ("aten.index.", "aten.index_put", "aten._index_put", "aten._unsafe_index")  # take indices from the CPU


class _Module(registration._DummyBackendModule):
    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]


registration._setup_privateuseone_for_python_backend(NAME, _Module())
DEVICE = torch.device(f"{NAME}:0")


class There(torch.Tensor):
    """A tensor on the accelerator; ``held`` is where its values are."""

    @staticmethod
    def __new__(cls, held: torch.Tensor):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        made.held = held.detach()
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


There.is_cuda = property(lambda self: True)


class Pretending(TorchDispatchMode):
    """Tensors that are asked for on the accelerator are made there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def run(func, args: tuple, kwargs: dict):
    """An operation on the CPU; RuntimeError for tensors of both devices where a GPU would refuse them."""
    name, wanted = str(func), kwargs.get("device")
    wanted = None if wanted is None else torch.device(wanted).type
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    any_there = any(isinstance(tensor, There) for tensor in tensors)
    if name.startswith("aten._fused_sdp_choice"):
        return 0
    if any_there and not name.startswith(("aten._to_copy", "aten.copy_")):
        refuse_mixed(name, args, tensors)
    kwargs = {**kwargs, "pin_memory": False} if kwargs.get("pin_memory") else kwargs
    kwargs = kwargs if wanted is None else {**kwargs, "device": torch.device("cpu")}
    result = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    if name.startswith("aten._local_scalar_dense"):
        return result
    goes_there = isinstance(args[0], There) if name.startswith("aten.copy_") else wanted == NAME
    if not goes_there and (wanted == "cpu" or not any_there):
        return result
    same = {id(tensor.held): tensor for tensor in tensors if isinstance(tensor, There)}  # of operations in place
    return tree_map(lambda leaf: same.get(id(leaf), _there(leaf)), result)


def refuse_mixed(name: str, args: tuple, tensors: list[torch.Tensor]) -> None:
    here = [tensor for tensor in tensors if not isinstance(tensor, There) and tensor.dim() > 0]
    if name.startswith(INDEXING) and isinstance(args[0], There):
        here = [values for values in args[2:3] if isinstance(values, torch.Tensor) and values.dim() > 0]
        here = [values for values in here if not isinstance(values, There)]
    if here:
        shapes = [tuple(tensor.shape) for tensor in here]
        raise RuntimeError(f"{name}: expected all tensors on one device; these are on the CPU: {shapes}")


def _held(leaf):
    return leaf.held if isinstance(leaf, There) else leaf


def _there(leaf):
    return There(leaf) if isinstance(leaf, torch.Tensor) else leaf


def move(model: nn.Module) -> None:
    """Parameters and buffers, as ``model.to(device)`` moves them."""
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = nn.Parameter(There(parameter.detach()), parameter.requires_grad)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = There(buffer)
        if hasattr(module, "device"):
            module.device = DEVICE
        if hasattr(module, "item_feat"):  # of RecBole's layers of fields, which take them there when they are made
            module.item_feat = module.item_feat.to(DEVICE)


def gru_forward(layers: nn.GRU, x: torch.Tensor, state=None, *, forward=nn.GRU.forward):
    """In the place of cuDNN's kernel: x [B, L, C] -> [B, L, H]."""
    if not isinstance(x, There):
        return forward(layers, x, state)
    for weights in layers.all_weights:
        biases = weights[2:] if layers.bias else (None, None)
        state, outputs = x.new_zeros(len(x), layers.hidden_size), []
        for place in range(x.shape[1]):
            of_input = nn.functional.linear(x[:, place], weights[0], biases[0]).chunk(3, 1)
            of_state = nn.functional.linear(state, weights[1], biases[1]).chunk(3, 1)
            reset, update = (torch.sigmoid(of_input[n] + of_state[n]) for n in (0, 1))
            new = torch.tanh(of_input[2] + reset * of_state[2])
            state = (1 - update) * new + update * state
            outputs.append(state)
        x = torch.stack(outputs, 1)
    return x, state.unsqueeze(0)


def evaluate_both(settings: dict, name: str, own: dict) -> dict:
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    config = Config(model=name, dataset="tiny", config_dict={**settings, **own})
    loaders = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], True)
    here, model = (get_model(name)(config, loaders[0]._dataset) for _ in range(2))
    with Pretending():
        move(model)
        make_trainer = get_trainer(config["MODEL_TYPE"], name)
        trainer = make_trainer(config, model)
        trainer.device = trainer.eval_collector.device = DEVICE
        trainer.eval_collector.data_collect(loaders[0])
        trainer._train_epoch(loaders[0], 0)
        there = trainer.evaluate(loaders[1], load_best_model=False)
    here.load_state_dict({key: _held(value) for key, value in model.state_dict().items()})
    trainer = make_trainer(config, here)
    trainer.eval_collector.data_collect(loaders[0])
    found = {"there": there, "here": trainer.evaluate(loaders[1], load_best_model=False)}
    return {where: {metric: float(value) for metric, value in result.items()} for where, result in found.items()}


def recommend_both(settings: dict, name: str) -> dict:
    import numpy as np

    from recbole_prism.recommend import Recommender, explain, population
    from recbole_prism.run import run as train

    checkpoint = train(name, "tiny", [], {**settings, "report": False})["summary"]["checkpoint"]
    recommender = Recommender.load(checkpoint)

    def ask() -> list:
        rows = [*recommender.for_users(["u1", "u2", "u5"], 3)]
        rows.append(recommender.for_sequence(["i1", "i2"], 2, only=["i3", "i4", "i5"], exclude=["i4"], seen="keep"))
        found = [[[item.item, round(item.score, 4)] for item in row] for row in rows]
        if hasattr(recommender.loaded.model, "modalities"):
            explained = explain(recommender, np.array([3, 4, 5]), item="i9")
            found.append([round(effect.score, 4) for effect in explained.history])
            found += population.survey(recommender, n_users=10).weights.round(4).tolist()
        return found

    here = ask()
    with Pretending():
        move(recommender.loaded.model)
        return {"there": ask(), "here": here}


def main(settings: dict, cases: list) -> None:
    import recbole_prism
    from recbole_prism.training import losses, packing, recurrence

    recbole_prism.register()
    for module in (losses, packing, recurrence):  # losses are read step by step: they can be of one subclass only
        module.ASYNCHRONOUS = {NAME}
    make, nn.GRU.forward = torch.tensor, gru_forward

    def tensor(*args, device=None, **kwargs):
        made = make(*args, **kwargs)
        return made if device is None else made.to(device)

    torch.tensor = tensor
    for name, own in cases:
        try:
            recommends = own.pop("recommend", False)
            line = recommend_both({**settings, **own}, name) if recommends else evaluate_both(settings, name, own)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            ours = [f"{frame.filename}:{frame.lineno}" for frame in frames if frame.filename != __file__]
            line = {"error": f"{type(error).__name__}: {error} at {ours[-4:]}"}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    given = [json.loads(text) for text in sys.argv[1:]]
    sys.argv = sys.argv[:1]  # RecBole reads it into every Config
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    main(*given)
