"""What passes between the glue and a fusion. Shapes: T histories, S those that losses are taken on, M modalities,
K experts, D hidden size, N items, V variants."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Context(NamedTuple):
    """What a fusion may know of its histories beyond their pools.

    available [T, M]: the history holds an item with that modality; targets [S]: the next item of each selected history,
    while training; table [N, D]: the item embeddings, padding in row 0.
    """

    available: Tensor | None = None
    targets: Tensor | None = None
    table: Tensor | None = None


class Fused(NamedTuple):
    """vector [T, D] to add to the inputs; losses by name, already times their weight; weights [T, K] or None; variants
    [V, T, D]: other vectors whose predictions the fusion wants to compare (``expert_loss_on: prediction``), or None."""

    vector: Tensor
    losses: dict[str, Tensor]
    weights: Tensor | None
    variants: Tensor | None = None


def mix(weights: Tensor, outputs: Tensor) -> Tensor:
    """sum_k w_k E_k (Eq. 11): weights [T, K], outputs [T, K, D] -> [T, D]. A third of ``einsum``'s time to train."""
    return (weights.unsqueeze(-1) * outputs).sum(1)
