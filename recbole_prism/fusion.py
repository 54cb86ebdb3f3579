"""Fusion layers: what the pooled modalities of a history add to the backbone's item inputs.

Every fusion is called as ``fusion(pooled, pooled_id, select)`` and returns a ``Fused``. Shapes: T histories, M
modalities, K experts, D hidden size. ``pooled`` [T, M, D] holds one mean per modality, ``pooled_id`` [T, D] the mean of
the item embeddings; ``select`` [S] names the histories that losses are taken on (None: all).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_prism.experts import InteractionExperts


class Fused(NamedTuple):
    """vector [T, D] to add to the inputs; losses by name, already times their lambda; weights [T, K] or None."""

    vector: Tensor
    losses: dict[str, Tensor]
    weights: Tensor | None


class Gate(nn.Module):
    """Weights of the experts for one history, Eq. 10: softmax of an MLP on all expert outputs and the id pool."""

    def __init__(self, n_inputs: int, n_experts: int, hidden_size: int, *, dropout: float, temperature: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(n_inputs, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, n_experts)
        self.temperature = temperature

    def forward(self, outputs: Tensor, pooled_id: Tensor) -> Tensor:
        """outputs [T, K, D], pooled_id [T, D] -> weights [T, K] that sum to one."""
        inputs = torch.cat([outputs.flatten(1), pooled_id], dim=1)
        scores = self.output(self.dropout(F.gelu(self.hidden(inputs))))
        return torch.softmax(scores / self.temperature, dim=-1)


class PRISMFusion(nn.Module):
    """Interaction experts, weighted by the gate (PRISM, Eq. 1-11)."""

    def __init__(self, config, modalities: list[str], hidden_size: int) -> None:
        super().__init__()
        self.experts = InteractionExperts(
            modalities,
            hidden_size,
            expert_hidden_size=config["expert_hidden_size"],
            dropout=config["expert_dropout"],
            distance=config["expert_distance"],
            margin=config["expert_margin"],
            noise_scale=config["noise_scale"],
        )
        self.names = self.experts.names
        self.gate = Gate(
            (len(self.names) + 1) * hidden_size,
            len(self.names),
            config["fusion_hidden_size"],
            dropout=config["fusion_dropout"],
            temperature=config["fusion_temperature"],
        )
        self.loss_weights = _loss_weights(config, modalities)

    def forward(self, pooled: Tensor, pooled_id: Tensor, select: Tensor | None = None) -> Fused:
        outputs = self.experts(pooled)
        weights = self.gate(outputs, pooled_id)
        vector = torch.einsum("tk,tkd->td", weights, outputs)  # Eq. 11
        losses = {}
        if self.training and any(self.loss_weights.values()):
            if select is not None:
                pooled, outputs = pooled[select], outputs[select]
            named = self.experts.losses(outputs, self.experts.perturbed(pooled))
            losses = {name: self.loss_weights[name] * loss for name, loss in named.items() if self.loss_weights[name]}
        return Fused(vector, losses, weights)


def _loss_weights(config, modalities: list[str]) -> dict[str, float]:
    """lambda of every expert loss (Eq. 9); ``lambda_unique`` is one number or one per modality."""
    unique = config["lambda_unique"]
    per_modality = unique if isinstance(unique, dict) else dict.fromkeys(modalities, unique)
    weights = {f"unique_{name}": float(per_modality[name]) for name in modalities}
    return weights | {"synergy": float(config["lambda_synergy"]), "redundancy": float(config["lambda_redundancy"])}


FUSIONS = {"prism": PRISMFusion}


def build_fusion(config, modalities: list[str], hidden_size: int) -> nn.Module:
    """The fusion that ``config["fusion"]`` names."""
    name = config["fusion"]
    if name not in FUSIONS:
        raise ValueError(f"unknown fusion {name!r}; available: {sorted(FUSIONS)}")
    return FUSIONS[name](config, modalities, hidden_size)
