"""PRISMMixin: the glue between a RecBole backbone and the layers of PRISM.

The backbone stays RecBole's. A forward hook on its ``item_embedding``, in force only while the backbone's ``forward``
runs, replaces e_id(s_t) by e_id(s_t) + f + sum_m p_m(s_t). Shapes: B batch, L length, T flat
positions, M modalities, D hidden size, N items.
"""

from __future__ import annotations

from logging import getLogger

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_prism.candidates import scaled_states, score_content, score_cosine
from recbole_prism.errors import PRISMError
from recbole_prism.features import check_fingerprint, fingerprint_of
from recbole_prism.fused import Context
from recbole_prism.fusion import build_fusion
from recbole_prism.modalities import Modalities
from recbole_prism.prediction import hooked, prediction_losses
from recbole_prism.training.compiling import compile_fusion
from recbole_prism.training.kernels import use_fast_kernels
from recbole_prism.training.packing import PackedBatch
from recbole_prism.training.smoothing import TargetSmoothing


class PRISMMixin:
    """Mix in before a RecBole ``SequentialRecommender`` that embeds items through ``self.item_embedding``."""

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        hidden_size = self.item_embedding.embedding_dim
        self.fusion_scope = config["fusion_scope"]
        self.add_projections = config["add_projections"]
        self.score_items = config["score_items"]
        self.cosine_temperature: float | None = None
        self.modalities = Modalities(config, dataset, hidden_size, self.item_embedding.num_embeddings)
        self.fusion = build_fusion(config, self.modalities.names, hidden_size)
        self.n_contents = dataset.item_num
        self.expert_losses: list[dict[str, Tensor]] = []
        self.loss_names: tuple[str, ...] = ("recommendation",)
        self.expert_weights: Tensor | None = None  # [B, K] of the last forward pass
        self._table: tuple | None = None
        self.history: Tensor | None = None  # [B, L], where the backbone looks up something else than its history
        self.targets: Tensor | None = None  # [B], the next items while their loss is computed
        self._variants: Tensor | None = None  # [V, T, D], which Eq. 2 puts in the place of f
        self._n_lookups = 0
        self.item_fingerprint = fingerprint_of(dataset.field2id_token[dataset.iid_field])
        share = config["target_smoothing"]
        self.smoothing = TargetSmoothing(self.modalities, share, config["smoothing_neighbours"]) if share else None
        if self.score_items == "content":
            score_content(self.item_embedding, self._content)
        if config["cosine_temperature"]:
            score_cosine(self, config["cosine_temperature"])
        self.beyond_recbole = beyond_recbole(config)  # emptied by a trainer that does it
        use_fast_kernels(self)
        compile_fusion(self.fusion, config["torch_compile"])

    # -- RecBole's interface -----------------------------------------------------------------------------------------

    def forward(self, *args, **kwargs) -> Tensor:
        """The backbone's own forward on enriched item inputs; all that it looks up [B, L] is history."""
        self._n_lookups = 0
        with hooked(self.item_embedding, self._enrich_rows):
            output = super().forward(*args, **kwargs)
        if self._n_lookups == 0:
            raise PRISMError(f"{type(self).__name__}: forward never called item_embedding, so nothing could be added")
        if self._variants is not None:
            variants, self._variants = self._variants, None
            self.expert_losses.append(prediction_losses(self, variants, self._present, super().forward, args, kwargs))
        return scaled_states(self, output)

    def calculate_loss(self, interaction) -> tuple[Tensor, ...]:
        """Eq. 12: the backbone's loss, then each expert loss times its lambda; ``loss_names`` tells which is which.

        Raises PRISMError if a trainer of RecBole's own asks, and the configuration needs ours.
        """
        if self.beyond_recbole:
            self._check_trainer()
        self.expert_losses.clear()
        self.targets = self.targets_of(interaction)
        try:
            recommendation = super().calculate_loss(interaction)
        finally:
            self.targets = None
        return self.with_expert_losses(recommendation)

    def _check_trainer(self) -> None:
        if needed := [key for key in self.beyond_recbole if key not in DEFAULTED]:
            raise PRISMError(
                f"{needed[0]}: needs our trainer; take get_trainer's, or subclass recbole_prism.PRISMTrainer"
            )
        getLogger().warning(
            f"{' and '.join(self.beyond_recbole)}: without effect, since the trainer is not ours; take get_trainer's, "
            "or subclass recbole_prism.PRISMTrainer"
        )
        self.beyond_recbole = ()

    def targets_of(self, interaction) -> Tensor | None:
        """The next item [B] of each history, for fusions that predict it by themselves; None if it is not that."""
        return interaction[self.POS_ITEM_ID]

    def with_expert_losses(self, recommendation: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Append the expert losses since the last call, each a mean over the passes of the backbone that had it."""
        parts = recommendation if isinstance(recommendation, tuple) else (recommendation,)
        names = ["recommendation"] + [f"recommendation{n}" for n in range(2, len(parts) + 1)]
        passes, self.expert_losses = self.expert_losses, []
        by_name = {name: [each[name] for each in passes if name in each] for each in passes for name in each}
        extra = {name: sum(found) / len(found) for name, found in by_name.items()}
        self.loss_names = (*names, *extra)
        return (*parts, *extra.values())

    def load_state_dict(self, state_dict, *args, **kwargs):
        """As torch's; raises PRISMError if the weights are of another model or dataset."""
        try:
            return super().load_state_dict(state_dict, *args, **kwargs)
        except RuntimeError as error:
            reason = "; ".join(line.strip() for line in str(error).splitlines()[1:3])
            raise PRISMError(
                f"the checkpoint does not fit {type(self).__name__} on this dataset ({reason}); "
                "was it trained with another model, dataset, filtering or hidden size?"
            ) from error

    def other_parameter(self) -> dict:
        """Goes into the checkpoint beside the weights: which items the rows of the table stand for, which features."""
        own = {"item_fingerprint": self.item_fingerprint, "features": self.modalities.told()}
        return {**(super().other_parameter() or {}), **own}

    def load_other_parameter(self, para) -> None:
        """Raises PRISMError if the checkpoint's items or features are not those of this dataset."""
        para = dict(para or {})
        check_fingerprint(para.pop("item_fingerprint", None), self.item_fingerprint)
        self.modalities.restore(para.pop("features", {}))
        self._table = None
        super().load_other_parameter(para)

    # -- item inputs -------------------------------------------------------------------------------------------------

    def _enrich_rows(self, embedding: nn.Embedding, inputs: tuple[Tensor, ...], embedded: Tensor) -> Tensor:
        """Forward hook: item_seq [B, L], embedded [B, L, D] -> inputs of the backbone [B, L, D]."""
        item_seq = inputs[0]
        if item_seq.dim() != 2:
            raise PRISMError(
                f"{type(self).__name__}: forward looks up items {list(item_seq.shape)}, not a history [B, L]"
            )
        self._n_lookups += 1
        present = self._present = item_seq > 0
        projected, available = self.project_table()
        available = available.to(embedded.dtype)
        per_item = torch.cat([projected.flatten(1), available], 1).to(embedded.dtype)  # [N, M D + M]
        n_modalities, width = available.shape[1], projected.shape[2]
        if self.fusion_scope == "sequence":
            history = item_seq if self.history is None else self.history
            table = embedding._parameters["weight"]
            real = self._is_real(torch.arange(len(table), device=table.device)).to(table.dtype)  # [N, 1]
            sums = F.embedding_bag(history, torch.cat([per_item, table * real, real], 1), mode="sum")
            fused = self.fuse(sums, n_modalities, targets=self._targets_of(history))
            fused = fused.to(embedded.dtype).unsqueeze(1)  # [B, 1, D]
            if self.add_projections:  # looked up once more, together, so that there is one backward pass and not two
                content = projected.sum(1).to(table.dtype)  # zero for padding and mask tokens
                embedded = F.embedding(item_seq, table + content, embedding.padding_idx)
            return torch.addcmul(embedded, fused, present.unsqueeze(-1).to(embedded.dtype))
        real = self._is_real(item_seq)
        gathered = torch.cat([F.embedding(item_seq, per_item), embedded * real, real.to(embedded.dtype)], 2)
        sums = prefix_sum(gathered)[present]
        last = (present.flatten().cumsum(0) - 1)[_last_position(present)]
        fused = torch.zeros_like(embedded)
        targets = self._targets_of(item_seq)
        targets = None if targets is None else targets[present.any(1)]
        fused[present] = self.fuse(sums, n_modalities, select=last, targets=targets).to(embedded.dtype)
        content = gathered[..., : n_modalities * width].unflatten(2, (n_modalities, width)).sum(2)
        content = content if self.add_projections else 0.0
        return embedded + (fused + content) * present.unsqueeze(-1)

    def _targets_of(self, rows: Tensor) -> Tensor | None:
        """The next items of rows [B, L], unless these are another pass of the backbone over changed rows."""
        return self.targets if self.targets is not None and len(self.targets) == len(rows) else None

    def _is_real(self, items: Tensor) -> Tensor:
        """[...] -> [..., 1]: neither padding nor a mask token, which has a place but no content."""
        return ((items > 0) & (items < self.n_contents)).unsqueeze(-1)

    def packed_inputs(self, batch: PackedBatch) -> Tensor:
        """Item inputs of packed windows: [T, D]. Expert losses are taken where windows are trained.

        In scope ``sequence`` a window is a row: its one fused vector is added at all of its places.
        """
        table = self.item_embedding._parameters["weight"]
        unique, place = batch.distinct()
        if self.training or torch.is_grad_enabled():
            projected, available = self.modalities(unique)
        else:
            projected, available = (of_all[unique] for of_all in self.project_table())
        embedded = F.embedding(unique, table)
        projected, available = projected.to(table.dtype), available.to(table.dtype)
        ones = embedded.new_ones(len(embedded), 1)
        tokens = F.embedding(place, torch.cat([projected.flatten(1), available, embedded, ones], 1))
        if self.fusion_scope == "sequence":
            window = batch.window_of_tokens()
            sums = tokens.new_zeros(len(batch.lengths), tokens.shape[1]).index_add(0, window, tokens)
            fused = self.fuse(sums, available.shape[1], targets=batch.targets)[window]
        else:
            sums = batch.sum_prefixes(tokens)
            fused = self.fuse(sums, available.shape[1], select=batch.select, targets=batch.targets)
        inputs = embedded + projected.sum(1) if self.add_projections else embedded
        return F.embedding(place, inputs) + fused

    def fuse(
        self, sums: Tensor, n_modalities: int, select: Tensor | None = None, targets: Tensor | None = None
    ) -> Tensor:
        """f of each history, from sums over it: projections (M D), availability (M), item embeddings (D), count (1).

        A history in which no item has any modality gets f = 0: it is what the plain backbone would see.
        """
        width = (sums.shape[1] - n_modalities - 1) // (n_modalities + 1)
        by_modality, counts, ids, length = sums.split([n_modalities * width, n_modalities, width, 1], dim=1)
        pooled = by_modality.unflatten(1, (n_modalities, width)) / counts.clamp(min=1).unsqueeze(-1)
        table = self.item_embedding._parameters["weight"][: self.n_contents]
        context = Context(counts > 0, targets, table)
        fused = self.fusion(pooled, ids / length.clamp(min=1), select, context)
        has_any = counts.sum(1, keepdim=True) > 0
        if fused.variants is not None and not self.expert_losses:
            self._variants = fused.variants * has_any
        if fused.losses:
            self.expert_losses.append(fused.losses)
        if not self.training and fused.weights is not None:
            if fused.weights.shape[1] != len(getattr(self.fusion, "names", ())):
                raise PRISMError(
                    f"{type(self.fusion).__name__}: returns {fused.weights.shape[1]} weights; names must name each"
                )
            weights = fused.weights * has_any  # of nothing there are no weights
            self.expert_weights = (weights if select is None else weights[select]).detach()
        return fused.vector * has_any

    def project_table(self) -> tuple[Tensor, Tensor]:
        """p_m and a_m of all items, [N, M, D] and [N, M]: once per step while training, once per weights otherwise."""
        if self.training or torch.is_grad_enabled():
            return self.modalities()
        tensors = [*self.modalities.parameters(), *self.modalities.buffers()]
        versions = [(id(tensor), tensor._version) for tensor in tensors]
        if self._table is None or self._table[0] != versions:
            self._table = (versions, self.modalities(), tensors)  # kept, so that no other gets the id of one of them
        return self._table[1]

    def train(self, mode: bool = True):
        if mode:
            self._table = None
        return super().train(mode)

    # -- candidates --------------------------------------------------------------------------------------------------

    def _content(self) -> Tensor:
        return self.project_table()[0].sum(1)


DEFAULTED = ("training_mode: packed", "target_smoothing")  # what a configuration may ask for without its user's doing


def beyond_recbole(config) -> tuple[str, ...]:
    """Keys in force that RecBole's own Trainer would train without."""
    asked = {
        "loss_type: sampled": config["sampled_softmax"],
        "ema_decay": config["ema_decay"],
        "cold_item_spread": config["cold_item_spread"] is not None,
        "training_mode: packed": config["training_mode"] == "packed",
        "target_smoothing": config["target_smoothing"],
    }
    return tuple(key for key, wanted in asked.items() if wanted)


def prefix_sum(x: Tensor) -> Tensor:
    """Sum over positions up to each one: [B, L, C] -> [B, L, C]; one matrix product is faster than cumsum here."""
    length = x.shape[1]
    with torch.autocast(x.device.type, enabled=False):  # bfloat16 would round the counts
        return torch.matmul(torch.ones(length, length, dtype=x.dtype, device=x.device).tril(), x)


def _last_position(present: Tensor) -> Tensor:
    """Flat index of the last present position of each row that has one: present bool [B, L] -> [<= B]."""
    positions = torch.arange(present.shape[1], device=present.device)
    last = torch.where(present, positions, -1).max(1).values
    rows = torch.arange(len(present), device=present.device)
    return (rows * present.shape[1] + last)[last >= 0]
