"""Targets softened by content: a share of each target's probability goes to the items whose features are nearest.

Shapes: T targets, N items, D hidden size, M modalities, G neighbours per modality.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_prism.modalities import Modalities

SIMILARITIES = 1 << 24  # cosines held at a time


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

    def forward(self, states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        """states [T, D], table [N, D], targets [T] -> []: share times the mean of <state, e_t - mean of N(t)>."""
        if self.neighbours is None:
            self.neighbours = nearest_items(self._modalities[0], self.n_neighbours)
        near = F.embedding_bag(self.neighbours[targets], table, mode="mean")
        return self.share * (states * (F.embedding(targets, table) - near)).sum(-1).mean()


@torch.no_grad()
def nearest_items(modalities: Modalities, n: int) -> Tensor:
    """Ids [N, M n] of the n nearest items in each modality by the cosine of their features.

    An item itself stands where it has no features of its own, or where fewer than n others have some.
    """
    found = []
    for name in modalities.names:
        values = getattr(modalities, f"values_{name}")
        items = torch.from_numpy(modalities.coverage[name]).nonzero().flatten().to(values.device)
        found.append(_nearest(values, items, n))
    return torch.cat(found, 1)


def _nearest(values: Tensor, items: Tensor, n: int) -> Tensor:
    """The same for one modality: values [N, d], ids of the items that have it -> [N, n]."""
    nearest = torch.arange(len(values), device=values.device).unsqueeze(1).repeat(1, n)
    n_found = min(n, len(items) - 1)
    if n_found < 1:
        return nearest
    directions = F.normalize(values[items].float(), dim=1)
    rows = max(1, SIMILARITIES // len(items))
    for start in range(0, len(items), rows):
        cosines = directions[start : start + rows] @ directions.t()
        cosines.diagonal(start).fill_(-torch.inf)  # an item is not its own neighbour
        nearest[items[start : start + rows], :n_found] = items[cosines.topk(n_found, 1).indices]
    return nearest
