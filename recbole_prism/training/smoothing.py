"""Targets softened by content: a share of each target's probability goes to the items whose features are nearest.

Shapes: T targets, N items, D hidden size, M modalities, G neighbours per modality.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from recbole_prism.modalities import Modalities

SIMILARITIES = 1 << 24  # cosines held at a time
TIE, LOTS = 0.003, 8  # equal features are told apart by directions drawn at random, so long and in so many dimensions
SOON = 5  # seconds after which a bar shows how far the search is


class TargetSmoothing(nn.Module):
    """What cross-entropy grows by when targets t become q = (1 - share) [t] + share / (M G) sum_{j in N(t)} [j].

    N(t) holds the ``n_neighbours`` items of largest cosine in each modality, new items among them. A modality that t
    lacks leaves its part with t, whatever ``missing`` puts there.
    """

    def __init__(self, modalities: Modalities, share: float, n_neighbours: int) -> None:
        super().__init__()
        self._modalities = [modalities]  # the model's own, not to be registered twice
        self.share, self.n_neighbours = share, n_neighbours
        self.neighbours: Tensor | None = None  # [N, M G], looked for in the first step

    def forward(self, states: Tensor, table: Tensor, targets: Tensor, bias: Tensor | None = None) -> Tensor:
        """states [T, D], table [N, D], targets [T], bias [N] -> []: share times the mean of score(t) - score(N(t))."""
        if self.neighbours is None:
            self.neighbours = nearest_items(self._modalities[0], self.n_neighbours)
        whole = len(table) <= len(targets)  # rather than drop what is there twice, for which a GPU would have to wait
        neighbours = self.neighbours[: len(table)] if whole else self.neighbours[targets]
        away = (table if whole else F.embedding(targets, table)) - F.embedding_bag(neighbours, table, mode="mean")
        difference = (states * (F.embedding(targets, away) if whole else away)).sum(-1)
        if bias is not None:
            difference = difference + bias[targets] - bias[self.neighbours[targets]].mean(1)
        return self.share * difference.mean()


@torch.no_grad()
def nearest_items(modalities: Modalities, n: int) -> Tensor:
    """Ids [N, M n] of the n nearest items in each modality: by the cosine of their features, by distance where a
    feature is one number, and among equals, as those of one category are, others for each item.

    An item itself stands where it has no features of its own, or where fewer than n others have some.
    """
    found = []
    generator = torch.Generator().manual_seed(0)
    for name in modalities.names:
        values = getattr(modalities, f"values_{name}")
        items = torch.from_numpy(np.flatnonzero(modalities.coverage[name])).to(values.device)
        nearest = torch.arange(len(values), device=values.device).unsqueeze(1).repeat(1, n)
        n_found = min(n, len(items) - 1)
        if n_found > 0:
            features, lots = values[items].float(), torch.randn(len(items), LOTS, generator=generator).to(values.device)
            if features.shape[1] == 1:
                places = nearest_numbers(features[:, 0], lots[:, 0], n_found)
            else:
                places = nearest_directions(features, lots, n_found, f"nearest by {name}")
            nearest[items, :n_found] = items[places]
        found.append(nearest)
    return torch.cat(found, 1)


def nearest_directions(features: Tensor, lots: Tensor, n: int, title: str) -> Tensor:
    """Places [I, n] of the n other rows of features [I, d] of largest cosine; lots [I, LOTS] decide among equals."""
    directions = torch.cat([F.normalize(features, dim=1), TIE * F.normalize(lots, dim=1)], 1)
    rows = min(max(1, SIMILARITIES // len(features)), len(features))
    nearest = torch.empty(len(features), n, dtype=torch.long, device=features.device)
    held = directions.new_empty(rows, len(features))  # once, or blocks of results between them would keep each new one
    for start in tqdm(range(0, len(features), rows), desc=title, delay=SOON, leave=False, disable=None):
        some = directions[start : start + rows]
        with torch.autocast(directions.device.type, enabled=False):  # half precision cannot tell cosines apart
            near = torch.mm(some, directions.t(), out=held[: len(some)])
        near.diagonal(start).fill_(-torch.inf)  # an item is not its own neighbour
        nearest[start : start + rows] = near.topk(n, 1).indices
    return nearest


def nearest_numbers(numbers: Tensor, lots: Tensor, n: int) -> Tensor:
    """Places [I, n] of the n others of numbers [I] at the least distance; lots [I] decide among equals.

    They are among the n before and the n after each in order.
    """
    by_lot = lots.argsort()
    order = by_lot[numbers[by_lot].argsort(stable=True)]
    numbers, count = numbers[order].double(), len(numbers)
    steps = torch.cat([torch.arange(-n, 0), torch.arange(1, n + 1)]).to(order.device)
    around = torch.arange(count, device=order.device).unsqueeze(1) + steps
    distances = (numbers[around.clamp(0, count - 1)] - numbers.unsqueeze(1)).abs()
    distances = distances.masked_fill((around < 0) | (around >= count), torch.inf)
    nearest = torch.empty(count, n, dtype=torch.long, device=order.device)
    nearest[order] = order[around.gather(1, distances.topk(n, 1, largest=False).indices)]
    return nearest
