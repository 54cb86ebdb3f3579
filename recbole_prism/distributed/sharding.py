"""Who trains and who evaluates what: shares of the batches that one process would make, in its order.

Shapes: S sizes (targets of each window, or ones), W processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import zip_longest

import numpy as np
import torch
import torch.distributed as dist
from recbole.evaluator.collector import DataStruct
from torch import Tensor

from recbole_prism.distributed import processes


def own_share(sizes: np.ndarray, rank: int, world_size: int) -> tuple[np.ndarray, float]:
    """Which parts of a batch are this process's [<= S], ascending, and the weight of the mean over them.

    Parts are dealt largest first, back and forth, so that sums of sizes are nearly equal. Gradients are averaged
    over processes: with the weight, W times this process's sizes over all sizes, they become those of the mean over the
    whole batch. A process for which nothing is left repeats a part with weight 0.
    """
    largest_first = np.argsort(-sizes, kind="stable")
    turn, place = np.divmod(np.arange(len(sizes)), world_size)
    dealt_to = np.where(turn % 2 == 0, place, world_size - 1 - place)
    own = np.sort(largest_first[dealt_to == rank])
    if len(own) == 0:
        return np.zeros(1, dtype=np.int64), 0.0
    return own, float(world_size * sizes[own].sum() / sizes.sum())


class SharedBatches:
    """In the place of a loader's batch sampler: this process's share of each batch, or every ``world_size``-th one.

    The batches are those of a single process, shuffled alike. ``whole``: batches are shared out undivided, as
    evaluation needs them, since scores computed in other batches may differ in their last digit.
    """

    def __init__(self, batches, rank: int, world_size: int) -> None:
        self.batches, self.rank, self.world_size, self.whole = batches, rank, world_size, None
        self.weights: list[float] = []  # of this epoch's batches so far

    def __len__(self) -> int:
        """Never 0 if there are batches: RecBole evaluates nothing where a loader is empty."""
        own = range(self.rank, len(self.batches), self.world_size) if self.whole else self.batches
        return max(len(own), min(1, len(self.batches)))

    def __iter__(self) -> Iterator[list[int]]:
        self.weights = []
        for number, batch in enumerate(self.batches):
            if self.whole is None:
                yield batch
            elif self.whole:
                if number % self.world_size == self.rank:
                    yield batch
            else:
                own, weight = own_share(np.ones(len(batch)), self.rank, self.world_size)
                self.weights.append(weight)
                yield [batch[place] for place in own]


def share(loader) -> SharedBatches:
    """The loader's batch sampler, made one that shares (torch forbids to set it, RecBole leaves no other way)."""
    if not isinstance(loader.batch_sampler, SharedBatches):
        shared = SharedBatches(loader.batch_sampler, processes.rank(), processes.world_size())
        object.__setattr__(loader, "batch_sampler", shared)
    return loader.batch_sampler


@contextlib.contextmanager
def shared(loader, *, whole: bool) -> Iterator[SharedBatches]:
    """While in force, the loader gives this process's share."""
    sampler = share(loader)
    sampler.whole = whole
    try:
        yield sampler
    finally:
        sampler.whole = None


class WeightedLoss:
    """A loss of rows, weighted so that the mean over processes is that over the whole batch.

    The first parts of PRISM's losses are the backbone's; where those are means over masked positions, not over rows,
    the positions are counted in all processes.
    """

    def __init__(self, model, loss_func, sampler: SharedBatches) -> None:
        self.model, self.loss_func, self.sampler, self.step = model, loss_func, sampler, 0

    def __call__(self, interaction):
        of_rows = self.sampler.weights[self.step]
        self.step += 1
        losses = self.loss_func(interaction)
        masked = getattr(self.model, "MASK_INDEX", None)
        of_targets = of_rows if masked not in interaction else share_of_count((interaction[masked] > 0).sum())
        if not isinstance(losses, tuple):
            return losses * of_targets
        names = getattr(self.model, "loss_names", None) or ["recommendation"] * len(losses)
        by_name = zip(names, losses, strict=True)
        return tuple(loss * (of_targets if name.startswith("recommendation") else of_rows) for name, loss in by_name)


def share_of_count(count: Tensor) -> Tensor:
    """W times this process's count over that of all processes, without looking at it: [] -> []."""
    count = count.double()
    total = count.clone()
    dist.all_reduce(total)
    return processes.world_size() * count / total.clamp(min=1)


def mean_over_processes(losses, device):
    """Numbers of each process -> their means; a tuple stays one."""
    values = torch.tensor(losses if isinstance(losses, tuple) else (losses,), dtype=torch.float64, device=device)
    dist.all_reduce(values)
    means = tuple((values / processes.world_size()).tolist())
    return means if isinstance(losses, tuple) else means[0]


class SharedData(DataStruct):
    """RecBole's store of what metrics read; pieces of several processes are put into the order of a single one.

    Each call of ``update_tensor`` brings one piece (a batch, or a chunk of one), and the pieces of an evaluation are
    dealt to the processes in turn.
    """

    def __init__(self, contents: dict) -> None:
        super().__init__()
        self._data_dict = contents
        self.pieces: dict[str, list[Tensor]] = {}

    def update_tensor(self, name: str, value: Tensor) -> None:
        self.pieces.setdefault(name, []).append(value.detach().cpu().clone())

    def gather(self) -> None:
        """Every process gets all pieces."""
        everyone, self.pieces = gathered(self.pieces), {}
        for name in sorted(set().union(*everyone)):
            self._data_dict[name] = torch.cat(in_turn([pieces.get(name, []) for pieces in everyone]))


def gathered(own) -> list:
    """What every process has, in the order of their ranks."""
    everyone: list = [None] * processes.world_size()
    dist.all_gather_object(everyone, own)
    return everyone


def in_turn(hands: list[list]) -> list:
    """Pieces that were dealt in turn, in their order before that."""
    return [piece for turn in zip_longest(*hands) for piece in turn if piece is not None]


def batch_spread(x: Tensor, counts: Tensor | None = None) -> Tensor:
    """Standard deviation over the rows of all processes' shares of a batch: x [T, M, D] -> [M, D].

    ``counts`` bool [T, M]: the rows that count, all if None. Every process must come here equally often.
    """
    if processes.GROUP is None and counts is None:
        return x.std(0, unbiased=False)
    values = x.double()
    counted = torch.ones_like(values) if counts is None else counts.unsqueeze(-1).to(values.dtype).expand_as(values)
    sums = torch.stack([part.sum(0) for part in (counted, counted * values, counted * values.square())])
    if processes.GROUP is not None:
        dist.all_reduce(sums)
    mean, squares = sums[1:] / sums[0].clamp(min=1)
    return (squares - mean.square()).clamp(min=0).sqrt().to(x.dtype)


def relative_share(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """How much more often mask [S] holds here than over all processes' shares of a batch: []; 1 for one process.

    Times this a mean over those of a process for which it holds becomes, in the gradients that processes average, the
    mean over all of them. Every process must come here equally often.
    """
    if processes.GROUP is None:
        return torch.ones((), device=mask.device, dtype=dtype)
    own = torch.stack([mask.sum(), mask.new_full((), len(mask), dtype=torch.long)]).double()
    counts = own.clone()
    dist.all_reduce(counts)
    return (own[0] / own[1] * counts[1] / counts[0].clamp(min=1)).to(dtype)


def distinct_of_all(items: Tensor, n_items: int) -> Tensor:
    """Distinct ids of all processes' shares of a batch, ascending: items [T], each below n_items -> [U].

    Every process must come here equally often.
    """
    if processes.GROUP is None:
        return torch.unique(items)
    found = torch.zeros(n_items, dtype=torch.int32, device=items.device)
    found[items] = 1
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return found.nonzero().flatten()
