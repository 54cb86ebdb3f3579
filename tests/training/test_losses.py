"""The fused losses against torch's own, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from recbole_prism.training import losses
from recbole_prism.training.kernels import FastDropout, dropout_factor
from recbole_prism.training.losses import NegativeSampler, linear_cross_entropy, sampled_cross_entropy


def inputs(n_targets=37, n_items=53, dtype=torch.float64, scale=1.0):
    torch.manual_seed(0)
    states = torch.randn(n_targets, 8, dtype=dtype) * scale
    table, bias = torch.randn(n_items, 8, dtype=dtype), torch.randn(n_items, dtype=dtype)
    return [x.requires_grad_() for x in (states, table, bias)], torch.randint(0, n_items, (n_targets,))


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("scale", [1.0, 200.0])
def test_loss_and_gradients_equal_torchs_cross_entropy(monkeypatch, with_bias, scale):
    """In chunks that do not divide the batch, and with probabilities that underflow."""
    monkeypatch.setattr(losses, "CHUNK_ROWS", 5)
    monkeypatch.setattr(losses, "CHUNK_ELEMENTS", {"cpu": 1})
    (states, table, bias), targets = inputs(scale=scale)
    ours = linear_cross_entropy(states, table, targets, bias if with_bias else None)
    theirs = F.cross_entropy(states @ table.t() + (bias if with_bias else 0), targets)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    wanted = [states, table] + [bias] * with_bias
    for got, expected in zip(
        torch.autograd.grad(3 * ours, wanted), torch.autograd.grad(3 * theirs, wanted), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-14)


def test_the_loss_works_under_autocast():
    (states, table, _), targets = inputs(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(states, table, targets)
    loss.backward()
    expected = F.cross_entropy(states @ table.t(), targets)
    torch.testing.assert_close(loss, expected, rtol=0.02, atol=0.02)
    torch.testing.assert_close(table.grad, torch.autograd.grad(expected, table)[0], rtol=0.1, atol=5e-3)


@pytest.mark.parametrize("distribution", ["uniform", "popularity"])
def test_sampled_softmax_approaches_the_full_one(distribution):
    (states, table, _), targets = inputs()
    targets = targets.clamp(min=1)
    sampler = NegativeSampler(torch.randint(0, 30, (len(table),)), distribution)
    torch.manual_seed(1)
    negatives, log_q = sampler.draw(200_000, states.device)
    assert negatives.min() >= 1 and negatives.max() < len(table)
    sampled = sampled_cross_entropy(states, table, targets, negatives, log_q.double())
    full = F.cross_entropy(states @ table[1:].t(), targets - 1)
    torch.testing.assert_close(sampled, full, rtol=0.02, atol=0)


def test_negatives_follow_their_distribution():
    counts = torch.tensor([0, 0, 7, 80, 0])
    torch.manual_seed(0)
    items, log_q = NegativeSampler(counts, "popularity").draw(100_000, counts.device)
    frequency = torch.bincount(items, minlength=5) / 100_000
    weights = torch.tensor([0, 1.0, 8, 81, 1]) ** 0.75 * torch.tensor([0, 1, 1, 1, 1])
    torch.testing.assert_close(frequency, weights / weights.sum(), rtol=0, atol=5e-3)
    torch.testing.assert_close(log_q.exp(), (weights / weights.sum())[items], rtol=1e-5, atol=0)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_fast_dropout_keeps_the_mean_and_the_share(p):
    torch.manual_seed(0)
    x = torch.ones(300, 1001, requires_grad=True)
    dropped = FastDropout(p)(x)
    assert (dropped == 0).float().mean().item() == pytest.approx(p, abs=5e-3)
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    dropped.sum().backward()
    assert torch.equal(x.grad, dropped.detach())
    assert FastDropout(p).eval()(x) is x


@pytest.mark.parametrize("kind", [FastDropout, torch.nn.Dropout])
def test_a_dropout_factor_is_what_dropout_multiplies_with(kind):
    x = torch.randn(50, 31, requires_grad=True)
    torch.manual_seed(0)
    dropped = kind(0.3)(x)
    torch.manual_seed(0)
    factor = dropout_factor(kind(0.3), x)
    assert not factor.requires_grad and torch.equal(x * factor, dropped)
    assert dropout_factor(kind(0.3).eval(), x) is None and dropout_factor(kind(0.0), x) is None
