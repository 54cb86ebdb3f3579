"""Recurrence without padding: torch's own GRU on each window, its gradients included."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from recbole_prism.training import recurrence
from recbole_prism.training.packing import Windows, pack
from recbole_prism.training.recurrence import by_place, recur

INPUTS, HIDDEN = 3, 4


def batch_of(lengths):
    """Windows of these lengths, one after the other, whose every token is selected."""
    lengths = np.asarray(lengths)
    start = lengths.cumsum() - lengths
    return pack(np.arange(1, lengths.sum() + 2), Windows(start, lengths, np.zeros_like(lengths)))


def layers_of(n_layers=1, **options):
    torch.manual_seed(0)
    return nn.GRU(INPUTS, HIDDEN, n_layers, batch_first=True, **{"bias": False, **options}).double()


def window_by_window(layers, x, batch):
    return torch.cat([layers(window.unsqueeze(0))[0][0] for window in x.split(batch.lengths.tolist())])


def results(work, layers, x):
    """Outputs, and gradients of a sum that no two of them enter alike."""
    x = x.clone().requires_grad_()
    layers.zero_grad()
    states = work(x)
    (states * torch.arange(states.numel()).view_as(states).cos()).sum().backward()
    return [states.detach(), x.grad, *(parameter.grad.clone() for parameter in layers.parameters())]


def assert_equal(layers, lengths):
    batch = batch_of(lengths)
    x = torch.randn(len(batch.items), INPUTS, dtype=torch.float64)
    ours = results(lambda x: recur(layers, x, batch), layers, x)
    expected = results(lambda x: window_by_window(layers, x, batch), layers, x)
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=9), st.integers(1, 3))
def test_states_and_gradients_are_those_of_each_window_alone(lengths, n_layers):
    assert_equal(layers_of(n_layers), lengths)


def test_a_gpus_length_groups_give_the_same(monkeypatch):
    monkeypatch.setattr(recurrence, "ASYNCHRONOUS", {"cpu"})
    monkeypatch.setattr(recurrence, "by_place", None)  # not asked: lengths stay on the device
    assert_equal(layers_of(2), [5, 1, 3, 3, 9])


@pytest.mark.parametrize("options", [{"bias": True}, {"n_layers": 2, "dropout": 1e-12}])
def test_layers_that_are_left_to_torch(options):
    assert_equal(layers_of(**options), [5, 1, 3, 3])


def test_without_gradients_the_states_are_the_same():
    layers, batch = layers_of(2), batch_of([4, 1, 7, 2])
    x = torch.randn(len(batch.items), INPUTS, dtype=torch.float64)
    with torch.no_grad():
        states = recur(layers, x, batch)
        torch.testing.assert_close(states, window_by_window(layers, x, batch), rtol=1e-10, atol=1e-12)
    assert not states.requires_grad


def test_frozen_weights_get_no_gradient_and_the_input_does():
    layers, batch = layers_of(), batch_of([2, 3])
    layers.requires_grad_(False)
    x = torch.randn(len(batch.items), INPUTS, dtype=torch.float64, requires_grad=True)
    recur(layers, x, batch).sum().backward()
    assert x.grad.abs().sum() > 0 and all(parameter.grad is None for parameter in layers.parameters())


def test_autocast_is_left_to_torch():
    layers, batch = layers_of().float(), batch_of([2, 5, 3])
    x = torch.randn(len(batch.items), INPUTS, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        states = recur(layers, x, batch)
        states.float().sum().backward()
    torch.testing.assert_close(states.float(), recur(layers, x, batch), rtol=0.05, atol=0.02)


def test_order_by_place():
    order, sizes = by_place(torch.tensor([1, 2, 2, 4]))  # windows begin at tokens 0, 1, 3 and 5
    assert order.tolist() == [5, 3, 1, 0, 6, 4, 2, 7, 8]
    assert sizes.tolist() == [4, 3, 1, 1]
