"""MRdIB: its terms by hand, its estimators where the information is known, and models on it."""

import math

import pytest
import torch
import torch.nn.functional as F

from recbole_prism.fused import Context
from recbole_prism.fusion import build_fusion
from recbole_prism.mrdib import ESTIMATORS, Bottleneck, _log_normal, candidate_cross_entropy, draw_candidates

pytestmark = pytest.mark.usefixtures("one_thread")
D = 4
SETTINGS = {
    "fusion": "mrdib",
    "alpha_bottleneck": 0.1,
    "alpha_redundancy": 0.2,
    "alpha_unique": 0.3,
    "redundancy_estimator": "vclub",
    "unique_candidates": 100,
}


def make(modalities=("image", "text"), **overrides):
    torch.manual_seed(0)
    return build_fusion({**SETTINGS, **overrides}, list(modalities), D).double()


def histories(n=6, n_modalities=2, n_items=9):
    torch.manual_seed(1)
    pooled = torch.randn(n, n_modalities, D, dtype=torch.float64)
    available = torch.ones(n, n_modalities, dtype=torch.bool)
    targets = torch.randint(1, n_items, (n,))
    table = torch.randn(n_items, D, dtype=torch.float64)
    return pooled, torch.randn(n, D, dtype=torch.float64), Context(available, targets, table)


def test_divergence_equals_torchs_for_normal_distributions():
    torch.manual_seed(0)
    mean, log_variance = torch.randn(5, 2, D, dtype=torch.float64), torch.randn(5, 2, D, dtype=torch.float64)
    coded = torch.distributions.Normal(mean, (log_variance / 2).exp())
    each = torch.distributions.kl_divergence(coded, torch.distributions.Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(Bottleneck.divergence(mean, log_variance), each.sum(-1).mean())
    available = torch.tensor([[True, False]] * 5)
    select = torch.tensor([0, 3])
    torch.testing.assert_close(Bottleneck.divergence(mean, log_variance, available, select), each[select, 0].mean())


@pytest.mark.parametrize("n_modalities", [1, 2, 3])
def test_losses_are_the_terms_times_their_alphas(n_modalities, monkeypatch):
    names = ["image", "text", "audio"][:n_modalities]
    fusion = make(names)
    pooled, ids, context = histories(n_modalities=n_modalities)
    monkeypatch.setattr(torch, "randn_like", lambda x: torch.full_like(x, 0.5))
    monkeypatch.setattr(torch, "randperm", lambda n, device=None: torch.arange(n).roll(1))
    fused = fusion(pooled, ids, None, context)
    mean, log_variance = fusion.bottleneck(pooled)
    codes = mean + 0.5 * torch.exp(log_variance / 2)
    torch.testing.assert_close(fused.vector, fusion.joint(codes.flatten(1)))
    torch.testing.assert_close(fused.losses["bottleneck"], 0.1 * fusion.bottleneck.divergence(mean, log_variance))
    for m, name in enumerate(names):
        logits = fusion.decoders[name](codes[:, m]) @ context.table[1:].T
        expected = 0.3 * F.cross_entropy(logits, context.targets - 1)
        torch.testing.assert_close(fused.losses[f"unique_{name}"], expected)
    if n_modalities == 1:
        assert "redundancy" not in fused.losses  # nothing to share it with
        return
    bound = 0.0
    for key, estimator in fusion.estimators.items():
        a, b = (codes[:, names.index(name)] for name in key.split("_"))
        mu, log_var = estimator.conditional(a).chunk(2, dim=1)
        own = torch.distributions.Normal(mu, (log_var / 2).exp())
        bound = bound + (own.log_prob(b) - own.log_prob(b.roll(1, 0))).sum(1).mean()
    torch.testing.assert_close(fused.losses["redundancy"], 0.2 * bound)


def test_codes_are_deterministic_at_inference_and_noisy_while_training():
    fusion = make()
    pooled, ids, context = histories()
    assert not torch.equal(fusion(pooled, ids, None, context).vector, fusion(pooled, ids, None, context).vector)
    fusion.eval()
    first = fusion(pooled, ids, None, context)
    assert torch.equal(first.vector, fusion(pooled, ids).vector) and first.losses == {}
    torch.testing.assert_close(first.vector, fusion.joint(fusion.bottleneck(pooled)[0].flatten(1)))


def test_a_bottleneck_starts_as_a_code_that_nearly_passes_its_input_on():
    torch.manual_seed(0)
    pooled = torch.randn(500, 2, 64)
    mean, log_variance = Bottleneck(2, 64)(pooled)
    assert log_variance.mean().item() == pytest.approx(-4, abs=0.1)
    assert torch.corrcoef(torch.stack([mean.flatten(), pooled.flatten()]))[0, 1] > 0.8


def test_the_density_of_a_wild_estimate_is_finite():
    parameters = torch.tensor([[0.0, 0.0, -200.0, 200.0]])
    assert torch.isfinite(_log_normal(torch.ones(1, 2), parameters)).all()


def test_a_missing_modality_has_no_code_and_no_loss():
    fusion = make()
    pooled, ids, context = histories()
    context.available[:, 1] = False
    losses = fusion(pooled, ids, None, context).losses
    assert losses["unique_text"] == 0 and losses["redundancy"] == 0 and losses["unique_image"] > 0
    other = pooled.clone()
    other[:, 1] = 7.0
    fusion.eval()
    torch.testing.assert_close(fusion(pooled, ids, None, context).vector, fusion(other, ids, None, context).vector)


def test_an_alpha_of_zero_costs_and_logs_nothing():
    fusion = make(alpha_unique=0, alpha_redundancy=0)
    assert set(fusion(*histories()[:2], None, histories()[2]).losses) == {"bottleneck"}
    assert not fusion.decoders and not fusion.estimators


def test_candidates_estimate_the_full_softmax():
    torch.manual_seed(0)
    states, table = torch.randn(40, D, dtype=torch.float64), 0.5 * torch.randn(501, D, dtype=torch.float64)
    targets = torch.randint(1, 501, (40,))
    exact = candidate_cross_entropy(states, table, targets, None)
    torch.testing.assert_close(exact, F.cross_entropy(states @ table[1:].T, targets - 1, reduction="none"))
    every = torch.arange(1, 501)
    torch.testing.assert_close(candidate_cross_entropy(states, table, targets, every), exact)
    drawn = [candidate_cross_entropy(states, table, targets, draw_candidates(500, 100, "cpu")) for _ in range(200)]
    torch.testing.assert_close(torch.stack(drawn).mean(0), exact, rtol=0, atol=0.05)
    assert draw_candidates(500, 500, "cpu") is None and len(set(draw_candidates(500, 9, "cpu").tolist())) == 9


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_estimators_find_the_information_of_correlated_normals(name):
    """Per dimension I = -log(1 - rho^2) / 2; vCLUB bounds it from above, MINE from below, up to the fit."""
    torch.manual_seed(0)
    estimator = ESTIMATORS[name](8)
    optimizer = torch.optim.Adam(estimator.parameters(), 0.01)
    rho, found = torch.tensor([0.8, 0.8, 0, 0, 0, 0, 0, 0]), []
    exact = -math.log(1 - 0.8**2)  # of the two dimensions that are correlated
    for step in range(600):
        a = torch.randn(512, 8)
        b = rho * a + (1 - rho**2).sqrt() * torch.randn(512, 8)
        bound, fit = estimator(a, b)
        optimizer.zero_grad()
        fit.backward()
        optimizer.step()
        if step >= 500:
            found.append(bound.item())
    found = sum(found) / len(found)
    if name == "mine":
        assert 0.75 * exact < found < 1.05 * exact
    else:
        assert 0.95 * exact < found < 4 * exact  # CLUB of this pair: 2 rho^2 / (1 - rho^2) = 3.6
    independent, _ = estimator(torch.randn(4096, 8), torch.randn(4096, 8))
    assert independent.item() < 0.25 * found + 0.15


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_the_bound_trains_the_codes_and_the_fit_trains_the_estimator(name):
    torch.manual_seed(0)
    estimator = ESTIMATORS[name](D)
    a, b = torch.randn(8, D, requires_grad=True), torch.randn(8, D, requires_grad=True)
    bound, fit = estimator(a, b)
    bound.backward(retain_graph=True)
    assert a.grad.any() and b.grad.any() and all(p.grad is None for p in estimator.parameters())
    a.grad = b.grad = None
    fit.backward()
    assert a.grad is None and b.grad is None and all(p.grad is not None for p in estimator.parameters())


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec", "BERT4Rec", "NARM", "SRGNN"])
@pytest.mark.parametrize("scope", ["sequence", "causal"])
@pytest.mark.parametrize("estimator", ["vclub", "mine"])
def test_models_named_mrdib_train_by_rows(build, name, scope, estimator):
    if (name, scope) == ("SRGNN", "causal"):
        pytest.skip("graphs have no order")
    overrides = {"fusion_scope": scope, "training_mode": "rows", "redundancy_estimator": estimator}
    config, model, loaders = build(f"MRdIB_{name}", **overrides)
    assert config["fusion"] == "mrdib" and type(model).__name__ == f"MRdIB_{name}"
    model.train()
    for interaction in loaders[0]:
        losses = model.calculate_loss(interaction)
        sum(losses).backward()
        assert all(torch.isfinite(loss) for loss in losses)
    names = ("recommendation", "bottleneck", "unique_image", "unique_text", "redundancy", "redundancy_fit")
    assert model.loss_names == names
    assert [n for n, p in model.fusion.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_packed_training_predicts_the_same_targets_from_each_code(build):
    """Rows and one packed pass over them give the same unique and bottleneck terms (no noise, no dropout)."""
    from recbole_prism.training.encoders import PACKED
    from recbole_prism.training.objective import packed_loss
    from recbole_prism.training.packing import cut_windows, pack

    quiet = {"hidden_dropout_prob": 0, "attn_dropout_prob": 0, "target_smoothing": 0, "alpha_redundancy": 0}
    quiet["MAX_ITEM_LIST_LENGTH"] = 50
    _, model, loaders = build("MRdIB_SASRec", training_mode="rows", **quiet)
    model.double().train()
    model.fusion.bottleneck.draw = lambda mean, log_variance, available=None: mean * available.unsqueeze(-1)
    dataset = loaders[0].dataset
    in_rows = model.calculate_loss(dataset[list(range(len(dataset)))])
    names = model.loss_names
    sequences = dataset.sequences()
    windows = cut_windows(sequences.first, sequences.targets, 50, 1)
    batch = pack(sequences.items, windows, sequences.trained)
    packed = packed_loss(model, batch, PACKED["SASRec"])
    assert model.loss_names == names
    for one, other in zip(in_rows, packed, strict=True):
        torch.testing.assert_close(one, other)
