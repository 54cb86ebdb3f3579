"""MRdIB (arXiv 2509.20225): an information bottleneck per modality, and losses on what the codes share and do not.

Shapes: T histories, S those that losses are taken on, M modalities, D hidden size, N items, C candidates.
"""

from __future__ import annotations

import math
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from recbole_prism.distributed.sharding import relative_share
from recbole_prism.experts import mean_where
from recbole_prism.fused import Context, Fused

LOG_VARIANCE = (-8.0, 4.0)  # bounds: exp of anything may come out of an untrained layer


class Bottleneck(nn.Module):
    """q(z_m | h_m) = N(mean, diag(variance)) for every modality: one linear layer each."""

    def __init__(self, n_modalities: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_modalities, hidden_size, 2 * hidden_size))
        self.bias = nn.Parameter(torch.zeros(n_modalities, 2 * hidden_size))
        nn.init.uniform_(self.weight, -1 / math.sqrt(hidden_size), 1 / math.sqrt(hidden_size))
        with torch.no_grad():  # begin as a code that nearly passes its input on, with little noise
            self.weight[:, :, :hidden_size] += torch.eye(hidden_size)
            self.bias[:, hidden_size:] = -4.0

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """[T, M, D] -> mean and log variance of the codes, each [T, M, D]."""
        mean, log_variance = (torch.einsum("tmd,mde->tme", pooled, self.weight) + self.bias).chunk(2, dim=-1)
        return mean, log_variance.clamp(*LOG_VARIANCE)

    def draw(self, mean: Tensor, log_variance: Tensor, available: Tensor | None = None) -> Tensor:
        """z [T, M, D], drawn while training and the mean at inference; zero where the history has no such modality."""
        codes = mean
        if self.training:
            codes = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return codes if available is None else codes * available.unsqueeze(-1)

    @staticmethod
    def divergence(
        mean: Tensor, log_variance: Tensor, available: Tensor | None = None, select: Tensor | None = None
    ) -> Tensor:
        """sum_m KL(q(z_m | h_m) || N(0, I)), a mean over the (selected) histories."""
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(-1)  # [T, M]
        if available is not None:
            divergence = divergence * available
        return (divergence if select is None else divergence[select]).sum(-1).mean()


class VCLUB(nn.Module):
    """Upper bound of I(a; b) through a variational q(b | a) (arXiv 2006.12013), for minimisation."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.conditional = nn.Sequential(
            nn.Linear(hidden_size, hidden_size), nn.GELU(), nn.Linear(hidden_size, 2 * hidden_size)
        )

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """a, b [S, D] -> the bound, whose gradient leaves q alone, and -log q(b | a), whose gradient trains q alone."""
        frozen = {name: p.detach() for name, p in self.conditional.named_parameters()}
        parameters = functional_call(self.conditional, frozen, (a,))
        shuffled = b[torch.randperm(len(b), device=b.device)]
        bound = (_log_normal(b, parameters) - _log_normal(shuffled, parameters)).mean()
        return bound, -_log_normal(b.detach(), self.conditional(a.detach())).mean()


class MINE(nn.Module):
    """Lower bound of I(a; b) through a critic (Donsker-Varadhan, arXiv 1801.04062); a game, since it is minimised."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        # no bias at the end: a constant cancels from the bound
        output = nn.Linear(hidden_size, 1, bias=False)
        self.critic = nn.Sequential(nn.Linear(2 * hidden_size, hidden_size), nn.GELU(), output)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """a, b [S, D] -> the bound, whose gradient leaves the critic alone, and its negative, which trains it alone."""
        order = torch.randperm(len(b), device=b.device)
        frozen = {name: p.detach() for name, p in self.critic.named_parameters()}
        bound = self._bound(a, b, order, lambda x: functional_call(self.critic, frozen, (x,)))
        return bound, -self._bound(a.detach(), b.detach(), order, self.critic)

    @staticmethod
    def _bound(a: Tensor, b: Tensor, order: Tensor, critic) -> Tensor:
        joint = critic(torch.cat([a, b], 1)).mean()
        marginal = critic(torch.cat([a, b[order]], 1)).flatten()
        return joint - (torch.logsumexp(marginal, 0) - math.log(len(b)))


ESTIMATORS = {"vclub": VCLUB, "mine": MINE}


class MRdIBFusion(nn.Module):
    """f = W [z_1; ...; z_M] + b on codes z_m; the losses of a training step are

    bottleneck: alpha_bottleneck sum_m KL(q(z_m | h_m) || N(0, I));
    unique_m: alpha_unique times -log p(y | z_m), the next item told from one code alone;
    redundancy: alpha_redundancy times I(z_m; z_m'), summed over pairs; redundancy_fit trains its estimator alone.

    What only the codes together tell (synergy) is learned through the recommendation loss, which sees f.
    """

    names: list[str] = []

    def __init__(self, config, modalities: list[str], hidden_size: int) -> None:
        super().__init__()
        self.modalities = list(modalities)
        self.bottleneck = Bottleneck(len(modalities), hidden_size)
        self.joint = nn.Linear(len(modalities) * hidden_size, hidden_size)
        self.alphas = {key: float(config[f"alpha_{key}"]) for key in ("bottleneck", "unique", "redundancy")}
        self.n_candidates = config["unique_candidates"]
        self.decoders = nn.ModuleDict()
        self.estimators = nn.ModuleDict()
        if self.alphas["unique"]:
            self.decoders.update({name: nn.Linear(hidden_size, hidden_size) for name in modalities})
        if self.alphas["redundancy"]:
            estimator = ESTIMATORS[config["redundancy_estimator"]]
            self.estimators.update({f"{a}_{b}": estimator(hidden_size) for a, b in combinations(modalities, 2)})

    def forward(
        self, pooled: Tensor, pooled_id: Tensor, select: Tensor | None = None, context: Context | None = None
    ) -> Fused:
        context = context or Context()
        mean, log_variance = self.bottleneck(pooled)
        codes = self.bottleneck.draw(mean, log_variance, context.available)
        vector = self.joint(codes.flatten(1))
        if not self.training:
            return Fused(vector, {}, None)
        losses = {}
        if self.alphas["bottleneck"]:
            divergence = self.bottleneck.divergence(mean, log_variance, context.available, select)
            losses["bottleneck"] = self.alphas["bottleneck"] * divergence
        available = context.available
        if select is not None:
            codes, available = codes[select], None if available is None else available[select]
        if available is None:
            available = torch.ones(codes.shape[:2], dtype=torch.bool, device=codes.device)
        if self.decoders and context.targets is not None:
            losses |= self._unique(codes, available, context.targets, context.table)
        if self.estimators:
            losses |= self._redundancy(codes, available)
        return Fused(vector, losses, None)

    def _unique(self, codes: Tensor, available: Tensor, targets: Tensor, table: Tensor) -> dict[str, Tensor]:
        """-log p(y | z_m), a mean over the histories that have m: codes [S, M, D], targets [S], table [N, D]."""
        candidates = draw_candidates(len(table) - 1, self.n_candidates, table.device)
        losses = {}
        for m, name in enumerate(self.modalities):
            states = self.decoders[name](codes[:, m])
            each = candidate_cross_entropy(states, table, targets, candidates)
            losses[f"unique_{name}"] = self.alphas["unique"] * mean_where(each, available[:, m])
        return losses

    def _redundancy(self, codes: Tensor, available: Tensor) -> dict[str, Tensor]:
        """Mutual information of the codes, over histories that have both of a pair, and the fit of its estimator."""
        bounds, fits = [], []
        for a, b in combinations(range(len(self.modalities)), 2):
            both = (available[:, a] & available[:, b]).nonzero().flatten()
            share = relative_share(available[:, a] & available[:, b], codes.dtype)
            if len(both) == 0:
                continue
            estimator = self.estimators[f"{self.modalities[a]}_{self.modalities[b]}"]
            bound, fit = estimator(codes[both, a], codes[both, b])
            bounds.append(bound * share)
            fits.append(fit * share)
        zero = codes.sum() * 0
        return {"redundancy": self.alphas["redundancy"] * sum(bounds, zero), "redundancy_fit": sum(fits, zero)}


def draw_candidates(n_items: int, n_candidates: int, device) -> Tensor | None:
    """Ids [C] of distinct items drawn uniformly, or None: all of them, where they are no more."""
    if n_items <= n_candidates:
        return None
    return torch.randperm(n_items, device=device)[:n_candidates] + 1


def candidate_cross_entropy(states: Tensor, table: Tensor, targets: Tensor, candidates: Tensor | None) -> Tensor:
    """-log softmax of each target: states [S, D], table [N, D], targets [S], candidates [C] or None for all -> [S].

    With candidates the sum over the items that are not the target is estimated from those drawn.
    """
    if candidates is None:
        return F.cross_entropy(states @ table[1:].T, targets - 1, reduction="none")
    own = (states * table[targets]).sum(-1)
    others = (states @ table[candidates].T).masked_fill(candidates == targets[:, None], -math.inf)
    n_others = (candidates != targets[:, None]).sum(1)
    rest = torch.logsumexp(others, 1) + math.log(len(table) - 2) - n_others.log()
    return torch.logaddexp(own, rest.to(own.dtype)) - own


def _log_normal(x: Tensor, parameters: Tensor) -> Tensor:
    """log N(x; mean, diag(variance)) less its constant: x [S, D], parameters [S, 2 D] -> [S]."""
    mean, log_variance = parameters.chunk(2, dim=-1)
    log_variance = log_variance.clamp(*LOG_VARIANCE)
    return -0.5 * ((x - mean) ** 2 / log_variance.exp() + log_variance).sum(-1)
