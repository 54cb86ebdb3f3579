"""Adaptive Fusion Layer: the gate by hand, and what algebra says of its limits."""

import itertools
import math

import pytest
import torch

from recbole_prism.errors import PRISMError
from recbole_prism.fusion import Gate, PRISMFusion, build_fusion

D = 3
SETTINGS = {
    "fusion": "prism",
    "expert_hidden_size": 4,
    "expert_dropout": 0.0,
    "expert_distance": "cosine",
    "expert_margin": 1.0,
    "noise_scale": "match",
    "experts_off": [],
    "fusion_hidden_size": 5,
    "fusion_dropout": 0.0,
    "fusion_temperature": 0.5,
    "expert_loss_on": "representation",
    "expert_loss_samples": None,
    "alpha_bottleneck": 0.001,
    "alpha_redundancy": 0.005,
    "alpha_unique": 0.01,
    "redundancy_estimator": "vclub",
    "unique_candidates": 256,
    "lambda_unique": 0.1,
    "lambda_synergy": 0.2,
    "lambda_redundancy": 0.3,
    "lambda_routing": 0.1,
}


def make(modalities=("image", "text"), **overrides) -> PRISMFusion:
    torch.manual_seed(0)
    fusion = build_fusion({**SETTINGS, **overrides}, list(modalities), D).double()
    for name, parameter in fusion.named_parameters():
        if name == "experts.bias_out":  # which starts at zero
            torch.nn.init.normal_(parameter)
    return fusion


def histories(n=6, n_modalities=2):
    torch.manual_seed(1)
    return torch.randn(n, n_modalities, D, dtype=torch.float64), torch.randn(n, D, dtype=torch.float64)


def test_gate_by_hand():
    gate = Gate(2 * 1 + 1, 2, 1, dropout=0.0, temperature=0.5).double()
    with torch.no_grad():
        gate.hidden.weight.copy_(torch.tensor([[1.0, 2.0, 3.0]]))
        gate.hidden.bias.zero_()
        gate.output.weight.copy_(torch.tensor([[1.0], [0.0]]))
        gate.output.bias.copy_(torch.tensor([0.0, 0.25]))
    weights = gate(gate.read(torch.tensor([[[0.1], [0.2]]]).double()), torch.tensor([[0.3]], dtype=torch.float64))
    x = 0.1 + 0.4 + 0.9
    gelu = x * 0.5 * (1 + math.erf(x / math.sqrt(2)))
    first, second = math.exp(gelu / 0.5), math.exp(0.25 / 0.5)
    assert weights[0].tolist() == pytest.approx([first / (first + second), second / (first + second)])


@pytest.mark.parametrize("modalities", [("image", "text"), ("image", "text", "audio")])
def test_fused_vector_is_the_weighted_sum_of_expert_outputs(modalities):
    fusion = make(modalities)
    pooled, ids = histories(n_modalities=len(modalities))
    fused = fusion(pooled, ids)
    by_hand = sum(fused.weights[:, k, None] * fusion.experts(pooled)[:, k] for k in range(len(fusion.names)))
    torch.testing.assert_close(fused.vector, by_hand)
    torch.testing.assert_close(fused.weights.sum(1), torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize("off", [[], ["redundancy"], ["unique_image", "synergy"]])
def test_gate_reads_experts_through_their_second_layers(off):
    fusion, (pooled, ids) = make(experts_off=off), histories()
    on = torch.tensor([name not in off for name in fusion.names])
    outputs = fusion.experts(pooled) * on.unsqueeze(1)
    weights = fusion.gate(fusion.gate.read(outputs), ids, on.expand(6, -1))
    torch.testing.assert_close(fusion(pooled, ids).weights, weights)


@pytest.mark.parametrize("k", range(4))
def test_gate_fixed_to_one_expert_gives_that_expert(k):
    fusion = make()
    with torch.no_grad():
        fusion.gate.output.weight.zero_()
        fusion.gate.output.bias.zero_()
        fusion.gate.output.bias[k] = 1e4
    pooled, ids = histories()
    torch.testing.assert_close(fusion(pooled, ids).vector, fusion.experts(pooled)[:, k])


def test_high_temperature_weights_all_experts_alike():
    pooled, ids = histories()
    weights = make(fusion_temperature=1e9)(pooled, ids).weights
    torch.testing.assert_close(weights, torch.full_like(weights, 0.25))


def test_losses_carry_their_lambdas(monkeypatch):
    fusion = make(lambda_unique={"image": 0.5, "text": 0.0})
    pooled, ids = histories()
    noise = torch.randn_like(pooled)
    monkeypatch.setattr(fusion.experts, "draw_noise", lambda *_: noise)
    plain = fusion.experts.losses(fusion.experts(pooled), fusion.experts.perturbed(pooled))
    losses = fusion(pooled, ids).losses
    assert set(losses) == {"unique_image", "synergy", "redundancy"}  # a lambda of 0 costs and logs nothing
    for name, weight in (("unique_image", 0.5), ("synergy", 0.2), ("redundancy", 0.3)):
        torch.testing.assert_close(losses[name], weight * plain[name])


def test_without_losses_and_at_inference_no_perturbed_pass_runs(monkeypatch):
    def refuse(_):
        raise AssertionError("a perturbed pass ran")

    pooled, ids = histories()
    without_losses = make(lambda_unique=0, lambda_synergy=0, lambda_redundancy=0)
    monkeypatch.setattr(without_losses.experts, "perturbed", refuse)
    assert without_losses(pooled, ids).losses == {}
    inference = make().eval()
    monkeypatch.setattr(inference.experts, "perturbed", refuse)
    assert inference(pooled, ids).losses == {}


def test_losses_are_taken_on_the_selected_histories_only(monkeypatch):
    fusion = make()
    pooled, ids = histories()
    select = torch.tensor([1, 4])
    noise = torch.randn(2, 2, D, dtype=torch.float64)
    monkeypatch.setattr(fusion.experts, "draw_noise", lambda *_: noise)
    selected = fusion(pooled, ids, select)
    alone = fusion(pooled[select], ids[select])
    for name, loss in alone.losses.items():
        torch.testing.assert_close(selected.losses[name], loss)
    assert len(selected.vector) == 6


@pytest.mark.parametrize("select", [None, torch.tensor([0, 2, 3, 5])])
def test_losses_on_a_random_part_estimate_those_on_all(monkeypatch, select):
    """The mean over all draws of two histories is the mean over all histories; each draw is a mean over its own."""
    everything, sampled = make(), make(expert_loss_samples=2)
    pooled, ids = histories()
    noise = dict(zip(map(tuple, pooled.flatten(1).tolist()), torch.randn(6, 2, D, dtype=torch.float64), strict=True))
    for fusion in (everything, sampled):
        drawn_for = lambda x, _: torch.stack([noise[tuple(row)] for row in x.flatten(1).tolist()])  # noqa: E731
        monkeypatch.setattr(fusion.experts, "draw_noise", drawn_for)
    wanted = everything(pooled, ids, select).losses
    n = len(pooled) if select is None else len(select)
    pairs = list(itertools.combinations(range(n), 2))
    found = []
    for pair in pairs:
        rest = [row for row in range(n) if row not in pair]
        monkeypatch.setattr(torch, "randperm", lambda n, order=(*pair, *rest), **_: torch.tensor(order))
        found.append(sampled(pooled, ids, select).losses)
    for name, loss in wanted.items():
        torch.testing.assert_close(sum(losses[name] for losses in found) / len(pairs), loss)
        assert len({round(losses[name].item(), 9) for losses in found}) > 1


def test_unknown_fusion_names_what_exists():
    with pytest.raises(ValueError, match=r"fusion: 'sums' is unknown.*available: .*'prism'"):
        make(fusion="sums")


def test_an_expert_that_is_off_has_no_weight_no_loss_and_no_influence():
    fusion = make(experts_off=["synergy"])
    pooled, ids = histories()
    fused = fusion(pooled, ids)
    assert set(fused.losses) == {"unique_image", "unique_text", "redundancy"}
    assert not fused.weights[:, 2].any()
    torch.testing.assert_close(fused.weights.sum(1), torch.ones(6, dtype=torch.float64))
    with torch.no_grad():
        fusion.experts.bias_out[2] += 5.0
    torch.testing.assert_close(fusion(pooled, ids).vector, fused.vector, rtol=0, atol=0)


@pytest.fixture
def own_fusion():
    """own_fusion(names) -> registers fusion ``mine``, which has a key of its own and returns two weights."""
    from recbole_prism.fused import Fused
    from recbole_prism.fusion import FUSIONS

    def make(names):
        class Mine(torch.nn.Module):
            defaults = {"mine_width": 8}

            def __init__(self, config, modalities, hidden_size):
                super().__init__()
                self.names, self.width = names, config["mine_width"]

            def forward(self, pooled, pooled_id, select=None, context=None):
                return Fused(pooled.mean(1), {}, pooled.new_full((len(pooled), 2), 0.5))

        FUSIONS["mine"] = Mine

    yield make
    FUSIONS.pop("mine", None)


def test_a_fusion_of_ones_own_may_have_keys(build, own_fusion):
    own_fusion(["a", "b"])
    assert build("PRISM_SASRec", fusion="mine")[1].fusion.width == 8
    assert build("PRISM_SASRec", fusion="mine", mine_width=3)[1].fusion.width == 3
    with pytest.raises(PRISMError, match="mine_width: known neither"):
        build("PRISM_SASRec", mine_width=3)


def test_weights_without_names_are_refused(build, own_fusion):
    own_fusion([])
    _, model, loaders = build("PRISM_SASRec", fusion="mine")
    with pytest.raises(PRISMError, match="Mine: returns 2 weights; names must name each"):
        model.eval().full_sort_predict(next(iter(loaders[1]))[0])
