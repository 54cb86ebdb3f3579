"""Which process of how many this one is, and what it has of the others."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

GROUP: Group | None = None  # of this process, once it has joined


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
