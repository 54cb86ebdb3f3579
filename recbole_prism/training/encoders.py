"""Backbones on packed tokens: the state of every trained position of whole sequences, from one pass.

``PACKED`` names the RecBole backbones that can be packed. An encoder takes the model (RecBole's own, or one with
``PRISMMixin``) and a :class:`~recbole_prism.training.packing.PackedBatch`, and returns the states [S, D] of the
selected tokens. Each equals RecBole's ``forward`` on the row that ends there. Shapes: T tokens, S selected ones, D
hidden size, H heads; G windows of a length group, L its length.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_prism.candidates import scaled_states
from recbole_prism.training.packing import Group, PackedBatch, join
from recbole_prism.training.recurrence import recur

HIDDEN = -10000.0  # RecBole's attention mask


def item_inputs(model: nn.Module, batch: PackedBatch) -> Tensor:
    """e_id of every token, enriched by PRISM where the model has it: [T, D]."""
    if hasattr(model, "packed_inputs"):
        return model.packed_inputs(batch)
    table = model.item_embedding
    return F.embedding(batch.items, table._parameters["weight"], padding_idx=table.padding_idx)


def encode_sasrec(model: nn.Module, batch: PackedBatch) -> Tensor:
    """RecBole's SASRec; its last layer computes only what the selected tokens need."""
    return encode_transformer(model, item_inputs(model, batch), batch, causal=True)


def encode_transformer(
    model: nn.Module, inputs: Tensor, batch: PackedBatch, *, causal: bool, encoder: nn.Module | None = None
) -> Tensor:
    """Positions, norm and layers (``trm_encoder``) as RecBole's transformers have them: inputs [T, D] -> [S, D]."""
    x = model.dropout(model.LayerNorm(inputs + F.embedding(batch.positions, model.position_embedding.weight)))
    layers = list((encoder or model.trm_encoder).layer)
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
            mask = query.new_full((group.length, group.length), HIDDEN).triu(1)
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
    return torch.where(padding, HIDDEN, 0.0).to(dtype)[:, None, None]


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
        if mask is not None and mask.dim() == 2:  # the causal one, for which there are kernels without a mask
            return F.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=p)
        mask = None if mask is None else mask.expand(len(query), 1, query.shape[2], key.shape[2])
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=p)
    scores = torch.matmul(query * (1 / math.sqrt(query.shape[-1])), key.transpose(-1, -2))
    if mask is not None:
        scores = scores + mask
    return torch.matmul(dropout(torch.softmax(scores, -1)), value)


def encode_gru4rec(model: nn.Module, batch: PackedBatch) -> Tensor:
    """RecBole's GRU4Rec."""
    return model.dense(batch.selected(recur(model.gru_layers, model.emb_dropout(item_inputs(model, batch)), batch)))


def item_fields(model: nn.Module, batch: PackedBatch) -> Tensor:
    """The embedded fields of every token's item: [T, fields, D]."""
    sparse, dense = model.feature_embed_layer(None, batch.items.unsqueeze(0))
    return torch.cat([part["item"] for part in (sparse, dense) if part["item"] is not None], dim=-2).squeeze(0)


def encode_sasrecf(model: nn.Module, batch: PackedBatch) -> Tensor:
    """RecBole's SASRecF: items and their fields side by side, through one layer."""
    inputs = torch.cat([item_inputs(model, batch), item_fields(model, batch).flatten(1)], dim=1)
    return encode_transformer(model, model.concat_layer(inputs), batch, causal=True)


def encode_gru4recf(model: nn.Module, batch: PackedBatch) -> Tensor:
    """RecBole's GRU4RecF: a recurrence over items and one over their fields."""
    items = recur(model.item_gru_layers, model.dropout(item_inputs(model, batch)), batch)
    fields = recur(model.feature_gru_layers, item_fields(model, batch).flatten(1), batch)
    return model.dense_layer(batch.selected(torch.cat([items, fields], dim=1)))


def encode_fdsa(model: nn.Module, batch: PackedBatch) -> Tensor:
    """RecBole's FDSA: a transformer over items and one over their fields."""
    fields = model.feature_att_layer(item_fields(model, batch).unsqueeze(0))[0].squeeze(0)
    states = [
        encode_transformer(model, inputs, batch, causal=True, encoder=encoder)
        for inputs, encoder in (
            (item_inputs(model, batch), model.item_trm_encoder),
            (fields, model.feature_trm_encoder),
        )
    ]
    return model.dropout(model.LayerNorm(model.concat_layer(torch.cat(states, dim=1))))


def _scaled(encode: Callable[[nn.Module, PackedBatch], Tensor]) -> Callable[[nn.Module, PackedBatch], Tensor]:
    """An encoder whose states candidates can be scored with."""
    return functools.wraps(encode)(lambda model, batch: scaled_states(model, encode(model, batch)))


PACKED = {
    "SASRec": _scaled(encode_sasrec),
    "GRU4Rec": _scaled(encode_gru4rec),
    "SASRecF": _scaled(encode_sasrecf),
    "GRU4RecF": _scaled(encode_gru4recf),
    "FDSA": _scaled(encode_fdsa),
}
