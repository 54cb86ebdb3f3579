"""``expert_loss_on: prediction``: the expert losses on what the backbone predicts (PRISM, Eq. 2-8), and the hook.

Shapes: B rows, L length, V variants of the fused vector, T histories (B, or the real positions of all rows), D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from recbole_prism.candidates import plain_rows
from recbole_prism.distributed.sharding import relative_share
from recbole_prism.training.kernels import dropout_factor


@contextmanager
def hooked(item_embedding: nn.Embedding, hook: Callable) -> Iterator[None]:
    """While in force, ``hook`` changes what the table returns, and lookups see the plain rows of the table."""
    handle = item_embedding.register_forward_hook(hook)
    try:
        with plain_rows(item_embedding):
            yield
    finally:
        handle.remove()


@contextmanager
def shared_dropout(model: nn.Module, n_variants: int, n_rows: int) -> Iterator[None]:
    """While in force dropout of [V B, ...] is drawn for B rows and is the same for every variant of them.

    So the losses compare inputs and not what dropout hit. What has other shapes is drawn as ever.
    """

    def forward(module: nn.Dropout, x: Tensor) -> Tensor:
        if len(x) != n_variants * n_rows or n_variants == 1:
            return type(module).forward(module, x)
        factor = dropout_factor(module, x[:n_rows])
        return (x.unflatten(0, (n_variants, n_rows)) * factor).flatten(0, 1)

    dropping = [m for m in model.modules() if isinstance(m, nn.Dropout) and m.training and m.p > 0]
    for module in dropping:
        module.forward = partial(forward, module)
    try:
        yield
    finally:
        for module in dropping:
            del module.forward


def prediction_losses(
    model: nn.Module, variants: Tensor, present: Tensor, forward: Callable, args: tuple, kwargs: dict
) -> dict[str, Tensor]:
    """Losses on y = P(S(e_id, e)) for each variant e, all in one pass over the backbone's own ``forward``.

    variants [V, T, D], present bool [B, L]; args and kwargs are those of the pass on the same rows. Eq. 2 feeds the
    backbone with e_id and one expert: the items' own modalities (``add_projections``) stay out.
    """
    n_variants, n_rows = len(variants), len(present)

    def repeat(value):
        is_batch = isinstance(value, Tensor) and value.dim() > 0 and len(value) == n_rows
        return value.repeat(n_variants, *[1] * (value.dim() - 1)) if is_batch else value

    def add_variant(embedding: nn.Embedding, inputs: tuple[Tensor, ...], embedded: Tensor) -> Tensor:
        """embedded [V B, L, D] -> the same plus a variant at every item."""
        real = inputs[0] > 0
        if model.fusion_scope == "sequence":
            return embedded + variants.flatten(0, 1).unsqueeze(1) * real.unsqueeze(-1)
        added = torch.zeros_like(embedded)
        added[real] = variants.flatten(0, 1).to(embedded.dtype)
        return embedded + added

    with hooked(model.item_embedding, add_variant), shared_dropout(model, n_variants, n_rows):
        output = forward(*map(repeat, args), **{name: repeat(value) for name, value in kwargs.items()})
    output = output[-1] if isinstance(output, (list, tuple)) else output  # some return every layer
    output = output.unflatten(0, (n_variants, n_rows))
    if output.dim() == 3:
        return model.fusion.losses_on(output)
    share = relative_share(present.flatten(), output.dtype)  # a mean over positions, of which a process may have more
    return {name: loss * share for name, loss in model.fusion.losses_on(output[:, present]).items()}
