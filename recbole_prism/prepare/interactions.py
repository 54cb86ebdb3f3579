"""User-item interactions as arrays: collecting, duplicates, missing times, k-core, order. Text never gets here."""

from __future__ import annotations

import json
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from recbole_prism.errors import PRISMError
from recbole_prism.prepare.files import atomic_write

DUPLICATES = ("exact", "first", "last", "keep")
MISSING_TIMESTAMPS = ("drop", "error", "order")
NOTHING = float("nan")  # a missing rating or time
MAX_TIME = 9e18  # nanoseconds until 2255; float64 holds microseconds exactly, and nanoseconds of today to 256
# What pandas, and so RecBole, reads as a missing value: such an id would vanish.
READ_AS_MISSING = frozenset(
    "#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a|nan|null".split("|")
)


def usable_id(token: str) -> bool:
    """Whether RecBole reads the id back as it is: no control characters, no name for 'missing', 1 to 256 characters."""
    return (
        0 < len(token) <= 256
        and token not in READ_AS_MISSING
        and token == token.strip()
        and (token.isascii() or not any("\ud800" <= c <= "\udfff" or c in "\x85\u2028\u2029" for c in token))
        and not any(c < " " or c == "\x7f" for c in token)
        and (token[0] != "[" or token[-1] != "]")  # RecBole's own name for the padding is [PAD]
    )


@dataclass
class Interactions:
    """users, items int32 [R]: positions in user_ids, item_ids; ratings, times float64 [R], NaN = none."""

    user_ids: list[str]
    item_ids: list[str]
    users: np.ndarray
    items: np.ndarray
    ratings: np.ndarray
    times: np.ndarray

    def __len__(self) -> int:
        return len(self.users)

    def keep(self, rows: np.ndarray) -> Interactions:
        """Only these rows (a mask, or positions in the wanted order); ids stay as they are."""
        return Interactions(
            self.user_ids, self.item_ids, self.users[rows], self.items[rows], self.ratings[rows], self.times[rows]
        )

    def size(self) -> dict[str, int]:
        return {
            "users": int(np.count_nonzero(np.bincount(self.users, minlength=1))),
            "items": int(np.count_nonzero(np.bincount(self.items, minlength=1))),
            "interactions": len(self),
        }

    def compact(self) -> Interactions:
        """Drop the ids that no row uses; the others keep their order, that of their first appearance."""
        users, user_codes = np.unique(self.users, return_inverse=True)
        items, item_codes = np.unique(self.items, return_inverse=True)
        return Interactions(
            [self.user_ids[code] for code in users],
            [self.item_ids[code] for code in items],
            user_codes.astype(np.int32).reshape(-1),
            item_codes.astype(np.int32).reshape(-1),
            self.ratings,
            self.times,
        )


def collect(blocks: Iterable[tuple[Sequence[Any], ...]]) -> tuple[Interactions, int]:
    """Gather blocks of four columns (user, item, rating, time); the second value counts rows with an unusable id.

    Memory: 24 bytes a row and the distinct ids.
    """
    user_codes: defaultdict[str, int] = defaultdict(count().__next__)
    item_codes: defaultdict[str, int] = defaultdict(count().__next__)
    users, items, ratings, times = array("i"), array("i"), array("d"), array("d")
    for block_users, block_items, block_ratings, block_times in blocks:
        users.extend(map(user_codes.__getitem__, block_users))
        items.extend(map(item_codes.__getitem__, block_items))
        ratings.extend(block_ratings)
        times.extend(block_times)
    gathered = Interactions(
        list(user_codes),
        list(item_codes),
        np.frombuffer(users, np.int32) if users else np.empty(0, np.int32),
        np.frombuffer(items, np.int32) if items else np.empty(0, np.int32),
        np.frombuffer(ratings, np.float64) if ratings else np.empty(0),
        np.frombuffer(times, np.float64) if times else np.empty(0),
    )
    gathered.ratings = np.where(np.isfinite(gathered.ratings), gathered.ratings, NOTHING)
    gathered.times = np.where(np.abs(gathered.times) < MAX_TIME, gathered.times, NOTHING)
    good_users = np.fromiter(map(usable_id, gathered.user_ids), bool, len(gathered.user_ids))
    good_items = np.fromiter(map(usable_id, gathered.item_ids), bool, len(gathered.item_ids))
    if good_users.all() and good_items.all():
        return gathered, 0
    mask = good_users[gathered.users] & good_items[gathered.items]
    return gathered.keep(mask), int((~mask).sum())


def settle_timestamps(data: Interactions, policy: str, path: str) -> Interactions:
    """drop: rows without a time go; error; order: such a row takes the time of the same user's row before it in the
    file (0 if there is none), or the position in the file if no row at all has a time.

    Raises:
        PRISMError: policy 'error' and a time is missing, or 'drop' and all are.
    """
    missing = np.isnan(data.times)
    n_missing = int(missing.sum())
    if not n_missing:
        return data
    if policy == "error" or (policy == "drop" and n_missing == len(data)):
        raise PRISMError(
            f"{path}: {n_missing} of {len(data)} interactions have no usable timestamp; "
            "--missing-timestamps order keeps the order of the file, drop leaves them out"
        )
    if policy == "drop":
        return data.keep(~missing)
    times = np.arange(len(data), dtype=np.float64)
    if n_missing < len(data):
        by_user = np.argsort(data.users, kind="stable")
        # position of the last row with a time, within the same user
        latest = np.where(missing[by_user], -1, np.arange(len(data)))
        starts = np.r_[True, np.diff(data.users[by_user]) != 0]
        start = np.maximum.accumulate(np.where(starts, np.arange(len(data)), 0))
        latest = np.maximum.accumulate(latest)
        filled = np.where(latest >= start, data.times[by_user][np.maximum(latest, 0)], 0)
        times[by_user] = filled
    return Interactions(data.user_ids, data.item_ids, data.users, data.items, data.ratings, times)


def drop_duplicates(data: Interactions, policy: str) -> Interactions:
    """exact: one row per (user, item, time); first, last: one per (user, item), by time; keep: all. Order stays."""
    if policy == "keep" or not len(data):
        return data
    pairs = data.users.astype(np.int64) * len(data.item_ids) + data.items
    order = np.lexsort((data.times, pairs))  # stable: the file's order among equals
    columns = [pairs[order]] + ([data.times[order]] if policy == "exact" else [])
    new = np.ones(len(data), bool)
    new[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    if new.all():
        return data
    if policy == "last":
        new = np.r_[new[1:], True]
    return data.keep(np.sort(order[new]))


def k_core(data: Interactions, k: int) -> tuple[Interactions, int]:
    """Drop users and items with fewer than k interactions until none is left to drop; also the number of rounds."""
    rounds = 0
    while k > 1 and len(data):
        users, items = np.bincount(data.users), np.bincount(data.items)
        mask = (users >= k)[data.users] & (items >= k)[data.items]
        if mask.all():
            break
        data = data.keep(mask)
        rounds += 1
    return data, rounds


def in_order(data: Interactions) -> Interactions:
    """Users as they first appear in the file, each one's rows by time, equal times as in the file.

    RecBole holds times in float32 (steps of 128 s today) but sorts stably, so this order survives.
    """
    return data.keep(np.lexsort((data.times, data.users)))


def save(path: Path, data: Interactions, facts: dict[str, object]) -> None:
    """Keep the arrays for a run that resumes."""
    ids = {"user_ids": data.user_ids, "item_ids": data.item_ids, "facts": facts}
    with atomic_write(path, "wb") as stream:
        np.savez(
            stream,
            users=data.users,
            items=data.items,
            ratings=data.ratings,
            times=data.times,
            ids=np.frombuffer(json.dumps(ids).encode(), np.uint8),
        )


def load(path: Path) -> tuple[Interactions, dict[str, object]]:
    """What ``save`` kept. Raises OSError, ValueError or KeyError if the file is not whole."""
    with np.load(path, allow_pickle=False) as arrays:
        ids = json.loads(arrays["ids"].tobytes())
        data = Interactions(
            ids["user_ids"], ids["item_ids"], arrays["users"], arrays["items"], arrays["ratings"], arrays["times"]
        )
    return data, ids["facts"]
