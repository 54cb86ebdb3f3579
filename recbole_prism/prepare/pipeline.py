"""From items to vectors: threads prepare inputs ahead, full batches go to the encoder, vectors come back in order.

Decoding, resizing and tensor work leave Python's lock, so threads suffice to keep a device busy. At most
``2 * workers + batches ahead`` prepared groups are in memory, however many items there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from recbole_prism.errors import PRISMError

A = TypeVar("A")
B = TypeVar("B")


@dataclass
class Prepared:
    """An item's inputs for the encoder (none: skipped) and what was wrong with its sources."""

    position: int
    item_id: str
    inputs: list[Any] = field(default_factory=list)
    problems: list[dict[str, str]] = field(default_factory=list)


@dataclass
class Encoded:
    """An item's vector, float32 [d], or None with the problems that left it without one."""

    position: int
    item_id: str
    vector: np.ndarray | None
    problems: list[dict[str, str]]


def in_threads(work: Callable[[A], B], jobs: Iterable[A], workers: int, ahead: int) -> Iterator[B]:
    """``map`` in threads, in order, never more than ``ahead`` jobs beyond the one handed out."""
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="prepare") as pool:
        waiting: deque[Any] = deque()
        try:
            for job in jobs:
                waiting.append(pool.submit(work, job))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def encode_all(
    encode: Callable[[list[Any]], Any], items: Iterable[Prepared], batch_size: int, normalize: bool
) -> Iterator[Encoded]:
    """Vectors of items in their order; one with several inputs gets the mean of theirs.

    With ``normalize`` every input's vector, and the mean, has length one. One batch is computed while the one before it
    is fetched from the device.

    Raises:
        PRISMError: the device has too little memory for a batch.
    """
    waiting: deque[Prepared] = deque()  # not all of their vectors are here yet
    collected: list[np.ndarray] = []  # vectors of waiting[0] and its successors
    buffer: list[Any] = []
    running: deque[Any] = deque()

    def finished() -> Iterator[Encoded]:
        nonlocal collected
        used = 0
        while waiting and len(collected) - used >= len(waiting[0].inputs):
            item = waiting.popleft()
            vectors = collected[used : used + len(item.inputs)]
            used += len(item.inputs)
            yield _combine(item, vectors, normalize)
        collected = collected[used:]

    def launch() -> None:
        try:
            running.append(encode(buffer[:batch_size]))
        except RuntimeError as error:
            if "out of memory" in str(error).lower():
                raise PRISMError(
                    f"a batch of {batch_size} does not fit the device's memory; use a smaller --batch-size"
                ) from error
            raise
        del buffer[:batch_size]

    def fetch() -> None:
        collected.extend(running.popleft().cpu().numpy())

    for item in items:
        waiting.append(item)
        buffer.extend(item.inputs)
        while len(buffer) >= batch_size:
            launch()
            if len(running) > 1:
                fetch()
        yield from finished()
    while buffer:
        launch()
    while running:
        fetch()
    yield from finished()


def _combine(item: Prepared, vectors: list[np.ndarray], normalize: bool) -> Encoded:
    if not vectors:
        return Encoded(item.position, item.item_id, None, item.problems)
    if normalize:
        vectors = [_unit(vector) for vector in vectors]
    mean = vectors[0] if len(vectors) == 1 else np.mean(vectors, axis=0, dtype=np.float32)
    if normalize and len(vectors) > 1:
        mean = _unit(mean)
    if not np.isfinite(mean).all():
        problem = {"item_id": item.item_id, "reason": "the encoder's numbers are not finite"}
        return Encoded(item.position, item.item_id, None, [*item.problems, problem])
    return Encoded(item.position, item.item_id, mean, item.problems)


def _unit(vector: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else vector


def chunks(text: str, limit: int, count_tokens: Callable[[str], int], most: int) -> list[str]:
    """Cut a text between words into at most ``most`` pieces of at most ``limit`` tokens; a longer word stands alone."""
    pieces: list[list[str]] = [[]]
    room = limit
    for word in text.split():
        cost = max(1, count_tokens(word))
        if cost > room and pieces[-1]:
            if len(pieces) == most:
                break
            pieces.append([])
            room = limit
        pieces[-1].append(word)
        room -= cost
    return [" ".join(piece) for piece in pieces if piece]
