"""The packed batches of an epoch. Shapes: W windows, S trained tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from torch import Tensor

from recbole_prism.distributed.sharding import own_share
from recbole_prism.training.packing import GROUP_GROWTH, PackedBatch, Sequences, Windows, cut_rows, cut_windows, pack


class PackedBatches:
    """The training batches of one epoch, in the place of RecBole's train loader.

    ``batch_size`` counts targets. The order depends on seed and epoch alone, so a resumed run draws what an
    uninterrupted one would. Of several processes each takes its share of the targets of every batch.
    """

    shuffle = False  # RecBole's Trainer need not tell a sampler the epoch

    def __init__(
        self,
        sequences: Sequences,
        *,
        batch_size: int,
        max_length: int,
        stride: int | None,
        epoch: int,
        seed: int,
        random_offset: bool = False,
        shuffle: bool = True,
        growth: float = GROUP_GROWTH,
        rank: int = 0,
        world_size: int = 1,
        sample_negatives: Callable[[np.ndarray], Tensor] | None = None,
    ) -> None:
        """``stride`` as for ``cut_windows``; None makes RecBole's rows.

        ``sample_negatives`` turns the places [S] of targets among all interactions into ids of negative items.
        """
        self.sequences, self.growth, self.sample_negatives = sequences, growth, sample_negatives
        generator = np.random.default_rng([seed, epoch])
        if stride is None:
            windows = cut_rows(sequences.first, sequences.targets, max_length)
        else:
            offset = int(generator.integers(min(stride, max_length))) if random_offset and stride > 1 else 0
            windows = cut_windows(sequences.first, sequences.targets, max_length, stride, offset)
        sums = np.concatenate([[0], np.cumsum(sequences.trained)])
        end = windows.start + windows.length + 1
        n_targets = sums[end] - sums[windows.start + windows.skip + 1]
        kept = np.flatnonzero(n_targets)
        if shuffle:
            kept = generator.permutation(kept)
        self.windows = Windows(*(part[kept] for part in windows))
        self.n_targets = n_targets[kept]
        self.bounds = equal_parts(self.n_targets, batch_size)
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __iter__(self) -> Iterator[PackedBatch]:
        sequences = self.sequences
        for begin, end in zip(self.bounds[:-1], self.bounds[1:], strict=True):
            part, weight = slice(begin, end), None
            if self.world_size > 1:
                own, weight = own_share(self.n_targets[part], self.rank, self.world_size)
                part = begin + own
            chosen = Windows(*(values[part] for values in self.windows))
            batch = pack(sequences.items, chosen, sequences.trained, self.growth)
            batch.weight = weight
            if self.sample_negatives is not None:
                batch.negatives = self.sample_negatives(batch.target_index)
            yield batch


def equal_parts(sizes: np.ndarray, batch_size: int) -> np.ndarray:
    """Bounds [n + 1] of n runs of windows with about equal sums of ``sizes`` [W].

    No run is empty, and none exceeds ``batch_size`` by more than a window.
    """
    if not len(sizes):
        return np.zeros(1, dtype=np.int64)
    reached = np.cumsum(sizes)
    n_parts = min(max(1, -(-int(reached[-1]) // batch_size)), len(sizes))
    number = np.arange(1, n_parts)
    cuts = np.searchsorted(reached, number * (reached[-1] / n_parts))
    cuts = np.maximum.accumulate(cuts - number) + number  # no two alike
    cuts = np.clip(cuts, number, len(sizes) - n_parts + number)
    return np.concatenate([[0], cuts, [len(sizes)]]).astype(np.int64)
