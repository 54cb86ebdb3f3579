"""Interaction Expert Layer: numbers computed by hand, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from recbole_prism.experts import InteractionExperts, expert_names

D = 3


def make(modalities, **settings):
    defaults = {"expert_hidden_size": 4, "dropout": 0.0, "distance": "cosine", "margin": 0.5, "noise_scale": "unit"}
    return InteractionExperts(modalities, D, **{**defaults, **settings}).double()


@pytest.mark.parametrize("modalities", [["image", "text"], ["image", "text", "audio"]])
def test_each_expert_is_a_two_layer_mlp_on_the_concatenated_modalities(modalities):
    torch.manual_seed(0)
    experts, pooled = make(modalities), torch.randn(5, len(modalities), D, dtype=torch.float64)
    outputs = experts(pooled)
    assert experts.names == expert_names(modalities)
    for k in range(len(experts.names)):
        columns = slice(4 * k, 4 * k + 4)
        first = experts.weight_in[:, :, columns].reshape(len(modalities) * D, 4)
        hidden = F.gelu(pooled.flatten(1) @ first + experts.bias_in[columns])
        torch.testing.assert_close(outputs[:, k], hidden @ experts.weight_out[k] + experts.bias_out[k])


@pytest.mark.parametrize("modalities", [["image", "text"], ["image", "text", "audio"]])
def test_perturbed_pass_equals_a_pass_on_inputs_with_one_modality_replaced(modalities, monkeypatch):
    torch.manual_seed(1)
    experts, pooled = make(modalities), torch.randn(5, len(modalities), D, dtype=torch.float64)
    noise = torch.randn_like(pooled)
    monkeypatch.setattr(experts, "draw_noise", lambda *_: noise)
    without = experts.perturbed(pooled)
    for m in range(len(modalities)):
        replaced = pooled.clone()
        replaced[:, m] = noise[:, m]
        torch.testing.assert_close(without[m], experts(replaced))


def test_losses_of_two_modalities_by_hand():
    experts = make(["image", "text"])
    # experts: unique_image, unique_text, synergy, redundancy; one history, vectors in the plane of axes 0 and 1
    full = torch.tensor([[[1.0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0]]], dtype=torch.float64)
    without_image = torch.tensor([[[0.0, 1, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0]]], dtype=torch.float64)
    without_text = torch.tensor([[[1.0, 1, 0], [1, 1, 0], [1, 0, 0], [0, 1, 0]]], dtype=torch.float64)
    losses = experts.losses(full, torch.stack([without_image, without_text]))
    diagonal = 1 - 1 / math.sqrt(2)  # 1 - cos of 45 degrees
    assert losses["unique_image"].item() == pytest.approx(max(0, 0.5 + diagonal - 1))
    assert losses["unique_text"].item() == pytest.approx(max(0, 0.5 + 0 - diagonal))
    assert losses["synergy"].item() == pytest.approx((0 + 1) / 2)
    assert losses["redundancy"].item() == pytest.approx(((1 - 1) + (1 - 0)) / 2)


def test_what_a_history_does_not_have_cannot_be_replaced():
    torch.manual_seed(3)
    experts = make(["image", "text"])
    full, without = torch.randn(4, 4, D).double(), torch.randn(2, 4, 4, D).double()
    has = torch.tensor([[True, True], [False, True], [True, True], [False, False]])
    losses, of_both = experts.losses(full, without, has), experts.losses(full[[0, 2]], without[:, [0, 2]])
    for name in ("unique_image", "unique_text"):
        torch.testing.assert_close(losses[name], of_both[name])
    cosine = F.cosine_similarity(full[:, 2], without[:, :, 2], dim=-1)  # [M, T]
    torch.testing.assert_close(losses["synergy"], (cosine[0, [0, 2]].sum() + cosine[1, [0, 1, 2]].sum()) / 5)
    everything = experts.losses(full, without, torch.ones(4, 2, dtype=torch.bool))
    for name, value in experts.losses(full, without).items():
        torch.testing.assert_close(everything[name], value)
    assert not any(experts.losses(full, without, torch.zeros(4, 2, dtype=torch.bool)).values())


def test_losses_of_three_modalities_by_hand_with_euclidean_distance():
    experts = make(["a", "b", "c"], distance="euclidean", margin=1.0)
    full = torch.zeros(1, 5, D, dtype=torch.float64)
    full[..., 0] = 1
    without = torch.zeros(3, 1, 5, D, dtype=torch.float64)
    without[0, 0, 0, 0], without[1, 0, 0, 0], without[2, 0, 0, 0] = 4.0, 1.5, 2.0  # expert unique_a: distances 3, .5, 1
    without[:, 0, 1:, 0] = 1.0  # the others: distance 0, cosine 1
    losses = experts.losses(full, without)
    assert losses["unique_a"].item() == pytest.approx((max(0, 1 + 0.5 - 3) + max(0, 1 + 1 - 3)) / 2, abs=1e-5)
    assert losses["unique_b"].item() == pytest.approx(1.0)
    assert losses["synergy"].item() == pytest.approx(1.0)
    assert losses["redundancy"].item() == pytest.approx(0.0)


def test_noise_matches_the_spread_of_what_it_replaces():
    torch.manual_seed(2)
    spread = torch.tensor([0.01, 1.0, 50.0], dtype=torch.float64)
    pooled = 3 + spread * torch.randn(20000, 2, D, dtype=torch.float64)
    noise = make(["image", "text"], noise_scale="match").draw_noise(pooled)
    torch.testing.assert_close(noise.std(0), pooled.std(0), rtol=0.05, atol=0)
    unit = make(["image", "text"]).draw_noise(pooled)
    torch.testing.assert_close(unit.std(0), torch.ones(2, D, dtype=torch.float64), rtol=0.05, atol=0)


def test_histories_without_a_modality_do_not_count_in_the_spread():
    """Their zeros are no features: with half of the histories lacking it, the spread would be another."""
    torch.manual_seed(2)
    pooled = 3 + torch.randn(20000, 2, D, dtype=torch.float64)
    available = torch.rand(20000, 2) < 0.5
    available[:, 1] = False  # and one that nobody has
    noise = make(["image", "text"], noise_scale="match").draw_noise(pooled * available.unsqueeze(-1), available)
    torch.testing.assert_close(noise[:, 0].std(0), torch.ones(D, dtype=torch.float64), rtol=0.05, atol=0)
    assert not noise[:, 1].any()


def test_noise_is_drawn_anew_each_step():
    experts, pooled = make(["image", "text"]), torch.ones(4, 2, D, dtype=torch.float64)
    assert not torch.equal(experts.draw_noise(pooled), experts.draw_noise(pooled))


def test_dropout_works_in_training_only():
    experts, pooled = make(["image", "text"], dropout=0.5), torch.ones(4, 2, D, dtype=torch.float64)
    assert not torch.equal(experts(pooled), experts(pooled))
    experts.eval()
    assert torch.equal(experts(pooled), experts(pooled))


def test_one_modality_has_no_uniqueness_loss():
    experts = make(["text"])
    pooled = torch.randn(3, 1, D, dtype=torch.float64)
    assert set(experts.losses(experts(pooled), experts.perturbed(pooled))) == {"synergy", "redundancy"}


def test_clean_and_perturbed_passes_drop_the_same_hidden_features(monkeypatch):
    experts = make(["image", "text"], dropout=0.5).train()
    torch.manual_seed(2)
    pooled = torch.randn(5, 2, D, dtype=torch.float64)
    monkeypatch.setattr(experts, "draw_noise", lambda pooled, _: pooled)  # replaces a modality by itself
    clean = experts.first_layer(pooled)
    kept = experts.draw_kept(clean)
    full = experts.second_layer(experts.activate(clean, kept))
    assert sorted(set(kept.flatten().tolist())) == [0.0, 2.0]
    torch.testing.assert_close(experts.perturbed(pooled, clean, kept), full.expand(2, -1, -1, -1))
    assert not torch.equal(experts.second_layer(experts.activate(clean, experts.draw_kept(clean))), full)
    assert experts.eval().draw_kept(clean) is None


def test_noise_is_a_constant_of_the_step():
    pooled = torch.randn(8, 2, D, dtype=torch.float64, requires_grad=True)
    assert not make(["image", "text"], noise_scale="match").draw_noise(pooled).requires_grad


def test_a_history_without_anything_has_finite_losses_and_gradients():
    """Its outputs are zero, since biases start there."""
    experts, pooled = make(["image", "text"], noise_scale="match"), torch.zeros(3, 2, D, dtype=torch.float64)
    losses = experts.losses(experts(pooled), experts.perturbed(pooled), torch.zeros(3, 2, dtype=torch.bool))
    sum(losses.values()).backward()
    assert not any(losses.values())
    assert all(torch.isfinite(p.grad).all() for p in experts.parameters())


def test_weights_start_as_those_of_linear_layers():
    torch.manual_seed(0)
    experts = make(["image", "text"])
    for weight, fan_in in ((experts.weight_in, 2 * D), (experts.weight_out, 4)):
        assert 0.8 * fan_in**-0.5 < weight.abs().max() <= fan_in**-0.5
