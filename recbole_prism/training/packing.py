"""Packed batches: sequences side by side without padding, so that one pass trains every prefix.

A window is a run of consecutive items of one user; its tokens are inputs, and a token is a target's last input where
that target is trained. Shapes: W windows, T tokens, S trained tokens, G windows of a length group, L its length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recbole_prism.training.asynchronous import ASYNCHRONOUS

GROUP_GROWTH = 1.4  # windows of one length group differ in length by this factor at most, so padding stays small


class Sequences(NamedTuple):
    """All interactions in order of user and time, and which of them training may predict.

    items, users [I]; trained bool [I]; first [U]: index of the first item of each user with a trained one; targets
    [U]: how many items lie between it and the user's last trained one, that included.
    """

    items: np.ndarray
    users: np.ndarray
    trained: np.ndarray
    first: np.ndarray
    targets: np.ndarray


class Windows(NamedTuple):
    """start [W]: index of the first item; length [W]: inputs; skip [W]: leading inputs that train nothing."""

    start: np.ndarray
    length: np.ndarray
    skip: np.ndarray


def cut_windows(first: np.ndarray, targets: np.ndarray, max_length: int, stride: int, offset: int = 0) -> Windows:
    """Windows over sequences: first [U] index of each user's first item, targets [U] number of items after it to train.

    A sequence of at most ``max_length`` targets is one window. Longer ones continue every ``stride`` targets, each
    window beginning as early as ``max_length`` inputs allow; ``stride`` 1 gives RecBole's rows for the tail. The
    first window of long sequences ends ``offset`` targets early. Each target belongs to exactly one window.
    """
    first, targets = np.asarray(first, dtype=np.int64), np.asarray(targets, dtype=np.int64)
    head = np.where(targets > max_length, max_length - offset, max_length)
    count = 1 + np.maximum(0, -(-(targets - head) // stride))
    user = np.repeat(np.arange(len(first)), count)
    number = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count)
    end = np.minimum(head[user] + number * stride, targets[user])
    done = np.where(number > 0, head[user] + (number - 1) * stride, 0)
    begin = np.maximum(end - max_length, 0)
    return Windows(first[user] + begin, end - begin, done - begin)


def cut_rows(first: np.ndarray, targets: np.ndarray, max_length: int) -> Windows:
    """RecBole's rows as windows that train their last input each; arguments as for ``cut_windows``."""
    first, targets = np.asarray(first, dtype=np.int64), np.asarray(targets, dtype=np.int64)
    begin = np.repeat(first, targets)
    length = 1 + np.arange(targets.sum()) - np.repeat(targets.cumsum() - targets, targets)
    kept = np.minimum(length, max_length)
    return Windows(begin + length - kept, kept, kept - 1)


@dataclass
class Group:
    """Windows of similar length, padded to the longest of them.

    size: G; length: L; first, last: their tokens in the batch; gather [G * L]: token at each place (padding repeats a
    window's last token); real [tokens]: the places that are no padding. The last two are None if nothing is padded.
    """

    size: int
    length: int
    first: int
    last: int
    gather: Tensor | None
    real: Tensor | None

    def pad(self, tokens: Tensor) -> Tensor:
        """[T, C] -> [G, L, C]."""
        rows = tokens[self.first : self.last] if self.gather is None else tokens.index_select(0, self.gather)
        return rows.view(self.size, self.length, *tokens.shape[1:])

    def unpad(self, padded: Tensor) -> Tensor:
        """[G, L, C] -> this group's tokens [last - first, C]."""
        rows = padded.reshape(self.size * self.length, *padded.shape[2:])
        return rows if self.real is None else rows.index_select(0, self.real)


@dataclass
class PackedBatch:
    """items, positions [T]: inputs and their places in the window; lengths [W], ascending; groups in the same order.

    select [S]: the trained tokens (None: all); targets [S]; target_index [S]: where they stand among all
    interactions; one_each: every window trains its last token only; negatives [S * k] for BPR; weight of the loss
    where this is one process's share of a batch; unique [U], place [T]: the distinct items, and which of them each
    token is (None: not looked up yet, which on a GPU would make the host wait).
    """

    items: Tensor
    positions: Tensor
    lengths: Tensor
    groups: list[Group]
    select: Tensor | None
    targets: Tensor | None
    target_index: np.ndarray
    one_each: bool
    negatives: Tensor | None = None
    weight: float | None = None
    unique: Tensor | None = None
    place: Tensor | None = None

    def to(self, device) -> PackedBatch:
        """A GPU gets one copy of everything that is not there yet, while the host goes on."""
        if torch.device(device).type not in ASYNCHRONOUS:
            groups = [_replaced(group, lambda tensor: tensor.to(device)) for group in self.groups]
            return replace(_replaced(self, lambda tensor: tensor.to(device)), groups=groups)

        def is_there(tensor: Tensor) -> bool:
            return tensor.device.type != "cpu"

        def arrived(owner):
            return _replaced(owner, lambda tensor: tensor if is_there(tensor) else next(moved))

        whole = self
        if self.targets is not None:
            unique, place = self.distinct()
            whole = replace(self, unique=unique, place=place)
        parts: list[Tensor] = []
        for owner in (whole, *whole.groups):
            _replaced(owner, lambda tensor: tensor if is_there(tensor) else parts.append(tensor) or tensor)
        joined = torch.cat([part.flatten().long() for part in parts])
        joined = joined.pin_memory() if torch.cuda.is_available() else joined
        moved = iter(joined.to(device, non_blocking=True).split([part.numel() for part in parts]))
        return replace(arrived(whole), groups=[arrived(group) for group in whole.groups])

    def __len__(self) -> int:
        return len(self.items) if self.select is None else len(self.select)

    def selected(self, tokens: Tensor) -> Tensor:
        """[T, C] -> [S, C]."""
        return tokens if self.select is None else tokens.index_select(0, self.select)

    def distinct(self) -> tuple[Tensor, Tensor]:
        """``unique`` and ``place``."""
        return torch.unique(self.items, return_inverse=True) if self.unique is None else (self.unique, self.place)

    def window_of_tokens(self) -> Tensor:
        """Which window each token lies in: [T]."""
        return torch.repeat_interleave(self.lengths, output_size=len(self.items))

    def sum_prefixes(self, tokens: Tensor) -> Tensor:
        """Sum over the positions of the same window up to each one: [T, C] -> [T, C].

        Place by place, or while training one product with a triangle of ones per length group: both are faster than
        ``cumsum``.
        """
        return join([group.unpad(_sum_places(group.pad(tokens))) for group in self.groups])


def _sum_places(padded: Tensor) -> Tensor:
    """Sum over places up to each one: [G, L, C] -> [G, L, C]."""
    length = padded.shape[1]
    if torch.is_grad_enabled() or padded.is_cuda:
        with torch.autocast(padded.device.type, enabled=False):  # bfloat16 would round the counts
            return torch.matmul(torch.ones(length, length, dtype=padded.dtype, device=padded.device).tril(), padded)
    sums = padded.clone()
    for place in range(1, length):
        sums[:, place] += sums[:, place - 1]
    return sums


def join(parts: list[Tensor]) -> Tensor:
    """Tokens of all groups in the batch's order."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _replaced(value, change: Callable[[Tensor], Tensor]):
    """A dataclass with every tensor changed, in the order of its fields."""
    tensors = {f.name: getattr(value, f.name) for f in fields(value) if isinstance(getattr(value, f.name), Tensor)}
    return replace(value, **{name: change(tensor) for name, tensor in tensors.items()})


def pack(
    items: np.ndarray, windows: Windows, trained: np.ndarray | None = None, growth: float = GROUP_GROWTH
) -> PackedBatch:
    """A batch of windows over ``items`` [all interactions in order of user and time].

    trained, bool over ``items``: which may be targets; None packs for evaluation, each window's last token selected
    and no targets looked at. Windows keep their order among those of equal length.
    """
    order = np.argsort(windows.length, kind="stable")
    start, length, skip = (part[order] for part in windows)
    offsets = np.concatenate([[0], np.cumsum(length)])
    tokens = int(offsets[-1])
    positions = np.arange(tokens) - np.repeat(offsets[:-1], length)
    source = np.repeat(start, length) + positions
    if trained is None:
        selected = offsets[1:] - 1
    else:
        selected = np.flatnonzero((positions >= np.repeat(skip, length)) & trained[source + 1])
    target_index = source[selected] + 1
    one_each = len(selected) == len(length) and bool((selected == offsets[1:] - 1).all())
    return PackedBatch(
        items=torch.from_numpy(items[source].astype(np.int64)),
        positions=torch.from_numpy(positions),
        lengths=torch.from_numpy(length),
        groups=make_groups(length, offsets, growth),
        select=None if len(selected) == tokens else torch.from_numpy(selected),
        targets=None if trained is None else torch.from_numpy(items[target_index].astype(np.int64)),
        target_index=target_index,
        one_each=one_each,
    )


def make_groups(length: np.ndarray, offsets: np.ndarray, growth: float = GROUP_GROWTH) -> list[Group]:
    """Length groups of windows sorted by length [W] whose tokens begin at offsets [W + 1]."""
    groups, low = [], 0
    while low < len(length):
        high = int(np.searchsorted(length, max(int(length[low] * growth), int(length[low]) + 2), side="right"))
        longest, first, last = int(length[high - 1]), int(offsets[low]), int(offsets[high])
        gather = real = None
        if length[low] != longest:
            places = np.arange(longest)
            gather = torch.from_numpy(
                (offsets[low:high, None] + np.minimum(places, length[low:high, None] - 1)).ravel()
            )
            real = torch.from_numpy(np.flatnonzero((places < length[low:high, None]).ravel()))
        groups.append(Group(high - low, longest, first, last, gather, real))
        low = high
    return groups
