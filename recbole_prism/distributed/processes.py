"""Which process of how many this one is, how they find each other, and on what they compute."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
from dataclasses import dataclass
from datetime import timedelta

from recbole_prism.errors import PRISMError

PATIENCE = 300  # seconds in which the first process must answer
GROUP: Group | None = None  # of this process, once it has joined
STORES: dict[Place, list] = {}  # connections, and how many runs used them


@dataclass(frozen=True)
class Place:
    """One process. rank: among all; local_rank, nproc: on this machine; ip, port: where the first one listens.

    store_elsewhere: torchrun's agent holds the store, not the first process.
    """

    rank: int
    local_rank: int
    world_size: int
    nproc: int
    ip: str
    port: int
    store_elsewhere: bool = False

    def __str__(self) -> str:
        return f"rank {self.rank} ({socket.gethostname()})"


@dataclass
class Group:
    """What a process has while it belongs to others: its place, the store they share, who watches over them."""

    place: Place
    store: object
    watch: object


def from_environment() -> Place | None:
    """The place that torchrun, or our own ``--nproc``, has given this process, if any."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")
    if not {*names, "MASTER_ADDR"} <= os.environ.keys():
        return None
    rank, local_rank, world_size, nproc, port = (int(os.environ[name]) for name in names)
    elsewhere = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return Place(rank, local_rank, world_size, nproc, os.environ["MASTER_ADDR"], port, elsewhere)


def from_config(values: dict) -> Place:
    """The place that RecBole's keys name."""
    given = from_environment()
    rank = values["local_rank"] + values["offset"]
    if given is not None and given.rank == rank:
        return given
    local = values["local_rank"]
    return Place(rank, local, values["world_size"], values["nproc"], values["ip"], int(values["port"]))


def rank() -> int:
    return 0 if GROUP is None else GROUP.place.rank


def world_size() -> int:
    return 1 if GROUP is None else GROUP.place.world_size


def is_first() -> bool:
    """Whether this process writes the log, the checkpoint and the progress bar."""
    return rank() == 0


def share_of(config) -> tuple[int, int]:
    """(rank, world_size) of the run of this config."""
    return (0, 1) if config["single_spec"] else (rank(), world_size())


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
    global GROUP
    import torch
    import torch.distributed as dist

    from recbole_prism.distributed import agreement, failures

    values = config.final_config_dict
    place = from_config(values)
    device = choose_device(config, place)
    store = store_of_run(place)
    GROUP = Group(place, store, failures.Watch(place, store))
    GROUP.watch.start()
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
    global GROUP
    if GROUP is None:
        return
    group, GROUP = GROUP, None
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
