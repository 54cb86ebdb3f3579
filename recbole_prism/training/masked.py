"""RecBole's BERT4Rec without its waste: no padding in the encoder, and states only where something was masked.

Shapes: B rows, L length, S masked positions in all, D hidden size.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from recbole.model.sequential_recommender.bert4rec import BERT4Rec
from torch import Tensor

from recbole_prism.training.encoders import encode_transformer
from recbole_prism.training.losses import (
    NegativeSampler,
    linear_cross_entropy,
    make_negative_sampler,
    sampled_cross_entropy,
)
from recbole_prism.training.packing import PackedBatch, make_groups


class MaskedBERT4Rec(BERT4Rec):
    """Same parameters, same loss and scores as RecBole's BERT4Rec."""

    _sampler: NegativeSampler | None = None
    _n_negatives = 0

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        if config["sampled_softmax"]:
            self.sample_negatives(make_negative_sampler(config, dataset), config["num_negatives"])

    def sample_negatives(self, sampler: NegativeSampler | None, n_negatives: int) -> None:
        """From now on the loss is that of a softmax over a step's target and its sampled items; over all, if None."""
        self._sampler, self._n_negatives = sampler, n_negatives

    def calculate_loss(self, interaction) -> Tensor:
        """RecBole's loss; entries of ``MASK_INDEX`` that are 0 (padding, and a masked first item) do not count."""
        index = interaction[self.MASK_INDEX]
        rows, columns = (index > 0).nonzero(as_tuple=True)
        states = self.encode_masked(interaction[self.MASK_ITEM_SEQ], rows, index[rows, columns])
        targets = interaction[self.POS_ITEMS][rows, columns]
        table, bias = self.item_embedding.weight[: self.n_items], self.output_bias
        # drawn also where nothing is masked, so that all processes draw equally often
        drawn = None if self._sampler is None else self._sampler.draw(self._n_negatives, states.device)
        if len(targets) == 0:  # RecBole's loss is 0 / 0 then
            return states.sum() + bias.sum() * 0
        if self.loss_type == "BPR":
            negatives = interaction[self.NEG_ITEMS][rows, columns]
            difference = F.embedding(targets, table) - F.embedding(negatives, table)
            margin = (states * difference).sum(-1) + bias[targets] - bias[negatives]
            return -torch.log(1e-14 + torch.sigmoid(margin)).mean()
        if drawn is not None:
            return sampled_cross_entropy(states, table, targets, *drawn, bias=bias)
        loss = linear_cross_entropy(states, table, targets, bias)
        if getattr(self, "smoothing", None) is not None:
            loss = loss + self.smoothing(states, table, targets, bias)
        return loss

    def encode_masked(self, item_seq: Tensor, rows: Tensor, positions: Tensor, *, each_last: bool = False) -> Tensor:
        """States at the given rows and positions [S] of item_seq [B, L]: [S, D].

        ``each_last``: they are the last position of every row in turn.
        """
        batch, source, rank = pack_rows(item_seq, rows, positions, each_last=each_last)
        inputs = self.item_inputs(item_seq).flatten(0, 1).index_select(0, source)
        states = encode_transformer(self, inputs, batch, causal=False)
        states = states.index_select(0, rank) if each_last else states
        return self.output_ln(self.output_gelu(self.output_ffn(states)))

    def item_inputs(self, item_seq: Tensor) -> Tensor:
        """[B, L] -> [B, L, D]."""
        return self.item_embedding(item_seq)

    def reconstruct_test_data(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """The first item goes, and a mask token follows the last one: [B, L] -> [B, L]."""
        longer = F.pad(item_seq, (0, 1))
        return longer.scatter(1, item_seq_len.unsqueeze(1), self.mask_token)[:, 1:]

    def _last_states(self, interaction) -> Tensor:
        lengths = interaction[self.ITEM_SEQ_LEN]
        item_seq = self.reconstruct_test_data(interaction[self.ITEM_SEQ], lengths)
        rows = torch.arange(len(lengths), device=lengths.device)
        return self.encode_masked(item_seq, rows, lengths - 1, each_last=True)

    def predict(self, interaction) -> Tensor:
        items = interaction[self.ITEM_ID]
        return (self._last_states(interaction) * self.item_embedding(items)).sum(1) + self.output_bias[items]

    def full_sort_predict(self, interaction) -> Tensor:
        table = self.item_embedding.weight[: self.n_items]
        return torch.addmm(self.output_bias, self._last_states(interaction), table.t())


def pack_rows(
    item_seq: Tensor, rows: Tensor, positions: Tensor, *, each_last: bool
) -> tuple[PackedBatch, Tensor, Tensor]:
    """The items of left-aligned rows [B, L], packed by length, with the given positions [S] selected.

    Returns the batch, each token's place in the flattened rows [T], and each row's place among the windows [B].
    """
    device, n_columns = item_seq.device, item_seq.shape[1]
    lengths = (item_seq > 0).sum(1).cpu().numpy()
    order = np.argsort(lengths, kind="stable")
    lengths = lengths[order]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    steps = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    source = torch.from_numpy(np.repeat(order * n_columns, lengths) + steps).to(device)
    rank = torch.empty(len(order), dtype=torch.long)
    rank[torch.from_numpy(order)] = torch.arange(len(order))
    rank, begin = rank.to(device), torch.from_numpy(offsets).to(device)
    batch = PackedBatch(
        items=item_seq.flatten().index_select(0, source),
        positions=torch.from_numpy(steps),
        lengths=torch.from_numpy(lengths),
        groups=make_groups(lengths, offsets),
        select=begin[1:] - 1 if each_last else begin[rank[rows]] + positions,
        targets=None,
        target_index=np.empty(0, dtype=np.int64),
        one_each=each_last,
    )
    return batch.to(device), source, rank
