"""``--nproc``: start the processes of this machine, as torchrun would, and end them together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from recbole_prism.distributed.failures import FOLDER
from recbole_prism.distributed.meeting import port_in_use
from recbole_prism.errors import PRISMError

GRACE = 15  # seconds in which the others may end by themselves, and tell other machines why


def launch(command: list[str], *, nproc: int, world_size: int, ip: str, port: int, group_offset: int) -> None:
    """Run ``command`` as ``nproc`` processes of ``world_size``. Raises PRISMError with the reason if one fails."""
    if not 0 <= group_offset <= world_size - nproc:
        raise PRISMError(
            f"--group_offset={group_offset} and --nproc={nproc}: beyond --world_size={world_size}, "
            "the number of processes on all machines"
        )
    if group_offset == 0:
        check_port(port)
    with tempfile.TemporaryDirectory() as folder:
        threads = max(1, len(os.sched_getaffinity(0)) // nproc) if hasattr(os, "sched_getaffinity") else 1
        shared = {
            "MASTER_ADDR": ip,
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(world_size),
            "LOCAL_WORLD_SIZE": str(nproc),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
            FOLDER: folder,
        }
        children = []
        try:
            for local_rank in range(nproc):
                own = {"RANK": str(group_offset + local_rank), "LOCAL_RANK": str(local_rank)}
                children.append(subprocess.Popen(command, env={**os.environ, **shared, **own}))
            failed = wait(children)
        finally:
            stop(children)
        if failed is not None:
            raise PRISMError(reason(Path(folder), group_offset, failed, children[failed].returncode))


def check_port(port: int) -> None:
    """Raise PRISMError if another program listens on this port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
            probe.listen()
        except OSError as error:
            raise PRISMError(port_in_use(port)) from error


def wait(children: list[subprocess.Popen]) -> int | None:
    """Until all are done, or one has failed and the others had time to notice: which, or None."""
    failed, deadline = None, float("inf")
    while time.monotonic() < deadline:
        codes = [child.poll() for child in children]
        if failed is None and any(codes):
            failed = next(number for number, code in enumerate(codes) if code)
            deadline = time.monotonic() + GRACE
        if None not in codes:
            break
        time.sleep(0.1)
    return failed


def stop(children: list[subprocess.Popen]) -> None:
    for send in (subprocess.Popen.terminate, subprocess.Popen.kill):
        running = [child for child in children if child.poll() is None]
        for child in running:
            send(child)
        for child in running:
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                continue


def reason(folder: Path, group_offset: int, failed: int, code: int) -> str:
    """One line for all processes of this machine: what killed the first, else what the processes agreed on."""
    rank = group_offset + failed
    if code < 0:
        name = signal.Signals(-code).name
        return f"rank {rank} was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    notes = [file.read_text(encoding="utf-8") for file in sorted(folder.iterdir(), key=lambda file: int(file.name))]
    own = folder / str(rank)
    if own.exists():
        return own.read_text(encoding="utf-8")
    return notes[0] if notes else f"rank {rank} ended with exit code {code}"


def command_line(argv: list[str] | None) -> list[str]:
    """The command that runs ours again, in a process of its own."""
    return [sys.executable, "-m", "recbole_prism.run", *(sys.argv[1:] if argv is None else argv)]
