"""Fusion layers: what the pooled modalities of a history add to the backbone's item inputs.

Every fusion is called as ``fusion(pooled, pooled_id, select, context)`` and returns a ``Fused``. Shapes: T histories, M
modalities, K experts, D hidden size. ``pooled`` [T, M, D] holds one mean per modality, zero where the history has none;
``pooled_id`` [T, D] the mean of the item embeddings; ``select`` [S] names the histories that losses are taken on (None:
all); ``context`` says what else is known of them (``fused.Context``). ``names`` are those of the K weights.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_prism.distributed import processes
from recbole_prism.errors import PRISMError, suggest
from recbole_prism.experts import InteractionExperts
from recbole_prism.fused import Context, Fused, mix
from recbole_prism.mrdib import Bottleneck, MRdIBFusion
from recbole_prism.residual import PointwiseInformation, ResidualExperts, routing_loss, shares_of
from recbole_prism.training.kernels import gelu


class Gate(nn.Module):
    """Weights of the experts for one history, Eq. 10: softmax of an MLP on all expert outputs and the id pool."""

    def __init__(self, n_inputs: int, n_experts: int, hidden_size: int, *, dropout: float, temperature: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(n_inputs, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, n_experts)
        self.temperature = temperature

    def forward(self, read: Tensor, pooled_id: Tensor, available: Tensor | None = None) -> Tensor:
        """read [T, hidden] (methods below), pooled_id [T, D], available [T, K] -> weights [T, K] that sum to one."""
        of_id = self.hidden.weight[:, -pooled_id.shape[1] :]
        scores = self.output(self.dropout(gelu(torch.addmm(read, pooled_id, of_id.t()))))
        return masked_softmax(scores / self.temperature, available)

    def read(self, outputs: Tensor) -> Tensor:
        """What the first layer makes of expert outputs [T, K, D]; apart from the id pool, which spares a copy."""
        return F.linear(outputs.flatten(1), self.hidden.weight[:, : outputs[0].numel()], self.hidden.bias)

    def read_experts(self, experts: InteractionExperts, activated: Tensor, on: Tensor | None = None) -> Tensor:
        """The same of outputs that need not exist: the experts' second layers become part of the gate's first.

        activated [T, K H] as of ``InteractionExperts.activate``; on [K]: experts that are not switched off.
        """
        n_experts, _, hidden_size = experts.weight_out.shape
        readers = self.hidden.weight[:, : n_experts * hidden_size]
        weight, bias = experts.read_by(readers if on is None else readers * on.repeat_interleave(hidden_size))
        return torch.addmm(self.hidden.bias + bias, activated, weight)


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
        self.gate = build_gate(config, len(self.names), hidden_size)
        self.loss_weights = _loss_weights(config, modalities) | dict.fromkeys(config["experts_off"], 0.0)
        on = [name not in config["experts_off"] for name in self.names]
        self.register_buffer("experts_on", None if all(on) else torch.tensor(on), persistent=False)
        self.compares_predictions = config["expert_loss_on"] == "prediction"
        self.loss_samples = config["expert_loss_samples"]

    def forward(
        self, pooled: Tensor, pooled_id: Tensor, select: Tensor | None = None, context: Context | None = None
    ) -> Fused:
        clean = self.experts.first_layer(pooled)
        kept = self.experts.draw_kept(clean)
        activated = self.experts.activate(clean, kept)
        available = None if self.experts_on is None else self.experts_on.expand(len(activated), -1)
        weights = self.gate(self.gate.read_experts(self.experts, activated, self.experts_on), pooled_id, available)
        vector = self.experts.mixed(weights, activated)  # Eq. 11
        if not self.training or not any(self.loss_weights.values()):
            return Fused(vector, {}, weights)
        has = None if context is None else context.available
        if self.compares_predictions:
            without = self.experts.perturbed(pooled, clean, kept, has)
            return Fused(vector, {}, weights, self.experts.variants(self.experts.second_layer(activated), without))
        select = self.sample(len(pooled) if select is None else len(select), pooled.device, select)
        if select is not None:
            pooled, clean, activated = pooled[select], clean[select], activated[select]
            kept, has = (x if x is None else x[select] for x in (kept, has))
        outputs = self.experts.second_layer(activated)
        losses = self.experts.losses(outputs, self.experts.perturbed(pooled, clean, kept, has), has)
        return Fused(vector, self.weigh(losses), weights)

    def sample(self, n: int, device: torch.device, select: Tensor | None) -> Tensor | None:
        """Of n histories, ``select`` [n] (None: all), those that expert losses are taken on."""
        drawn = draw_histories(n, self.loss_samples, device)
        if drawn is None:
            return select
        return drawn if select is None else select[drawn]

    def losses_on(self, predictions: Tensor) -> dict[str, Tensor]:
        """Eq. 5-8 on the backbone's predictions for each variant: [V, T, D]."""
        return self.weigh(self.experts.losses(*self.experts.from_variants(predictions)))

    def weigh(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Each loss times its lambda (Eq. 9); one whose lambda is 0 is left out."""
        return {name: self.loss_weights[name] * loss for name, loss in losses.items() if self.loss_weights[name]}


class BottleneckPRISMFusion(PRISMFusion):
    """``prism+mib``: the experts read a Gaussian code of each modality instead of its pool."""

    def __init__(self, config, modalities: list[str], hidden_size: int) -> None:
        super().__init__(config, modalities, hidden_size)
        self.bottleneck = Bottleneck(len(modalities), hidden_size)
        self.alpha = config["alpha_bottleneck"]

    def forward(
        self, pooled: Tensor, pooled_id: Tensor, select: Tensor | None = None, context: Context | None = None
    ) -> Fused:
        available = None if context is None else context.available
        mean, log_variance = self.bottleneck(pooled)
        codes = self.bottleneck.draw(mean, log_variance, available)
        fused = super().forward(codes, pooled_id, select, context)
        if self.training and self.alpha:
            fused.losses["bottleneck"] = self.alpha * self.bottleneck.divergence(mean, log_variance, available, select)
        return fused


class ResidualPRISMFusion(nn.Module):
    """``prism+residual``: residual experts under a gate that learns how much of the next item each part tells.

    ``kind`` [T, K] is what the ids of a history let expect of that, so that groups of users may differ in it.
    """

    def __init__(self, config, modalities: list[str], hidden_size: int) -> None:
        super().__init__()
        width = config["expert_hidden_size"]
        self.experts = ResidualExperts(
            modalities, hidden_size, expert_hidden_size=width, dropout=config["expert_dropout"]
        )
        self.names = self.experts.names
        n_experts = len(self.names)
        self.gate = build_gate(config, n_experts, hidden_size, n_vectors=len(modalities) + 1)
        self.kind = nn.Sequential(nn.Dropout(config["fusion_dropout"]), nn.Linear(hidden_size, n_experts))
        self.information = PointwiseInformation(len(modalities), n_experts, hidden_size, width)
        on = torch.tensor([name not in config["experts_off"] for name in self.names])
        self.register_buffer("experts_on", None if on.all() else on, persistent=False)
        self.lambda_routing = float(config["lambda_routing"])
        self.loss_samples = config["expert_loss_samples"]

    def forward(self, pooled, pooled_id, select=None, context=None) -> Fused:
        single, joint = self.experts.tell(pooled)
        kind = torch.softmax(self.kind(pooled_id.detach()), dim=-1)
        outputs, missed = self.experts(pooled, single, joint, kind, select)
        available = None if self.experts_on is None else self.experts_on.expand(len(outputs), -1)
        if available is not None:
            outputs = outputs * available.unsqueeze(-1)
        weights = self.gate(self.gate.read(torch.cat([single, joint]).transpose(0, 1)), pooled_id, available)
        vector = mix(weights, outputs)
        if not self.training:
            return Fused(vector, {}, weights)
        losses = {"residual_fit": missed}
        if context is not None and context.targets is not None:
            losses |= self.route(pooled, kind, weights, select, context)
        return Fused(vector, losses, weights)

    def route(self, pooled: Tensor, kind: Tensor, weights: Tensor, select: Tensor | None, context: Context) -> dict:
        """The losses of heads and ``kind``, and of the gate, on ``expert_loss_samples`` of the selected histories."""
        targets = context.targets
        if select is not None:
            pooled, kind, weights = pooled[select], kind[select], weights[select]
        drawn = draw_histories(len(pooled), self.loss_samples, pooled.device)
        if drawn is not None:
            pooled, kind, weights, targets = pooled[drawn], kind[drawn], weights[drawn], targets[drawn]
        fit, information = self.information(pooled, kind, targets, context.table)
        shares = shares_of(information)
        shares = shares if self.experts_on is None else shares * self.experts_on
        return {
            "information_fit": fit + routing_loss(shares, kind),
            "routing": self.lambda_routing * routing_loss(shares, weights),
        }


class NoFusion(nn.Module):
    """f = 0. With ``add_projections`` the items' own modalities remain; without it, and with ``target_smoothing: 0``,
    the plain backbone.
    """

    names: list[str] = []

    def __init__(self, config, modalities: list[str], hidden_size: int) -> None:
        super().__init__()

    def forward(self, pooled, pooled_id, select=None, context=None) -> Fused:
        return Fused(torch.zeros_like(pooled_id), {}, None)


class SumFusion(NoFusion):
    """f = sum_m h_m: no parameters beyond the projections."""

    def forward(self, pooled, pooled_id, select=None, context=None) -> Fused:
        return Fused(pooled.sum(1), {}, None)


class ConcatFusion(NoFusion):
    """f = W [h_1; ...; h_M] + b."""

    def __init__(self, config, modalities: list[str], hidden_size: int) -> None:
        super().__init__(config, modalities, hidden_size)
        self.projection = nn.Linear(len(modalities) * hidden_size, hidden_size)

    def forward(self, pooled, pooled_id, select=None, context=None) -> Fused:
        return Fused(self.projection(pooled.flatten(1)), {}, None)


class MLPFusion(NoFusion):
    """f = MLP([h_1; ...; h_M; h_id]) with as many parameters as the fusion that ``mlp_matches`` names."""

    def __init__(self, config, modalities: list[str], hidden_size: int) -> None:
        super().__init__(config, modalities, hidden_size)
        with torch.random.fork_rng(devices=[]):
            matched = find_fusion(config["mlp_matches"] or "prism")(config, modalities, hidden_size)
        n_parameters = sum(p.numel() for p in matched.parameters())
        n_inputs = (len(modalities) + 1) * hidden_size
        width = max(1, round((n_parameters - hidden_size) / (n_inputs + 1 + hidden_size)))
        self.hidden = nn.Linear(n_inputs, width)
        self.dropout = nn.Dropout(config["expert_dropout"])
        self.output = nn.Linear(width, hidden_size)

    def forward(self, pooled, pooled_id, select=None, context=None) -> Fused:
        inputs = torch.cat([pooled.flatten(1), pooled_id], dim=1)
        return Fused(self.output(self.dropout(F.gelu(self.hidden(inputs)))), {}, None)


class GateFusion(nn.Module):
    """f = sum_m w_m h_m with w the softmax of an MLP on [h_1; ...; h_M; h_id], over the modalities a history has."""

    def __init__(self, config, modalities: list[str], hidden_size: int) -> None:
        super().__init__()
        self.names = list(modalities)
        self.gate = build_gate(config, len(modalities), hidden_size)

    def forward(self, pooled, pooled_id, select=None, context=None) -> Fused:
        weights = self.gate(self.gate.read(pooled), pooled_id, None if context is None else context.available)
        return Fused(mix(weights, pooled), {}, weights)


class AttentionFusion(nn.Module):
    """f = sum_m softmax_m(<W_q h_id, W_k h_m> / sqrt(D)) W_v h_m, over the modalities a history has."""

    def __init__(self, config, modalities: list[str], hidden_size: int) -> None:
        super().__init__()
        self.names = list(modalities)
        self.gate = AttentionGate(hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)

    def forward(self, pooled, pooled_id, select=None, context=None) -> Fused:
        weights = self.gate(pooled, pooled_id, None if context is None else context.available)
        return Fused(mix(weights, self.value(pooled)), {}, weights)


class AttentionGate(nn.Module):
    """The softmax of ``AttentionFusion``."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)  # a bias would cancel in the softmax

    def forward(self, pooled: Tensor, pooled_id: Tensor, available: Tensor | None) -> Tensor:
        """pooled [T, M, D], pooled_id [T, D], available [T, M] -> weights [T, M] that sum to one."""
        scores = torch.einsum("td,tmd->tm", self.query(pooled_id), self.key(pooled)) / math.sqrt(pooled.shape[-1])
        return masked_softmax(scores, available)


def draw_histories(n: int, size: int | None, device: torch.device) -> Tensor | None:
    """Which of n histories to take a mean on, [size] of them at random; None: all, where there are no more.

    A mean over a random part has the same expectation.
    """
    size = n if size is None else -(-size // processes.world_size())
    return torch.randperm(n, device=device)[:size] if size < n else None


def build_gate(config, n_weights: int, hidden_size: int, n_vectors: int | None = None) -> Gate:
    """The gate that reads ``n_vectors`` of size ``hidden_size`` (None: the ``n_weights`` it weighs) and the id pool."""
    return Gate(
        ((n_vectors or n_weights) + 1) * hidden_size,
        n_weights,
        config["fusion_hidden_size"],
        dropout=config["fusion_dropout"],
        temperature=config["fusion_temperature"],
    )


def masked_softmax(scores: Tensor, available: Tensor | None) -> Tensor:
    """Softmax over the available ones of each row, zero elsewhere: scores [T, K], available [T, K] -> [T, K]."""
    if available is None:
        return torch.softmax(scores, dim=-1)
    weights = torch.softmax(scores.masked_fill(~available, torch.finfo(scores.dtype).min), dim=-1)
    return weights * available


def _loss_weights(config, modalities: list[str]) -> dict[str, float]:
    """lambda of every expert loss (Eq. 9); ``lambda_unique`` is one number or one per modality."""
    unique = config["lambda_unique"]
    per_modality = unique if isinstance(unique, dict) else dict.fromkeys(modalities, unique)
    weights = {f"unique_{name}": float(per_modality[name]) for name in modalities}
    return weights | {"synergy": float(config["lambda_synergy"]), "redundancy": float(config["lambda_redundancy"])}


FUSIONS = {
    "prism": PRISMFusion,
    "prism+mib": BottleneckPRISMFusion,
    "prism+residual": ResidualPRISMFusion,
    "mrdib": MRdIBFusion,
    "none": NoFusion,
    "sum": SumFusion,
    "concat": ConcatFusion,
    "mlp": MLPFusion,
    "gate": GateFusion,
    "attention": AttentionFusion,
}


def build_fusion(config, modalities: list[str], hidden_size: int) -> nn.Module:
    """The fusion that ``config["fusion"]`` names."""
    return find_fusion(config["fusion"])(config, modalities, hidden_size)


def find_fusion(name: str) -> type[nn.Module]:
    """The class that ``FUSIONS`` has under a name. Raises PRISMError if there is none."""
    if name not in FUSIONS:
        raise PRISMError(
            f"fusion: {name!r} is unknown{suggest(str(name), FUSIONS)}; available: {sorted(FUSIONS)} "
            "(if it is one of yours, import the module that registers it first)"
        )
    return FUSIONS[name]
