"""What ends one process ends all of them within seconds, and all name the same reason."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from pathlib import Path

from recbole_prism.distributed import processes
from recbole_prism.distributed.agreement import Disagreement
from recbole_prism.errors import PRISMError

FOLDER = "RECBOLE_PRISM_FAILURES"  # environment: where ``launch`` reads why a process ended
BEAT = 1.0  # seconds between signs of life
MISSING = 5.0  # seconds of silence after which a process to which the connection broke is taken for dead
SILENCE = 180.0  # the same, where no connection broke: Python code that never yields is silent too


class Watch(threading.Thread):
    """Leaves signs of life of this process in the store, and ends it when another one has failed."""

    def __init__(self, place: processes.Place, store) -> None:
        super().__init__(daemon=True)
        self.place, self.own, self.parent = place, store.clone(), os.getppid()
        self.beats = [(b"", time.monotonic())] * place.world_size
        self.stopped = threading.Event()

    def stop(self) -> None:
        self.stopped.set()

    def run(self) -> None:
        number = 0
        while not self.stopped.wait(BEAT / 2):
            try:
                number += 1
                self.own.set(f"alive{self.place.rank}", str(number))
                message = first_failure(self.own)
                if message is None and (silent := self.silent(SILENCE)) is not None:
                    message = publish(self.own, f"rank {silent} has given no sign of life for {SILENCE:.0f} seconds")
            except Exception:  # the store went with the process that held it
                message = None if self.stopped.wait(BEAT) else lost(0)
            if message is None and os.getppid() != self.parent:
                message = "the process that started this one is gone"
            if message is not None and not self.stopped.is_set():
                self.end(message)

    def silent(self, seconds: float) -> int | None:
        """The process of which nothing was heard for so long, if any. Raises if the store is gone."""
        now = time.monotonic()
        for other in range(self.place.world_size):
            key = f"alive{other}"
            beat = self.own.get(key) if self.own.check([key]) else b""
            if beat != self.beats[other][0]:
                self.beats[other] = (beat, now)
            elif now - self.beats[other][1] > seconds and not self.own.check([f"done{other}"]):
                return other
        return None

    def end(self, message: str) -> None:
        """End this process from outside its main thread, which may wait for the dead."""
        if not record(message):
            print(f"error: {message}", file=sys.stderr, flush=True)
        os._exit(1)


def explain(error: BaseException) -> BaseException:
    """The error that ends this process: its own, told to the others, or that of the process that failed first."""
    group = processes.GROUP
    if group is None:
        record(one_line(error))
        return error
    group.watch.stop()
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return error
    own = one_line(error) if isinstance(error, Disagreement) else f"{group.place}: {one_line(error)}"
    try:
        message = _cause_of_loss(group) if is_lost_connection(error) else publish(group.store, own)
        if group.place.rank == 0:
            time.sleep(2 * BEAT)  # the store ends with this process; let the others read it
    except Exception:  # the store went with the process that held it
        message = lost(0) if is_lost_connection(error) else own
    record(message)
    return error if message == own else PRISMError(message)


def _cause_of_loss(group: processes.Group) -> str:
    """Why a connection broke: what the other process says, or that it fell silent."""
    end = time.monotonic() + MISSING + 3 * BEAT
    while time.monotonic() < end:
        message = first_failure(group.store)
        if message is None and (silent := group.watch.silent(MISSING)) is not None:
            message = publish(group.store, lost(silent))
        if message is not None:
            return message
        group.store.set(f"alive{group.place.rank}", f"ending {time.monotonic()}")
        time.sleep(BEAT / 2)
    return publish(group.store, f"{group.place}: the connection to another process was lost")


def lost(rank: int) -> str:
    return f"rank {rank} ended without a word (killed, out of memory, or its machine is cut off)"


def is_lost_connection(error: BaseException) -> bool:
    """Whether a process failed for no fault of its own."""
    import torch.distributed as dist

    if isinstance(error, dist.DistError):
        return True
    words = r"gloo|nccl|connection (was )?(closed|reset|refused|aborted)|broken pipe|socket"
    return type(error) is RuntimeError and re.search(words, str(error), re.IGNORECASE) is not None


def publish(store, message: str) -> str:
    """Tell the others; returns what was told first, by whomever."""
    return store.compare_set("failed", "", message).decode()


def first_failure(store) -> str | None:
    return store.get("failed").decode() if store.check(["failed"]) else None


def one_line(error: BaseException) -> str:
    kind = "" if isinstance(error, PRISMError) else f"{type(error).__name__}: "
    return " ".join(f"{kind}{error}".split())


def is_recorded() -> bool:
    """Whether ``launch`` started this process, and tells the user why it ended."""
    return Path(os.environ.get(FOLDER, "/nowhere")).is_dir()


def record(message: str) -> bool:
    """Leave the reason for ``launch``; False if nobody will read it."""
    if is_recorded():
        (Path(os.environ[FOLDER]) / os.environ["RANK"]).write_text(message, encoding="utf-8")
    return is_recorded()
