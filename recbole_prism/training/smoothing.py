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
TIE = 0.003  # radius of the circle on which items get places at random, which decide where features are equal
EXACT = "donot_use_mm_for_euclid_dist"
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
    for name in modalities.names:
        values = getattr(modalities, f"values_{name}")
        items = torch.from_numpy(np.flatnonzero(modalities.coverage[name])).to(values.device)
        found.append(_nearest(values, items, n, f"nearest by {name}"))
    return torch.cat(found, 1)


def _nearest(values: Tensor, items: Tensor, n: int, title: str) -> Tensor:
    """The same for one modality: values [N, d], ids of the items that have it -> [N, n]."""
    nearest = torch.arange(len(values), device=values.device).unsqueeze(1).repeat(1, n)
    n_found = min(n, len(items) - 1)
    if n_found < 1:
        return nearest
    features = values[items].float()
    single = features.shape[1] == 1
    turns = 2 * torch.pi * torch.rand(len(items), 1, generator=torch.Generator().manual_seed(0)).to(values.device)
    places = torch.cat([features if single else F.normalize(features, dim=1), TIE * turns.cos(), TIE * turns.sin()], 1)
    rows = max(1, SIMILARITIES // len(items))
    for start in tqdm(range(0, len(items), rows), desc=title, delay=SOON, leave=False, disable=None):
        part = places[start : start + rows]
        near = -torch.cdist(part, places, compute_mode=EXACT) if single else part @ places.t()
        near.diagonal(start).fill_(-torch.inf)  # an item is not its own neighbour
        nearest[items[start : start + rows], :n_found] = items[near.topk(n_found, 1).indices]
    return nearest
