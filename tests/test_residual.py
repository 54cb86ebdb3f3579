"""``prism+residual``: what each expert cannot tell, and whom the gate learns to ask."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from recbole_prism.residual import PointwiseInformation, ResidualExperts, routing_loss, shares_of

pytestmark = pytest.mark.usefixtures("one_thread")
D = 6


def fitted(image: torch.Tensor, text: torch.Tensor) -> dict[str, torch.Tensor]:
    """Outputs of experts whose MLPs are random and whose regressions are trained, by name."""
    torch.manual_seed(0)
    experts = ResidualExperts(["image", "text"], D, expert_hidden_size=32, dropout=0.0)
    pooled, kind = torch.stack([image, text], 1), torch.full((len(image), 4), 0.25)
    optimizer = torch.optim.Adam(experts.parameters(), lr=0.02)
    for _ in range(200):
        missed = experts(pooled, *experts.tell(pooled), kind)[1]
        optimizer.zero_grad()
        missed.backward()
        optimizer.step()
    return dict(zip(experts.names, experts(pooled, *experts.tell(pooled), kind)[0].detach().unbind(1), strict=True))


def spread(x: torch.Tensor) -> float:
    return x.var(0).mean().item()


def test_what_both_modalities_say_is_redundancy_and_nothing_else():
    codes = F.one_hot(torch.randint(4, (512,), generator=torch.Generator().manual_seed(1)), D).float()
    outputs = fitted(codes, codes)
    for name in ("unique_image", "unique_text", "synergy"):
        assert spread(outputs[name]) < 0.01 * spread(outputs["redundancy"]), name


def test_independent_modalities_have_no_redundancy():
    generator = torch.Generator().manual_seed(1)
    image, text = (F.one_hot(torch.randint(2, (2048,), generator=generator), D).float() for _ in range(2))
    outputs = fitted(image, text)
    for name in ("unique_image", "unique_text"):
        assert spread(outputs["redundancy"]) < 0.1 * spread(outputs[name])
    # and synergy is the same for no sum of functions of one each: its means given either are equal
    for modality in (image, text):
        means = torch.stack([outputs["synergy"][modality[:, c] == 1].mean(0) for c in (0, 1)])
        assert spread(means) < 0.05 * spread(outputs["synergy"])


def test_regressions_learn_from_their_own_loss_only():
    experts = ResidualExperts(["image", "text"], D, expert_hidden_size=8, dropout=0.0)
    pooled, kind = torch.randn(9, 2, D), torch.softmax(torch.randn(9, 4), 1)
    outputs, missed = experts(pooled, *experts.tell(pooled), kind)
    regressions = [p for part in (experts.from_others, experts.additive) for p in part.parameters()]
    others = [*experts.single.parameters(), *experts.joint.parameters()]
    by_outputs = torch.autograd.grad(outputs.square().sum(), regressions + others, retain_graph=True, allow_unused=True)
    assert all(g is None for g in by_outputs[: len(regressions)]) and all(
        g.any() for g in by_outputs[len(regressions) :]
    )
    by_fit = torch.autograd.grad(missed, regressions + others, allow_unused=True)
    assert all(g.any() for g in by_fit[: len(regressions)]) and all(g is None for g in by_fit[len(regressions) :])


def test_regressions_train_neither_pools_nor_kinds():
    experts = ResidualExperts(["image", "text"], D, expert_hidden_size=8, dropout=0.0)
    pooled, kind = torch.randn(9, 2, D, requires_grad=True), torch.rand(9, 4, requires_grad=True)
    _, missed = experts(pooled, *experts.tell(pooled), kind)
    assert torch.autograd.grad(missed, [pooled, kind], allow_unused=True) == (None, None)


def test_redundancy_passes_its_gradient_to_what_modalities_tell():
    experts = ResidualExperts(["image", "text"], D, expert_hidden_size=8, dropout=0.0)
    pooled, kind = torch.randn(9, 2, D), torch.softmax(torch.randn(9, 4), 1)
    single, joint = experts.tell(pooled)
    outputs, _ = experts(pooled, single, joint, kind)
    (gradient,) = torch.autograd.grad(outputs[:, experts.names.index("redundancy")].sum(), [single])
    assert (gradient == 1).all()


def test_one_modality_has_no_redundancy_to_learn_from():
    experts = ResidualExperts(["text"], D, expert_hidden_size=8, dropout=0.0)
    pooled, kind = torch.randn(9, 1, D), torch.softmax(torch.randn(9, 3), 1)
    outputs, _ = experts(pooled, *experts.tell(pooled), kind)
    redundancy = outputs[:, experts.names.index("redundancy")]
    assert not redundancy.any()
    gradients = torch.autograd.grad(
        (redundancy * torch.randn_like(redundancy)).sum(), list(experts.single.parameters())
    )
    assert not any(gradient.any() for gradient in gradients)


def test_information_is_not_rounded_under_autocast():
    """log p is a number of about six, and i what two of them differ by."""
    torch.manual_seed(0)
    information = PointwiseInformation(2, 4, D, 8)
    pooled, kind = torch.randn(64, 2, D), torch.softmax(torch.randn(64, 4), 1)
    targets, table = torch.randint(1, 500, (64,)), torch.randn(500, D)
    exact = information(pooled, kind, targets, table)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = information(pooled, kind, targets, table)
    for a, b in zip(exact, rounded, strict=True):
        torch.testing.assert_close(a, b)


def test_one_history_has_no_variance_to_miss():
    experts = ResidualExperts(["image", "text"], D, expert_hidden_size=8, dropout=0.0)
    pooled, kind = torch.randn(9, 2, D), torch.softmax(torch.randn(9, 4), 1)
    assert experts(pooled, *experts.tell(pooled), kind)[1] > 0
    alone = experts(pooled[:1], *experts.tell(pooled[:1]), kind[:1])[1]
    assert alone == 0
    alone.backward()
    assert not any(p.grad.any() for p in experts.additive.parameters())


def test_evaluation_asks_no_other_process(monkeypatch):
    """Chunks are dealt in turn, so that processes may come there a different number of times."""
    experts = ResidualExperts(["image", "text"], D, expert_hidden_size=8, dropout=0.0).eval()
    monkeypatch.setattr("recbole_prism.residual.batch_spread", lambda x: pytest.fail("processes would wait"))
    pooled = torch.randn(9, 2, D)
    assert experts(pooled, *experts.tell(pooled), torch.softmax(torch.randn(9, 4), 1))[1] == 0


def test_unique_parts_and_redundancy_sum_to_all_that_single_modalities_tell():
    experts = ResidualExperts(["a", "b", "c"], D, expert_hidden_size=8, dropout=0.0)
    pooled, kind = torch.randn(9, 3, D), torch.softmax(torch.randn(9, 5), 1)
    single, joint = experts.tell(pooled)
    outputs, _ = experts(pooled, single, joint, kind)
    told = single.sum(0)
    torch.testing.assert_close(outputs[:, :3].sum(1) + outputs[:, 4], told)


def test_shares_by_hand():
    """Columns: only the image tells, both tell (the text more), only together, misled by the image, nothing."""
    information = torch.tensor([[1.5, 0.5, 0.0, -2.0, -1.0], [0.0, 0.75, -0.5, 1.0, 0.0], [1.5, 1.0, 2.0, 0.5, -0.5]])
    unique_image, unique_text, synergy, redundancy = shares_of(information).T.tolist()
    assert unique_image == [1.5, 0, 0, 0, 0] and unique_text == [0, 0.25, 0, 1, 0]
    assert synergy == [0, 0.25, 2, 0, 0] and redundancy == [0, 0.5, 0, 0, 0]


def test_shares_of_one_and_of_three_modalities():
    assert shares_of(torch.tensor([[1.0], [1.5]])).tolist() == [[1.0, 0.5, 0.0]]
    three = shares_of(torch.tensor([[1.0], [3.0], [2.0], [3.5]]))
    assert three.tolist() == [[0.0, 1.0, 0.0, 0.5, 1.0]]


def test_the_least_routing_loss_is_at_the_mean_share():
    shares = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    losses = [routing_loss(shares, torch.tensor([w, 1 - w]).expand(3, 2)) for w in (0.7, 0.75, 0.8)]
    assert losses[1] < losses[0] and losses[1] < losses[2]
    assert routing_loss(shares[:1], torch.tensor([[0.5, 0.5]])).item() == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize("by_group", [False, True])
def test_heads_measure_bits_among_histories_of_a_kind(by_group):
    """y is the image's code in one group and the exclusive or of both codes in the other: log 2 nats in both."""
    a, b, group = torch.cartesian_prod(*[torch.arange(2)] * 3).repeat(32, 1).T
    pooled = torch.stack([F.one_hot(a, D).float(), F.one_hot(b, D).float()], 1)
    targets, table = 1 + torch.where(group == 0, a, a ^ b), torch.eye(3, D)
    kind = F.one_hot(group, 4).float() if by_group else torch.full((256, 4), 0.25)
    torch.manual_seed(0)
    information = PointwiseInformation(2, 4, D, 32)
    optimizer = torch.optim.Adam(information.parameters(), lr=0.02)
    for _ in range(300):
        loss, _ = information(pooled, kind, targets, table)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    shares = shares_of(information(pooled, kind, targets, table)[1])
    means = [shares[group == g].mean(0) / math.log(2) for g in (0, 1)]
    if by_group:
        torch.testing.assert_close(means[0], torch.tensor([1.0, 0, 0, 0]), atol=0.02, rtol=0)
        torch.testing.assert_close(means[1], torch.tensor([0, 0, 1.0, 0]), atol=0.02, rtol=0)
    else:  # in all, the image tells something of both
        assert means[1][0] > 0.1 and means[1][2] < 0.5


@pytest.mark.parametrize("loss", ["information_fit", "routing"])
def test_the_information_loss_alone_trains_its_heads_and_the_kind_and_nothing_else(build, loss):
    _, model, loaders = build("PRISM_SASRec", fusion="prism+residual")
    values = model.train().calculate_loss(next(iter(loaders[0])))
    model.zero_grad()
    dict(zip(model.loss_names, values, strict=True))[loss].backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    own = {name for name in trained if name.startswith(("fusion.information.", "fusion.kind."))}
    assert trained and own == (trained if loss == "information_fit" else set())
