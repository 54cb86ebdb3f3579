"""Rows of RecBole and packed batches of the same data, in float64 and without dropout."""

from __future__ import annotations

import pytest
import torch
from recbole.data.dataset import SequentialDataset

from recbole_prism.experts import InteractionExperts
from recbole_prism.training.batches import PackedBatches
from recbole_prism.training.dataset import PrefixDataset
from recbole_prism.training.encoders import PACKED

NO_DROPOUT = dict.fromkeys(
    ("hidden_dropout_prob", "attn_dropout_prob", "dropout_prob", "expert_dropout", "fusion_dropout"), 0.0
) | {"target_smoothing": 0.0}  # RecBole's rows have one target each


@pytest.fixture(autouse=True)
def one_thread():
    """Threads only cost time on batches this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def fixed_noise(monkeypatch):
    """Noise that depends on what it replaces alone, so that batches of the same histories in any order get the same."""

    def draw_noise(self, pooled, available=None):
        return torch.sin(37.0 * pooled.detach()) + 0.3

    monkeypatch.setattr(InteractionExperts, "draw_noise", draw_noise)


@pytest.fixture
def exact_model(build, fixed_noise):
    """exact_model(name, **overrides) -> (config, model in float64, its training rows, the same as a PrefixDataset)."""

    def make(name: str, **overrides):
        config, model, _ = build(name, **{**NO_DROPOUT, **overrides})
        rows = SequentialDataset(config).build()[0]
        prefixes = PrefixDataset(config).build()[0]
        torch.manual_seed(1)
        model = model.double().train()
        for parameter in model.parameters():  # initial weights are so small that much would agree by accident
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
        return config, model, rows, prefixes

    return make


def gradients(model, loss) -> dict[str, torch.Tensor]:
    model.zero_grad()
    (sum(loss) if isinstance(loss, tuple) else loss).backward()
    zero = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    return zero | {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_loss_and_gradients(model, packed, rows) -> None:
    """Relative difference of at most 1e-10, of the loss and of every parameter's gradient."""
    packed_value = sum(packed).item() if isinstance(packed, tuple) else packed.item()
    rows_value = sum(rows).item() if isinstance(rows, tuple) else rows.item()
    assert packed_value == pytest.approx(rows_value, rel=1e-10)
    ours, theirs = gradients(model, packed), gradients(model, rows)
    largest = max(gradient.norm() for gradient in theirs.values())
    for name, gradient in theirs.items():
        scale = max(gradient.norm(), 1e-6 * largest)
        assert (ours[name] - gradient).norm() <= 1e-10 * scale, name


def all_in_one_batch(prefixes, max_length: int, stride: int, **kwargs):
    (batch,) = PackedBatches(
        prefixes.sequences(), batch_size=10**9, max_length=max_length, stride=stride, epoch=0, seed=0, **kwargs
    )
    return batch


def encoder_of(name: str):
    return PACKED[name.removeprefix("PRISM_")]
