"""GRUs over windows of any lengths without padding, all windows one place at a time.

The windows stand in the order of torch's ``PackedSequence``: the longest first, so that those that reach a place are
the first of those that reach the one before. Shapes: T tokens, C inputs, H hidden size, W windows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from recbole_prism.training.asynchronous import ASYNCHRONOUS
from recbole_prism.training.packing import PackedBatch, join


def recur(layers: nn.GRU, x: Tensor, batch: PackedBatch) -> Tensor:
    """The hidden state after each token, from zero at the start of every window: x [T, C] -> [T, H]."""
    if x.device.type in ASYNCHRONOUS:  # torch's kernel for a group; lengths are not known to the host
        with torch.autocast(x.device.type, enabled=False):  # cuDNN's wrapper casts to float16, whatever autocast means
            return join([group.unpad(layers(group.pad(x.to(layers.weight_ih_l0.dtype)))[0]) for group in batch.groups])
    order, sizes = by_place(batch.lengths)
    x = x.index_select(0, order)
    if torch.is_grad_enabled() and not (layers.bias or layers.dropout or torch.is_autocast_enabled("cpu")):
        for weight_ih, weight_hh in layers.all_weights:
            x = _GRULayer.apply(x, weight_ih, weight_hh, sizes.tolist())
    else:
        x = layers(PackedSequence(x, sizes))[0].data
    return x.index_select(0, torch.empty_like(order).scatter_(0, order, torch.arange(len(order))))


def by_place(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [T] of windows that lie one after the other, in order of place; how many windows reach each place.

    lengths [W], ascending.
    """
    shorter = torch.searchsorted(lengths, torch.arange(int(lengths[-1])), right=True)
    sizes = len(lengths) - shorter
    place = torch.repeat_interleave(sizes)
    rank = torch.arange(len(place)) - torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    starts = lengths.cumsum(0) - lengths
    return starts[len(lengths) - 1 - rank] + place, sizes


class _GRULayer(torch.autograd.Function):
    """A layer of ``nn.GRU`` without biases; gradients of the weights are one product over all tokens.

    torch's own adds them up place by place, and half of its time is spent there.
    """

    @staticmethod
    def forward(ctx, x, weight_ih, weight_hh, sizes):
        width = weight_hh.shape[1]
        gates = x @ weight_ih.t()  # then r, z and n side by side
        before = x.new_zeros(len(x), width)
        candidate = x.new_zeros(len(x), width)  # what n reads of the state, before r
        after = torch.empty_like(before)
        previous = start = 0
        for size in sizes:
            part = slice(start, start + size)
            if start:
                before[part] = after[previous : previous + size]
                of_state = before[part] @ weight_hh.t()
                gates[part, : 2 * width] += of_state[:, : 2 * width]
                candidate[part] = of_state[:, 2 * width :]
            r_and_z, n = gates[part].split((2 * width, width), 1)
            r, z = r_and_z.sigmoid_().chunk(2, 1)
            n.addcmul_(r, candidate[part]).tanh_()
            torch.lerp(n, before[part], z, out=after[part])  # (1 - z) n + z h
            previous, start = start, part.stop
        ctx.save_for_backward(x, weight_ih, weight_hh, gates, before, candidate)
        ctx.sizes = sizes
        return after

    @staticmethod
    def backward(ctx, upstream):
        x, weight_ih, weight_hh, gates, before, candidate = ctx.saved_tensors
        width = weight_hh.shape[1]
        r, z, n = gates.chunk(3, 1)
        # how r, z and n, before their activations, change the state: what the loop multiplies with the state's gradient
        to_n = (1 - z) * (1 - n * n)
        of_input = torch.cat([to_n * candidate * r * (1 - r), (before - n) * z * (1 - z), to_n], 1)
        of_state = of_input.clone()
        of_state[:, 2 * width :] *= r
        later, end = None, len(x)
        for size in reversed(ctx.sizes):
            part = slice(end - size, end)
            gradient = upstream[part].clone()
            if later is not None:
                gradient[: len(later)] += later
            for gradients in (of_input, of_state):
                gradients[part].unflatten(1, (3, width)).mul_(gradient.unsqueeze(1))
            later = torch.addmm(gradient * z[part], of_state[part], weight_hh)
            end -= size
        return of_input @ weight_ih, of_input.t() @ x, of_state.t() @ before, None
