"""Threads, batches and chunks: vectors stay with their items, and memory is bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from recbole_prism.prepare.pipeline import Prepared, chunks, encode_all, in_threads


def test_memory_is_bounded_however_many_items(monkeypatch):
    """Never more prepared inputs at a time than a few batches."""
    import torch

    alive, most = [0], [0]

    def prepare(n):
        alive[0] += 1
        most[0] = max(most[0], alive[0])
        return [Prepared(n, str(n), [torch.zeros(1)])]

    def encode(batch):
        alive[0] -= len(batch)
        return torch.stack(batch)

    groups = in_threads(prepare, iter(range(2000)), 2, ahead=20)
    items = list(encode_all(encode, (item for group in groups for item in group), 8, False))
    assert [item.position for item in items] == list(range(2000)) and most[0] <= 20 + 8 + 2


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 9))
def test_vectors_stay_with_their_items(sizes, batch_size):
    import torch

    items = [Prepared(n, str(n), [torch.tensor([float(n)])] * size) for n, size in enumerate(sizes)]
    found = list(encode_all(torch.stack, iter(items), batch_size, False))
    assert [item.position for item in found] == list(range(len(sizes)))
    for item, size in zip(found, sizes, strict=True):
        assert (item.vector is None) == (size == 0) and (size == 0 or item.vector[0] == item.position)


@given(st.text(max_size=200), st.integers(1, 20), st.integers(1, 5))
def test_chunks_keep_words_in_order_and_within_the_limit(text, limit, most):
    pieces = chunks(text, limit, len, most)
    assert len(pieces) <= max(most, 1)
    words = " ".join(pieces).split()
    assert words == text.split()[: len(words)]
    for piece in pieces:
        assert len(piece.split()) == 1 or sum(map(len, piece.split())) <= limit
