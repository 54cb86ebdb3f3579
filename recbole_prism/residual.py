"""``prism+residual``: experts held apart by what each modality tells alone, both tell, and only together they tell.

The experts of PRISM all see all modalities, and nothing in Eq. 5-8 keeps one from telling what is another's. Here each
expert is what regressions leave over, so that it cannot. Shapes: T histories, S those that losses are taken on, M
modalities, K = M + 2 experts, D hidden size, N items, U distinct targets.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_prism.experts import expert_names

EVEN = 0.2  # share of the gate's weight that the routing loss takes as spread evenly


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

    unique_m   = s_m - E[s_m | h_m' of all m' != m],
    redundancy = sum_m E[s_m | h_m' of all m' != m],
    synergy    = j - sum_m A_m(h_m), the best such sum.

    Each E and the A_m are MLPs too, trained to the least squares by a loss that trains nothing else, and left alone by
    every other loss. Where modalities are independent redundancy vanishes, where one tells all of another unique does,
    and what a sum of functions of one modality each can be is not in synergy.
    """

    def __init__(self, modalities: list[str], hidden_size: int, *, expert_hidden_size: int, dropout: float) -> None:
        super().__init__()
        n, sizes = len(modalities), (expert_hidden_size, hidden_size)
        self.names = expert_names(modalities)
        self.single = Perceptrons(n, hidden_size, *sizes, dropout=dropout)
        self.joint = Perceptrons(1, n * hidden_size, *sizes, dropout=dropout)
        self.from_others = Perceptrons(n, n * hidden_size, *sizes) if n > 1 else None
        self.additive = Perceptrons(n, hidden_size, *sizes)

    def forward(self, pooled: Tensor, select: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """pooled [T, M, D] -> outputs [T, K, D]; the share of variance that the regressions miss.

        ``select`` [S]: the histories that this share is taken on (None: all).
        """
        each = pooled.transpose(0, 1)  # [M, T, D]
        single, joint = self.single(each), self.joint(pooled.flatten(1).unsqueeze(0))
        apart = self.additive(each.detach()).sum(0, keepdim=True)
        missed = _missed_share(apart, joint, select)
        shared = torch.zeros_like(single)
        if self.from_others is not None:
            shared = self._from_others(pooled.detach())
            missed = missed + _missed_share(shared, single, select)
        shared = shared.detach()
        redundancy = (shared + single - single.detach()).sum(0)  # the estimate's value, s_m's gradient
        synergy = (joint - apart.detach())[0]
        return torch.stack([*(single - shared), synergy, redundancy], 1), missed

    def _from_others(self, pooled: Tensor) -> Tensor:
        """E[s_m | other modalities], [M, T, D]."""
        n = pooled.shape[1]
        others = ~torch.eye(n, dtype=torch.bool, device=pooled.device)
        return self.from_others((pooled.unsqueeze(0) * others[:, None, :, None]).flatten(2))


def _missed_share(estimate: Tensor, target: Tensor, select: Tensor | None) -> Tensor:
    """Squared error over variance, a mean over n regressions: [n, T, D] both, on ``select`` [S]."""
    target = target.detach()
    if select is not None:
        estimate, target = estimate[:, select], target[:, select]
    error = ((estimate - target) ** 2).mean((1, 2))
    return (error / target.var(1, unbiased=False).mean(1).clamp(min=1e-8)).mean()


def routing_loss(states: Tensor, weights: Tensor, targets: Tensor, table: Tensor) -> Tensor:
    """-log sum_k w_k p(y | e_k), a mean over histories: the gate learns which expert tells the next item by itself.

    Of w_k a share ``EVEN`` is spread evenly, so that an expert which learns slowly is not given up. p is a softmax over
    the distinct next items of the batch. states [S, K, D], weights [S, K], targets [S], table [N, D].
    """
    weights = (1 - EVEN) * weights + EVEN / weights.shape[1]
    candidates, place = torch.unique(targets, return_inverse=True)
    log_p = torch.log_softmax(states @ table[candidates].T, dim=-1)  # [S, K, U]
    each = log_p.gather(2, place[:, None, None].expand(-1, states.shape[1], 1)).squeeze(2)
    return -torch.logsumexp(each + weights.log(), dim=1).mean()
