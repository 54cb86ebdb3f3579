"""Losses over the item table: exact cross-entropy that never stores the logits whole, and sampled softmax.

Shapes: T targets, N items, D hidden size, S sampled negatives.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_prism.training.asynchronous import ASYNCHRONOUS

CHUNK_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 25}  # logits held at a time: a CPU's cache, a GPU's occupancy
CHUNK_ROWS = 32  # fewer rows make slow matrix products, and so do numbers of rows that are no multiple of it


def linear_cross_entropy(states: Tensor, table: Tensor, targets: Tensor, bias: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of ``states @ table.T + bias``: states [T, D], table [N, D], targets [T], bias [N] -> [].

    Under autocast the matrix products run in its type, the softmax and the sums over chunks in float32.
    """
    kind = states.device.type
    if torch.is_autocast_enabled(kind):
        product_type = torch.get_autocast_dtype(kind)
        states, table, bias = states.float(), table.float(), None if bias is None else bias.float()
    else:
        product_type = states.dtype
    with torch.autocast(kind, enabled=False):
        return _LinearCrossEntropy.apply(states, table, targets, bias, product_type)


class _LinearCrossEntropy(torch.autograd.Function):
    """Gradients are formed in the forward pass, chunk by chunk, while a chunk's probabilities are at hand."""

    @staticmethod
    def forward(ctx, states, table, targets, bias, product_type):
        n_targets, n_items = len(targets), len(table)
        at_once = CHUNK_ELEMENTS.get(states.device.type, 1 << 22) // n_items
        rows = max(CHUNK_ROWS, at_once - at_once % CHUNK_ROWS)
        needs_grad = any(ctx.needs_input_grad)
        grad_states, grad_table = torch.empty_like(states), torch.zeros_like(table)
        grad_bias = None if bias is None else torch.zeros_like(bias)
        low, low_table = states.to(product_type), table.to(product_type)
        target_scores = (states * table[targets]).sum(1)
        if bias is not None:
            target_scores = target_scores + bias[targets]
        buffer = states.new_empty(min(rows, n_targets), n_items)
        normalizer = states.new_empty(n_targets)
        for start in range(0, n_targets, rows):
            part = slice(start, min(start + rows, n_targets))
            logits = buffer[: part.stop - start]
            if low is states:
                torch.mm(low[part], low_table.t(), out=logits)
            else:
                logits.copy_(low[part] @ low_table.t())
            if bias is not None:
                logits += bias
            # log sum exp = largest logit - log of its probability: one pass of exp serves the loss and the gradient
            largest = logits.amax(1)
            probabilities = torch.softmax(logits, 1, out=logits)
            normalizer[part] = largest - probabilities.amax(1).log_()
            if not needs_grad:
                continue
            if low is states:
                torch.mm(probabilities, table, out=grad_states[part])
                grad_table.addmm_(probabilities.t(), states[part])
            else:
                lowered = probabilities.to(product_type)
                grad_states[part] = (lowered @ low_table).float()
                grad_table += (lowered.t() @ low[part]).float()
            if bias is not None:
                grad_bias += probabilities.sum(0)
        if needs_grad:
            grad_states.sub_(table[targets]).div_(n_targets)
            grad_table.index_add_(0, targets, states, alpha=-1).div_(n_targets)
            if bias is not None:
                grad_bias.index_add_(0, targets, torch.ones_like(target_scores), alpha=-1).div_(n_targets)
            ctx.save_for_backward(grad_states, grad_table, grad_bias)
        return (normalizer - target_scores).mean()

    @staticmethod
    def backward(ctx, upstream):
        gradients = ctx.saved_tensors
        if upstream.device.type in ASYNCHRONOUS or upstream != 1:  # looking at a value on a GPU would wait for it
            gradients = [None if g is None else g * upstream for g in gradients]
        return gradients[0], gradients[1], None, gradients[2], None


class NegativeSampler:
    """Draws the negatives of ``loss_type: sampled``, shared by all targets of a batch.

    ``popularity``: q(i) proportional to (occurrences of i in training + 1) ** alpha; ``uniform``: all items alike.
    Never the padding item.
    """

    def __init__(self, counts: Tensor, distribution: str, alpha: float = 0.75) -> None:
        """counts [N]: occurrences of every item, padding included."""
        weights = (counts.double() + 1) ** alpha if distribution == "popularity" else torch.ones(len(counts)).double()
        weights[0] = 0
        self.generator: torch.Generator | None = None  # torch's own, unless several processes must draw alike
        self.cumulative = weights.cumsum(0)
        self.log_q = (weights / self.cumulative[-1]).log().float()

    def draw(self, n_negatives: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Item ids [S], drawn with replacement, and log q of each [S]."""
        if self.cumulative.device != device:
            self.cumulative, self.log_q = self.cumulative.to(device), self.log_q.to(device)
        points = torch.rand(n_negatives, dtype=torch.float64, device=device, generator=self.generator)
        points = points * self.cumulative[-1]
        items = torch.searchsorted(self.cumulative, points, right=True).clamp_(1, len(self.log_q) - 1)
        return items, self.log_q[items]


def make_negative_sampler(config, dataset) -> NegativeSampler:
    """Sampler of ``loss_type: sampled`` over the items of the training part."""
    counts = torch.bincount(dataset.inter_feat[dataset.iid_field], minlength=dataset.item_num)
    return NegativeSampler(counts, config["negative_distribution"])


@functools.cache
def log_of_count(count: int) -> float:
    """In float32, as torch has it, computed once on the host."""
    return float(torch.tensor(float(count)).log())


def sampled_cross_entropy(
    states: Tensor,
    table: Tensor,
    targets: Tensor,
    negatives: Tensor,
    log_q: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """Mean softmax loss over each target and the shared negatives, with logQ correction.

    exp(score - log(S q)) summed over the negatives estimates the sum over all items without bias; negatives equal to
    the target are left out, since the target is in the sum already. states [T, D], targets [T], negatives and log_q
    [S].
    """
    correction = log_q + log_of_count(len(negatives))
    if bias is not None:
        correction = correction - F.embedding(negatives, bias[:, None]).squeeze(1)
    scores = torch.addmm(-correction.to(states.dtype), states, F.embedding(negatives, table).t())
    scores = scores.masked_fill(negatives == targets[:, None], -torch.inf)
    positive = (states * F.embedding(targets, table)).sum(1)
    if bias is not None:
        positive = positive + F.embedding(targets, bias[:, None]).squeeze(1)
    everything = torch.cat([positive[:, None], scores.to(positive.dtype)], 1)
    return (everything.logsumexp(1) - positive).mean()
