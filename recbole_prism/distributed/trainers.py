"""The hooks into RecBole's Trainer, loaders and collector. In a single process each of them does nothing."""

from __future__ import annotations

import contextlib
import functools
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from recbole_prism.distributed import agreement, processes, sharding


def hook() -> None:
    """Wrap RecBole's classes, once."""
    _hook_loader()
    _hook_collector()
    _hook_data_parallel()
    _hook_trainer()
    _hook_checkpoint()


def _hook_loader() -> None:
    """Loaders shuffle and cut batches as in a single process; ``sharding.shared`` takes this process's share."""
    from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader

    init = AbstractDataLoader.__init__

    @functools.wraps(init)
    def __init__(self, config, dataset, sampler, shuffle=False):
        with as_single(config):
            init(self, config, dataset, sampler, shuffle)
        if not config["single_spec"]:
            self.sampler.set_epoch = _nothing_to_set  # RecBole tells its DistributedSampler the epoch

    AbstractDataLoader.__init__ = __init__


def _nothing_to_set(epoch: int) -> None:
    """The loader's own generator shuffles."""


def _hook_collector() -> None:
    from recbole.evaluator import Collector

    get_data_struct = Collector.get_data_struct

    @functools.wraps(get_data_struct)
    def get_all_data(self):
        if isinstance(self.data_struct, sharding.SharedData):
            self.data_struct.gather()
        return get_data_struct(self)

    Collector.get_data_struct = get_all_data


def _hook_data_parallel() -> None:
    """DistributedDataParallel on a CPU, without sending all buffers (features among them) before every step."""
    import recbole.trainer.trainer as trainer

    parallel = trainer.DistributedDataParallel
    convert = torch.nn.SyncBatchNorm.convert_sync_batchnorm

    @functools.wraps(parallel)
    def distributed_data_parallel(module, device_ids=None, **kwargs):
        on_cpu = next(module.parameters()).device.type == "cpu"
        options = {"broadcast_buffers": False, "gradient_as_bucket_view": True, **kwargs}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 renames the first option
            return parallel(module, device_ids=None if on_cpu else device_ids, **options)

    def convert_where_possible(module, *args, **kwargs):
        """SyncBatchNorm runs on GPUs only; on CPUs each process normalizes its own rows."""
        on_cpu = all(p.device.type == "cpu" for p in module.parameters())
        return module if on_cpu else convert(module, *args, **kwargs)

    trainer.DistributedDataParallel = distributed_data_parallel
    torch.nn.SyncBatchNorm.convert_sync_batchnorm = staticmethod(convert_where_possible)


def _hook_trainer() -> None:
    """Steps with the gradients, and evaluations with the metrics, of one process."""
    from recbole.data.dataloader import FullSortEvalDataLoader
    from recbole.trainer import Trainer
    from recbole.utils import init_seed

    init, train_epoch, evaluate, map_reduce = (
        Trainer.__init__,
        Trainer._train_epoch,
        Trainer.evaluate,
        Trainer._map_reduce,
    )

    @functools.wraps(init)
    def __init__(self, config, model):
        if config["single_spec"]:
            return init(self, config, model)
        agreement.check_features(model)
        init(self, config, model)
        name = [self.saved_model_file]  # each process invents its own (trainer/trainer.py:126)
        dist.broadcast_object_list(name, src=0)
        self.saved_model_file = name[0]
        init_seed(config["seed"] + processes.rank(), config["reproducibility"])

    @functools.wraps(train_epoch)
    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        if self.config["single_spec"]:
            return train_epoch(self, train_data, epoch_idx, loss_func, show_progress)
        draw_alike(self, epoch_idx)
        with contextlib.ExitStack() as stack:
            if hasattr(train_data, "batch_sampler"):
                sampler = stack.enter_context(sharding.shared(train_data, whole=False))
                loss_func = sharding.WeightedLoss(self.model, loss_func or self.model.calculate_loss, sampler)
            losses = train_epoch(self, train_data, epoch_idx, loss_func, show_progress)
        return sharding.mean_over_processes(losses, self.device)

    @functools.wraps(evaluate)
    def evaluate_together(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
        if self.config["single_spec"] or not eval_data:
            return evaluate(self, eval_data, load_best_model, model_file, show_progress)
        if not isinstance(self.eval_collector.data_struct, sharding.SharedData):
            self.eval_collector.data_struct = sharding.SharedData(self.eval_collector.data_struct._data_dict)
        by_chunks = getattr(self, "shares_chunks", False) and isinstance(eval_data, FullSortEvalDataLoader)
        with contextlib.ExitStack() as stack:
            if load_best_model:
                model_file = stack.enter_context(shared_file(model_file or self.saved_model_file))
            if not by_chunks:
                stack.enter_context(sharding.shared(eval_data, whole=True))
            return evaluate(self, eval_data, load_best_model, model_file, show_progress)

    @functools.wraps(map_reduce)
    def _map_reduce(self, result, num_sample):
        return result  # metrics of everything, which every process has gathered

    Trainer.__init__, Trainer._train_epoch = __init__, _train_epoch
    Trainer.evaluate, Trainer._map_reduce = evaluate_together, _map_reduce


def draw_alike(trainer, epoch: int) -> None:
    """Sampled softmax: all processes draw the same negatives, so that a step has those of one batch."""
    if (sampler := getattr(trainer, "_negative_sampler", None)) is not None:
        sampler.generator = torch.Generator(trainer.device).manual_seed(trainer.config["seed"] * 1_000_003 + epoch)


def _hook_checkpoint() -> None:
    """One checkpoint, of the first process, that a single process can read."""
    from recbole.trainer import Trainer

    save, resume = Trainer._save_checkpoint, Trainer.resume_checkpoint

    @functools.wraps(save)
    def _save_checkpoint(self, epoch, verbose=True, **kwargs):
        if processes.share_of(self.config)[0] == 0:
            with as_single(self.config):
                save(self, epoch, verbose, **kwargs)

    @functools.wraps(resume)
    def resume_checkpoint(self, resume_file):
        if self.config["single_spec"]:
            return resume(self, resume_file)
        with shared_file(resume_file) as file:
            resume(self, file)

    Trainer._save_checkpoint, Trainer.resume_checkpoint = _save_checkpoint, resume_checkpoint


@contextlib.contextmanager
def as_single(config) -> Iterator[None]:
    """The config as that of a single process."""
    before = config["single_spec"]
    config.final_config_dict["single_spec"] = True
    try:
        yield
    finally:
        config.final_config_dict["single_spec"] = before


@contextlib.contextmanager
def shared_file(path) -> Iterator[str]:
    """A file of the first process, as a path on this machine."""
    first = processes.is_first()
    contents = [Path(path).read_bytes() if first else None]
    dist.broadcast_object_list(contents, src=0)
    if first:
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / Path(path).name
        file.write_bytes(contents.pop())
        yield str(file)
