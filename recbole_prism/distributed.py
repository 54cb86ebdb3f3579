"""RecBole's several processes (``run(..., nproc=2)``) with our models, and without CUDA.

RecBole spawns ``run_recboles`` in children that never imported us, and hard-codes NCCL and CUDA
(config/configurator.py:496-511, trainer/trainer.py:62).
"""

from __future__ import annotations

import functools
import os
import types


def run_recboles(rank: int, *args) -> None:
    """RecBole's ``run_recboles``; unpickling this one in a spawned child imports, and so registers, our models."""
    from recbole_prism.register import register

    register()
    from recbole_prism.run import recorded_trainers, summarize

    with recorded_trainers() as trainers:
        queue = args[-1].get("queue")
        if queue is not None:
            args[-1]["queue"] = _Queue(queue, lambda: summarize(trainers[-1]))
        _recbole_run_recboles(rank, *args)


class _Queue:
    """RecBole's queue of results, with the summary of the run added to what is put."""

    def __init__(self, queue, summary) -> None:
        self.queue, self.summary = queue, summary

    def put(self, result: dict) -> None:
        self.queue.put(result | {"summary": self.summary()})


_recbole_run_recboles = None


def hook(quick_start: types.ModuleType) -> None:
    """Let ``recbole.quick_start.run`` spawn our ``run_recboles``, on gloo where there is no CUDA."""
    global _recbole_run_recboles
    _recbole_run_recboles = quick_start.run_recboles
    quick_start.run_recboles = run_recboles
    _hook_device()
    _hook_data_parallel()
    _hook_checkpoint()


def _hook_device() -> None:
    import torch
    from recbole.config import Config

    init_device = Config._init_device

    @functools.wraps(init_device)
    def _init_device(self):
        if "local_rank" not in self.final_config_dict or torch.cuda.is_available():
            return init_device(self)
        values = self.final_config_dict
        torch.distributed.init_process_group(
            backend="gloo",
            rank=values["local_rank"] + values["offset"],
            world_size=values["world_size"],
            init_method=f"tcp://{values['ip']}:{values['port']}",
        )
        for folder in (values["checkpoint_dir"], f"log/{self.model}", "log_tensorboard"):
            os.makedirs(folder, exist_ok=True)  # RecBole's ensure_dir fails where two processes meet
        values.update(device=torch.device("cpu"), single_spec=False)
        if values["local_rank"] != 0:
            values.update(state="error", show_progress=False, verbose=False)

    Config._init_device = _init_device


def _hook_data_parallel() -> None:
    """DistributedDataParallel takes no ``device_ids`` on a CPU."""
    import recbole.trainer.trainer as trainer

    parallel = trainer.DistributedDataParallel

    @functools.wraps(parallel)
    def distributed_data_parallel(module, device_ids=None, **kwargs):
        on_cpu = next(module.parameters()).device.type == "cpu"
        return parallel(module, device_ids=None if on_cpu else device_ids, **kwargs)

    trainer.DistributedDataParallel = distributed_data_parallel


def _hook_checkpoint() -> None:
    """One checkpoint name for all ranks (each invents its own, trainer/trainer.py:126), read after it was written."""
    import torch.distributed as dist
    from recbole.trainer import Trainer

    init, evaluate = Trainer.__init__, Trainer.evaluate

    @functools.wraps(init)
    def __init__(self, config, model):
        init(self, config, model)
        if not config["single_spec"]:
            name = [self.saved_model_file]
            dist.broadcast_object_list(name, src=0)
            self.saved_model_file = name[0]

    @functools.wraps(evaluate)
    def evaluate_together(self, eval_data, load_best_model=True, *args, **kwargs):
        if load_best_model and not self.config["single_spec"]:
            dist.barrier()
        return evaluate(self, eval_data, load_best_model, *args, **kwargs)

    Trainer.__init__, Trainer.evaluate = __init__, evaluate_together
