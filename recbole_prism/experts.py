"""Interaction Expert Layer of PRISM (arXiv 2601.10944, section 3.2) and its losses.

Shapes: T histories (rows, or positions of packed sequences), M modalities, K = M + 2 experts, D hidden size,
H expert hidden size. Expert k < M is ``unique`` to modality k, then come ``synergy`` and ``redundancy``.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_prism.distributed.sharding import batch_spread, relative_share
from recbole_prism.training.kernels import dropout_factor, gelu


def expert_names(modalities: list[str]) -> list[str]:
    """Names of the experts in their order, e.g. unique_image, unique_text, synergy, redundancy."""
    return [f"unique_{name}" for name in modalities] + ["synergy", "redundancy"]


class InteractionExperts(nn.Module):
    """M + 2 two-layer MLPs on the concatenated modalities (Eq. 1), evaluated together.

    The first layer of all experts is one matrix per modality, ``[D, K H]``: replacing modality m by noise then costs
    one product with noise instead of a second pass over everything.
    """

    def __init__(
        self,
        modalities: list[str],
        hidden_size: int,
        *,
        expert_hidden_size: int,
        dropout: float,
        distance: str,
        margin: float,
        noise_scale: str,
    ) -> None:
        super().__init__()
        self.modalities = list(modalities)
        self.names = expert_names(self.modalities)
        self.distance, self.margin, self.noise_scale = distance, margin, noise_scale
        n_modalities, n_experts = len(self.modalities), len(self.names)
        self.expert_hidden_size = expert_hidden_size
        self.weight_in = nn.Parameter(torch.empty(n_modalities, hidden_size, n_experts * expert_hidden_size))
        self.bias_in = nn.Parameter(torch.zeros(n_experts * expert_hidden_size))
        self.weight_out = nn.Parameter(torch.empty(n_experts, expert_hidden_size, hidden_size))
        self.bias_out = nn.Parameter(torch.zeros(n_experts, 1, hidden_size))
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights uniform as in ``nn.Linear`` of each expert (fan-in M D and H), biases zero."""
        n_modalities, hidden_size, _ = self.weight_in.shape
        for weight, fan_in in (
            (self.weight_in, n_modalities * hidden_size),
            (self.weight_out, self.expert_hidden_size),
        ):
            nn.init.uniform_(weight, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def forward(self, pooled: Tensor) -> Tensor:
        """Clean pass, Eq. 1. pooled [T, M, D] -> expert outputs [T, K, D]."""
        before_activation = self.first_layer(pooled)
        return self.second_layer(self.activate(before_activation, self.draw_kept(before_activation)))

    def first_layer(self, pooled: Tensor) -> Tensor:
        """Before the activation, all experts side by side: [T, M, D] -> [T, K H]."""
        return torch.addmm(self.bias_in, pooled.flatten(1), self.weight_in.flatten(0, 1))

    def activate(self, before_activation: Tensor, kept: Tensor | None = None) -> Tensor:
        """Hidden features a_k: [..., T, K H] -> the same; ``kept`` [T, K H] is a dropout mask, None: no dropout.

        At inference without gradients ``before_activation`` is overwritten.
        """
        activated = F.gelu(before_activation) if self.training else gelu(before_activation)
        return activated if kept is None else activated * kept

    def second_layer(self, activated: Tensor) -> Tensor:
        """E_k = a_k W_k + b_k: [..., T, K H] -> [..., T, K, D]."""
        n_experts, hidden, hidden_size = self.weight_out.shape
        by_expert = activated.view(-1, n_experts, hidden).transpose(0, 1)
        outputs = torch.baddbmm(self.bias_out, by_expert, self.weight_out).transpose(0, 1)
        return outputs.reshape(*activated.shape[:-1], n_experts, hidden_size)

    def mixed(self, weights: Tensor, activated: Tensor) -> Tensor:
        """sum_k w_k E_k (Eq. 11) as one product of (w_k a_k), so that no E_k need exist: [T, K], [T, K H] -> [T, D]."""
        weighted = (activated.unflatten(1, (weights.shape[1], -1)) * weights.unsqueeze(2)).flatten(1)
        return torch.addmm(weights @ self.bias_out.flatten(0, 1), weighted, self.weight_out.flatten(0, 1))

    def read_by(self, readers: Tensor) -> tuple[Tensor, Tensor]:
        """A linear layer ``readers`` [R, K D] on all E_k side by side, as one on the a_k: weight [K H, R], bias [R]."""
        n_experts, _, hidden_size = self.weight_out.shape
        by_expert = readers.t().unflatten(0, (n_experts, hidden_size))
        return torch.bmm(self.weight_out, by_expert).flatten(0, 1), readers @ self.bias_out.flatten()

    def draw_kept(self, before_activation: Tensor) -> Tensor | None:
        """Dropout mask [T, K H] of hidden features, scaled; None where nothing is dropped.

        The clean and the perturbed passes share it, so that the losses compare inputs and not what dropout hit.
        """
        return dropout_factor(self.dropout, before_activation)

    def draw_noise(self, pooled: Tensor, available: Tensor | None = None) -> Tensor:
        """r of Eq. 3-4, drawn anew each step: [T, M, D].

        ``match``: scaled per dimension to the spread of the modality it replaces over the histories of the batch that
        have it (available [T, M]); ``unit``: N(0, I).
        """
        noise = torch.randn_like(pooled)
        if self.noise_scale == "match":
            noise = noise * batch_spread(pooled.detach(), available)
        return noise

    def perturbed(
        self,
        pooled: Tensor,
        clean: Tensor | None = None,
        kept: Tensor | None = None,
        available: Tensor | None = None,
    ) -> Tensor:
        """Expert outputs with modality m replaced by noise, for each m (Eq. 3-4): [T, M, D] -> [M, T, K, D].

        ``clean`` is what ``first_layer`` gave for the same histories, if it is at hand; ``kept`` their dropout mask;
        ``available`` [T, M] which histories have a modality.
        """
        clean = self.first_layer(pooled) if clean is None else clean
        change = self.draw_noise(pooled, available) - pooled
        before = torch.baddbmm(clean.expand(len(self.weight_in), -1, -1), change.transpose(0, 1), self.weight_in)
        return self.second_layer(self.activate(before, kept))

    @staticmethod
    def variants(full: Tensor, without: Tensor) -> Tensor:
        """What Eq. 2 puts into the backbone in turn: full [T, K, D], without [M, T, K, D] -> [(1 + M) K, T, D]."""
        return torch.cat([full.unsqueeze(0), without]).transpose(1, 2).flatten(0, 1)

    def from_variants(self, variants: Tensor) -> tuple[Tensor, Tensor]:
        """Undo ``variants``, on what the backbone made of them: [(1 + M) K, T, D] -> full, without."""
        parts = variants.unflatten(0, (-1, len(self.names))).transpose(1, 2)
        return parts[0], parts[1:]

    def losses(self, full: Tensor, without: Tensor, available: Tensor | None = None) -> dict[str, Tensor]:
        """Eq. 5-8, each a mean over histories, on expert outputs: full [T, K, D], without [M, T, K, D].

        ``available`` [T, M]: what a history does not have cannot be replaced, and does not count. With a single
        modality there is no other one to contrast with: no ``unique`` loss then.
        """
        losses: dict[str, Tensor] = {}
        n_modalities = len(self.modalities)
        has = None if available is None else available.t()  # [M, T]
        for m, name in enumerate(self.modalities):
            if n_modalities == 1:
                continue
            # Eq. 5-6: expert m must change more when m is replaced than when another modality is
            distance = self._distance(full[:, m], without[:, :, m])  # [M, T]
            near = _others(distance, m)
            both = None if has is None else _others(has, m) & has[m]
            losses[f"unique_{name}"] = mean_where(F.relu(self.margin + near - distance[m]), both)
        similar = _cosine(full[:, n_modalities:], without[:, :, n_modalities:])
        losses["synergy"] = mean_where(similar[..., 0], has)  # Eq. 7: synergy vanishes when either modality does
        losses["redundancy"] = mean_where(1 - similar[..., 1], has)  # Eq. 8: redundancy survives the loss of either
        return losses

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        if self.distance == "cosine":
            return 1 - _cosine(a, b)
        return F.pairwise_distance(a, b)


def mean_where(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of values where the mask of the same shape holds (None: of all), over all processes; 0 where it never does.

    Every process must come here equally often with a mask.
    """
    if mask is None:
        return values.mean()
    return (values * mask).sum() / mask.sum().clamp(min=1) * relative_share(mask.flatten(), values.dtype)


def _others(rows: Tensor, m: int) -> Tensor:
    """All rows but the m-th: [M, T] -> [M - 1, T]."""
    return torch.cat([rows[:m], rows[m + 1 :]])


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine over the last dimension; ``F.cosine_similarity`` takes twice as long to train."""
    return (a * b).sum(-1) * _inverse_norm(a) * _inverse_norm(b)


def _inverse_norm(x: Tensor) -> Tensor:
    """1 / |x| over the last dimension, bounded so that gradients of vanishing vectors stay finite."""
    return (x * x).sum(-1).clamp(min=1e-16).rsqrt()
