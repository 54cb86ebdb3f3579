"""How the processes of a run meet: RecBole's Config joins them, each with its device, and they leave together."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
from datetime import timedelta

from recbole_prism.distributed import agreement, failures, processes
from recbole_prism.distributed.processes import Group, Place, from_config, is_first
from recbole_prism.errors import PRISMError

PATIENCE = 300  # seconds in which the first process must answer
STORES: dict[Place, list] = {}  # connections, and how many runs used them


def hook(quick_start) -> None:
    """RecBole's Config joins the others; all but the first process keep quiet."""
    import recbole.trainer.trainer as trainer
    from recbole.config import Config

    init_device, init_logger, get_tensorboard = Config._init_device, quick_start.init_logger, trainer.get_tensorboard

    @functools.wraps(init_device)
    def _init_device(self):
        if "local_rank" not in self.final_config_dict:
            return init_device(self)
        join(self)

    @functools.wraps(init_logger)
    def init_logger_once(config):
        return init_logger(config) if is_first() else logging.basicConfig(level=logging.ERROR)

    @functools.wraps(get_tensorboard)
    def get_tensorboard_once(logger):
        return get_tensorboard(logger) if is_first() else _Silent()

    Config._init_device = _init_device
    quick_start.init_logger = init_logger_once
    trainer.get_tensorboard = get_tensorboard_once


class _Silent:
    """A SummaryWriter that writes nothing."""

    def add_scalar(self, *args) -> None: ...

    def add_hparams(self, *args) -> None: ...


def join(config) -> None:
    """Meet the other processes and set RecBole's ``device``. Raises PRISMError if they are not there or not alike."""
    import torch
    import torch.distributed as dist

    values = config.final_config_dict
    place = from_config(values)
    device = choose_device(config, place)
    store = store_of_run(place)
    watch = failures.Watch(place, store)
    processes.GROUP = Group(place, store, watch)
    watch.start()
    values.update(device=device, single_spec=False)
    agreement.check_settings(config)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        use_interface(place)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.world_size)
    for folder in (values["checkpoint_dir"], f"log/{config.model}", "log_tensorboard"):
        os.makedirs(folder, exist_ok=True)  # RecBole's ensure_dir fails where two processes meet
    if place.rank != 0:
        quiet = dict.fromkeys(("show_progress", "verbose", "log_wandb", "save_dataset", "save_dataloaders"), False)
        values.update(state="error", **quiet)


def leave() -> None:
    """The work is done: wait for the others, so that none takes an early end for a failure."""
    group, processes.GROUP = processes.GROUP, None
    if group is None:
        return
    group.watch.stop()
    place, store = group.place, group.store
    with contextlib.suppress(Exception):  # the store may be gone by now, and everything is done
        store.set(f"done{place.rank}", "")
        if place.rank == 0:
            store.wait([f"done{other}" for other in range(place.world_size)], timedelta(seconds=60))


def choose_device(config, place: Place):
    """A GPU for each process of this machine, or the CPU for all. Raises PRISMError if there are too few GPUs."""
    import torch

    values = config.final_config_dict
    ids = values["gpu_id"]
    ids = ",".join(map(str, ids)) if isinstance(ids, (tuple, list)) else str(ids)
    if not values["use_gpu"] or not ids:
        return torch.device("cpu")
    if "gpu_id" in config.external_config_dict:  # RecBole's default names the first GPU; several processes want more
        os.environ["CUDA_VISIBLE_DEVICES"] = ids
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if torch.cuda.device_count() < place.nproc:
        raise PRISMError(
            f"{place.nproc} processes on this machine, but {torch.cuda.device_count()} GPU(s); "
            "set nproc, gpu_id, or use_gpu: False"
        )
    return torch.device("cuda", place.local_rank)


def store_of_run(place: Place):
    """A part of the store for this run: a process may take part in several, one after another."""
    import torch.distributed as dist

    if place not in STORES:
        STORES[place] = [connect(place), 0]
    STORES[place][1] += 1
    store, number = STORES[place]
    return dist.PrefixStore(f"run{number}", store)


def connect(place: Place):
    """The store in which the processes leave each other messages. Raises PRISMError if they cannot meet."""
    import torch.distributed as dist

    serves = place.rank == 0 and not place.store_elsewhere
    seconds = timedelta(seconds=PATIENCE)
    try:
        return dist.TCPStore(
            place.ip, place.port, place.world_size, is_master=serves, timeout=seconds, wait_for_workers=False
        )
    except (dist.DistError, RuntimeError) as error:
        if "EADDRINUSE" in str(error):
            raise PRISMError(port_in_use(place.port)) from error
        raise PRISMError(
            f"rank {place.rank}: no process of this run answers at {place.ip}:{place.port}; start the first machine, "
            "with the same --ip and --port everywhere"
        ) from error


def port_in_use(port: int) -> str:
    return f"port {port} is in use; choose another --port, the same on every machine"


def use_interface(place: Place) -> None:
    """Tell gloo the network interface that leads to the first process; it would take that of the host's name."""
    import psutil

    if "GLOO_SOCKET_IFNAME" in os.environ:
        return
    with contextlib.suppress(OSError):
        family, kind, _, _, address = socket.getaddrinfo(place.ip, place.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)  # sends nothing
            own = probe.getsockname()[0]
        for name, addresses in psutil.net_if_addrs().items():
            if any(own == entry.address.partition("%")[0] for entry in addresses):
                os.environ["GLOO_SOCKET_IFNAME"] = name
