"""``prism+residual``: experts held apart by what each modality tells alone, both tell, and only together they tell.

The experts of PRISM all see all modalities, and nothing in Eq. 5-8 keeps one from telling what is another's. Here each
expert is what regressions leave over, so that it cannot; and the gate learns how much of the next item each part tells.

Shapes: T histories, S those that losses are taken on, M modalities, K = M + 2 experts, D hidden size, N items, U
distinct targets.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_prism.distributed.sharding import batch_spread, distinct_of_all
from recbole_prism.experts import expert_names

LEAST = 1e-6  # probabilities below it are taken for it in a logarithm


class Perceptrons(nn.Module):
    """n two-layer MLPs with GELU, side by side."""

    def __init__(self, n: int, n_inputs: int, hidden_size: int, n_outputs: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.weight_in = nn.Parameter(torch.empty(n, n_inputs, hidden_size))
        self.bias_in = nn.Parameter(torch.zeros(n, 1, hidden_size))
        self.weight_out = nn.Parameter(torch.empty(n, hidden_size, n_outputs))
        self.bias_out = nn.Parameter(torch.zeros(n, 1, n_outputs))
        self.dropout = nn.Dropout(dropout)
        for weight in (self.weight_in, self.weight_out):
            bound = 1 / math.sqrt(weight.shape[1])
            nn.init.uniform_(weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """[n, T, inputs] -> [n, T, outputs]."""
        hidden = self.dropout(F.gelu(torch.baddbmm(self.bias_in, x, self.weight_in)))
        return torch.baddbmm(self.bias_out, hidden, self.weight_out)


class ResidualExperts(nn.Module):
    """s_m = S_m(h_m) and j = J([h_1; ...; h_M]) are MLPs, trained by the recommendation loss. Of them

    unique_m   = s_m - E[s_m | h_m' of all m' != m, kind],
    redundancy = sum_m E[s_m | h_m' of all m' != m, kind],
    synergy    = j - sum_m A_m(h_m, kind), the best such sum.

    Each E and the A_m are MLPs too, trained to the least squares by a loss that trains nothing else, and left alone by
    every other loss. Where modalities are independent redundancy vanishes, where one tells all of another unique does,
    and what a sum of functions of one modality each can be is not in synergy; all of that among histories of one kind.
    """

    def __init__(self, modalities: list[str], hidden_size: int, *, expert_hidden_size: int, dropout: float) -> None:
        super().__init__()
        n, sizes = len(modalities), (expert_hidden_size, hidden_size)
        self.names = expert_names(modalities)
        n_kinds = len(self.names)
        self.single = Perceptrons(n, hidden_size, *sizes, dropout=dropout)
        self.joint = Perceptrons(1, n * hidden_size, *sizes, dropout=dropout)
        self.from_others = Perceptrons(n, n * hidden_size + n_kinds, *sizes) if n > 1 else None
        self.additive = Perceptrons(n, hidden_size + n_kinds, *sizes)
        self.register_buffer("others", 1 - torch.eye(n), persistent=False)

    def tell(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """s_m [M, T, D] and j [1, T, D] of pooled [T, M, D]."""
        return self.single(pooled.transpose(0, 1)), self.joint(pooled.flatten(1).unsqueeze(0))

    def forward(
        self, pooled: Tensor, single: Tensor, joint: Tensor, kind: Tensor, select: Tensor | None = None
    ) -> tuple[Tensor, Tensor | float]:
        """pooled [T, M, D], what ``tell`` makes of it, kind [T, K] -> outputs [T, K, D]; the variance regressions miss.

        That share of it is taken on the histories ``select`` [S] (None: all), and 0 but while training.
        """
        pooled, kind = pooled.detach(), kind.detach()
        apart = self.additive(_with_kind(pooled.transpose(0, 1), kind)).sum(0, keepdim=True)
        estimates = [(apart, joint)]
        shared = redundancy = torch.zeros_like(single)
        if self.from_others is not None:
            shared = self.from_others(_with_kind(parts_of(pooled, self.others), kind))
            estimates.append((shared, single))
            shared = shared.detach()
            redundancy = shared + single - single.detach()  # the estimate's value, s_m's gradient
        synergy = (joint - apart.detach())[0]
        missed = sum(_missed_share(*pair, select) for pair in estimates) if self.training else 0.0
        return torch.stack([*(single - shared), synergy, redundancy.sum(0)], 1), missed


def parts_of(pooled: Tensor, seen: Tensor) -> Tensor:
    """pooled [T, M, D] and, for n readers, which modalities each sees [n, M] -> [n, T, M D], zero where unseen."""
    return (pooled * seen.to(pooled.dtype)[:, None, :, None]).flatten(2)


def _with_kind(x: Tensor, kind: Tensor) -> Tensor:
    """[n, T, C] and [T, K] -> [n, T, C + K]."""
    return torch.cat([x, kind.expand(len(x), -1, -1)], 2)


def _missed_share(estimate: Tensor, target: Tensor, select: Tensor | None) -> Tensor:
    """Squared error over variance, a mean over n regressions: [n, T, D] both, on ``select`` [S].

    0 where targets do not vary, as in a batch of one history. Every process must come here equally often.
    """
    whole = torch.promote_types(estimate.dtype, torch.float32)  # squares of what autocast rounded
    estimate, target = estimate.to(whole), target.detach().to(whole)
    if select is not None:
        estimate, target = estimate[:, select], target[:, select]
    error = ((estimate - target) ** 2).mean((1, 2))
    variance = batch_spread(target.transpose(0, 1)).square().mean(1)
    return torch.where(variance > 1e-8, error / variance.clamp(min=1e-8), 0.0).mean()


class PointwiseInformation(nn.Module):
    """What each modality alone, and all together, tell of the next item y of one history.

    Heads estimate p(y | kind), p(y | h_m, kind) and p(y | h_1, ..., h_M, kind) by maximum likelihood, which trains
    nothing else; i = log p(y | ., kind) - log p(y | kind) is the pointwise information, divided up by ``shares_of``.
    """

    def __init__(self, n_modalities: int, n_kinds: int, hidden_size: int, width: int) -> None:
        super().__init__()
        n = n_modalities
        self.heads = Perceptrons(n + 2, n * hidden_size + n_kinds, width, hidden_size)
        seen = torch.cat([torch.zeros(1, n), torch.eye(n), torch.ones(1, n)])
        self.register_buffer("seen", seen, persistent=False)

    def forward(self, pooled: Tensor, kind: Tensor, targets: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """pooled [S, M, D], kind [S, K], targets [S], table [N, D] -> loss of the heads, i [M + 1, S].

        Each p is a softmax over the distinct next items of the batch.
        """
        candidates = distinct_of_all(targets, len(table))
        place = torch.searchsorted(candidates, targets)
        with torch.autocast(pooled.device.type, enabled=False):  # i is the small difference of two large numbers
            pooled, kind, table = (x.detach().to(self.heads.weight_in.dtype) for x in (pooled, kind, table))
            states = self.heads(_with_kind(parts_of(pooled, self.seen), kind))  # [M + 2, S, D]
            log_p = torch.log_softmax(states @ table[candidates].T, dim=-1)  # [M + 2, S, U]
        log_p = log_p.gather(2, place.expand(len(states), -1).unsqueeze(2)).squeeze(2)
        return -log_p.mean(1).sum(), (log_p[1:] - log_p[0]).detach()


def shares_of(information: Tensor) -> Tensor:
    """Pointwise information of each modality, then of all together, [M + 1, S] -> shares of the experts [S, K].

    redundancy is the least that any modality tells (as I_min of Williams and Beer, arXiv 1004.2515, but for each
    history by itself, as Finn and Lizier, Entropy 2018), unique what the best tells beyond the second, synergy what
    all tell beyond the best. What misleads (i < 0) tells nothing.
    """
    single, together = information[:-1].clamp(min=0), information[-1]
    best = single.max(0).values
    synergy = (together - best).clamp(min=0)
    if len(single) == 1:
        return torch.stack([best, synergy, torch.zeros_like(best)], 1)
    unique = torch.where(single == best, best - single.topk(2, 0).values[1], 0.0)
    return torch.stack([*unique, synergy, single.min(0).values], 1)


def routing_loss(shares: Tensor, weights: Tensor) -> Tensor:
    """-sum_k share_k log w_k, a mean over histories: [S, K] both. Least where w is the mean of shares, to sum one."""
    return -(shares * weights.clamp(min=LEAST).log()).sum(1).mean()
