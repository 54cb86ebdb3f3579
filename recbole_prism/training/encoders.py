"""Backbones on packed tokens: the state of every trained position of whole sequences, from one pass.

``PACKED`` names the RecBole backbones that can be packed. An encoder takes the model (RecBole's own, or one with
``PRISMMixin``) and a :class:`~recbole_prism.training.packing.PackedBatch`, and returns the states [S, D] of the
selected tokens. Each equals RecBole's ``forward`` on the row that ends there. Shapes: T tokens, S selected ones, D
hidden size, H heads; G windows of a length group, L its length.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_prism.training.packing import Group, PackedBatch, join

MASKED = -10000.0  # RecBole's attention mask


def item_inputs(model: nn.Module, batch: PackedBatch) -> Tensor:
    """e_id of every token, enriched by PRISM where the model has it: [T, D]."""
    table = model.item_embedding
    embedded = F.embedding(batch.items, table._parameters["weight"], padding_idx=table.padding_idx)
    if hasattr(model, "enrich_packed"):
        embedded = model.enrich_packed(batch.items, embedded, batch.sum_prefixes, batch.select, batch.targets)
    return embedded


def encode_sasrec(model: nn.Module, batch: PackedBatch) -> Tensor:
    """RecBole's SASRec; its last layer computes only what the selected tokens need."""
    return encode_transformer(model, item_inputs(model, batch), batch, causal=True)


def encode_transformer(model: nn.Module, inputs: Tensor, batch: PackedBatch, *, causal: bool) -> Tensor:
    """Positions, norm and layers of RecBole's SASRec and BERT4Rec: inputs [T, D] -> [S, D]."""
    x = model.dropout(model.LayerNorm(inputs + F.embedding(batch.positions, model.position_embedding.weight)))
    layers = list(model.trm_encoder.layer)
    for number, layer in enumerate(layers):
        x = _transformer_layer(layer, x, batch, causal=causal, is_last=number == len(layers) - 1)
    return x if layers else batch.selected(x)


def _transformer_layer(layer: nn.Module, x: Tensor, batch: PackedBatch, *, causal: bool, is_last: bool) -> Tensor:
    """[T, D] -> [T, D], or [S, D] if is_last."""
    attention, feed_forward = layer.multi_head_attention, layer.feed_forward
    residual = batch.selected(x) if is_last else x
    if is_last and batch.one_each:
        context = _attend_from_last(attention, x, residual, batch)
    else:
        context = _attend(attention, x, batch, causal)
        context = batch.selected(context) if is_last else context
    x = attention.LayerNorm(attention.out_dropout(attention.dense(context)) + residual)
    hidden = feed_forward.dense_2(feed_forward.intermediate_act_fn(feed_forward.dense_1(x)))
    return feed_forward.LayerNorm(feed_forward.dropout(hidden) + x)


def _attend(attention: nn.Module, x: Tensor, batch: PackedBatch, causal: bool) -> Tensor:
    """Attention within each window: [T, D] -> [T, D]. Padding lies after a window, so causality hides it."""
    linears = (attention.query, attention.key, attention.value)
    projected = F.linear(x, torch.cat([m.weight for m in linears]), torch.cat([m.bias for m in linears]))
    projected = projected.unflatten(1, (3, attention.num_attention_heads, attention.attention_head_size))
    parts, done = [], 0
    for group in batch.groups:
        query, key, value = group.pad(projected).permute(2, 0, 3, 1, 4)  # each [G, H, L, D / H]
        if causal:
            mask = query.new_full((group.length, group.length), MASKED).triu(1)
        else:
            mask = _hide_padding(group, batch.lengths[done : done + group.size], query.dtype)
        parts.append(group.unpad(_mix(attention, query, key, value, mask).transpose(1, 2)))
        done += group.size
    return join(parts).flatten(1)


def _hide_padding(group: Group, lengths: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Mask [G, 1, 1, L] over the keys of a group, None if nothing is padded."""
    if group.gather is None:
        return None
    padding = torch.arange(group.length, device=lengths.device) >= lengths[:, None]
    return torch.where(padding, MASKED, 0.0).to(dtype)[:, None, None]


def _attend_from_last(attention: nn.Module, x: Tensor, last: Tensor, batch: PackedBatch) -> Tensor:
    """What each window's last token sees: x [T, D], last [W, D] -> [W, D]."""
    linears = (attention.key, attention.value)
    projected = F.linear(x, torch.cat([m.weight for m in linears]), torch.cat([m.bias for m in linears]))
    heads = (attention.num_attention_heads, attention.attention_head_size)
    projected = projected.unflatten(1, (2, *heads))
    queries = attention.query(last).unflatten(1, heads).unsqueeze(2)  # [W, H, 1, D / H]
    parts, done = [], 0
    for group in batch.groups:
        key, value = group.pad(projected).permute(2, 0, 3, 1, 4)
        mask = _hide_padding(group, batch.lengths[done : done + group.size], key.dtype)
        parts.append(_mix(attention, queries[done : done + group.size], key, value, mask))
        done += group.size
    return join(parts).flatten(1)


def _mix(attention: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k / sqrt(d) + mask) v, with RecBole's dropout of the weights: query [G, H, Q, d] -> [G, H, Q, d]."""
    dropout = attention.attn_dropout
    if query.is_cuda:
        p = dropout.p if dropout.training else 0.0
        mask = None if mask is None else mask.expand(len(query), 1, query.shape[2], key.shape[2])
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=p)
    scores = torch.matmul(query * (1 / math.sqrt(query.shape[-1])), key.transpose(-1, -2))
    if mask is not None:
        scores = scores + mask
    return torch.matmul(dropout(torch.softmax(scores, -1)), value)


def encode_gru4rec(model: nn.Module, batch: PackedBatch) -> Tensor:
    """RecBole's GRU4Rec. The recurrence runs on padded length groups; padding lies after what it could change."""
    x = model.emb_dropout(item_inputs(model, batch))
    states = join([group.unpad(model.gru_layers(group.pad(x))[0]) for group in batch.groups])
    return model.dense(batch.selected(states))


PACKED = {"SASRec": encode_sasrec, "GRU4Rec": encode_gru4rec}
