"""The training loss of a packed batch, in the parts that logs name. Shapes: S targets, N items, D hidden size."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from recbole_prism.training.losses import NegativeSampler, linear_cross_entropy, sampled_cross_entropy
from recbole_prism.training.packing import PackedBatch

Encoder = Callable[[nn.Module, PackedBatch], Tensor]


def packed_loss(
    model: nn.Module,
    batch: PackedBatch,
    encode: Encoder,
    sampler: NegativeSampler | None = None,
    n_negatives: int = 0,
) -> Tensor | tuple[Tensor, ...]:
    """What ``model.calculate_loss`` gives for the rows of the batch's targets, and from one pass.

    ``sampler``: for ``loss_type: sampled``, with ``n_negatives`` drawn for the batch.
    """
    if hasattr(model, "expert_losses"):
        model.expert_losses.clear()
    states = encode(model, batch)
    if model.loss_type == "BPR":
        loss = _bpr(model, states, batch)
    elif sampler is not None:
        negatives, log_q = sampler.draw(n_negatives, states.device)
        loss = sampled_cross_entropy(states, model.item_embedding.weight, batch.targets, negatives, log_q)
    else:
        table = model.item_embedding.weight
        loss = linear_cross_entropy(states, table, batch.targets)
        if getattr(model, "smoothing", None) is not None:
            loss = loss + model.smoothing(states, table, batch.targets)
    losses = model.with_expert_losses(loss) if hasattr(model, "with_expert_losses") else loss
    if batch.weight is None:
        return losses
    return tuple(part * batch.weight for part in losses) if isinstance(losses, tuple) else losses * batch.weight


def _bpr(model: nn.Module, states: Tensor, batch: PackedBatch) -> Tensor:
    """RecBole's BPR loss; ``negatives`` [k * S] holds a target's k negatives S apart, as RecBole's sampler does."""
    table = model.item_embedding.weight
    times = len(batch.negatives) // len(batch.targets)
    positive = (states * F.embedding(batch.targets, table)).sum(-1).repeat(times)
    negative = (states.repeat(times, 1) * F.embedding(batch.negatives, table)).sum(-1)
    return model.loss_fct(positive, negative)
