"""How candidates are scored, where that is not the inner product of a state with a row of the item table.

Scores stay products of states and ``item_embedding.weight``, in losses, rankings and recommendations; what these two
are changes. Histories are read from the table as it is. Shapes: N items, D hidden size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch.nn.functional as F
from torch import Tensor, nn


class CandidateEmbedding(nn.Embedding):
    """An item table whose ``weight`` [N, D], outside the backbone's ``forward``, is what candidates are scored by.

    ``content``: with ``score_items: content`` that is e_id(i) + c * sum_m p_m(i). ``content_scale`` c [D] is learned
    and starts at 0: projections move much faster than embeddings, and what they tell of candidates has to be of use
    before it counts. ``unit``: with ``cosine_temperature`` each row has length 1.
    """

    scoring = True
    content: Callable[[], Tensor] | None = None
    unit = False

    @property
    def weight(self) -> Tensor:
        table = self._parameters["weight"]
        if not self.scoring:
            return table
        if self.content is not None:
            table = table + (self.content() * self.content_scale).to(table.dtype)
        return F.normalize(table, dim=1) if self.unit else table


def score_content(embedding: nn.Embedding, content: Callable[[], Tensor]) -> None:
    """Score by ``content`` [N, D] too, in place."""
    embedding.__class__ = CandidateEmbedding
    embedding.content = content
    embedding.content_scale = nn.Parameter(embedding.weight.new_zeros(embedding.embedding_dim))


def score_cosine(model: nn.Module, temperature: float) -> None:
    """Score by cos(state, row) / temperature, in place, as CORE does (arXiv 2204.11067); parameters stay."""
    model.item_embedding.__class__ = CandidateEmbedding
    model.item_embedding.unit = True
    model.cosine_temperature = temperature


def scaled_states(model: nn.Module, states: Tensor) -> Tensor:
    """States [..., D] as they are scored with."""
    temperature = getattr(model, "cosine_temperature", None)
    return states if temperature is None else F.normalize(states, dim=-1) / temperature


@contextmanager
def plain_rows(embedding: nn.Embedding) -> Iterator[None]:
    """While in force, lookups see the rows of the table as they are."""
    scoring = getattr(embedding, "scoring", None)
    embedding.scoring = False
    try:
        yield
    finally:
        embedding.scoring = scoring


class CosineForward:
    """In front of RecBole's own backbone."""

    def forward(self, *args, **kwargs) -> Tensor:
        with plain_rows(self.item_embedding):
            states = super().forward(*args, **kwargs)
        return scaled_states(self, states)

    def __reduce_ex__(self, protocol):
        """The class has the name of RecBole's, so pickle finds it through what made it."""
        return _with_cosine_from, (type(self).__bases__[-1],), self.__dict__


def _with_cosine_from(backbone: type) -> nn.Module:
    made = with_cosine(backbone)
    return made.__new__(made)


@functools.cache
def with_cosine(backbone: type) -> type:
    """RecBole's backbone whose ``forward`` gives scaled states."""
    return type(backbone.__name__, (CosineForward, backbone), {"__module__": backbone.__module__})
