"""``prism+residual``: what each expert cannot tell, and whom the gate learns to ask."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from recbole_prism.residual import EVEN, ResidualExperts, routing_loss

pytestmark = pytest.mark.usefixtures("one_thread")
D = 6


def fitted(image: torch.Tensor, text: torch.Tensor) -> dict[str, torch.Tensor]:
    """Outputs of experts whose MLPs are random and whose regressions are trained, by name."""
    torch.manual_seed(0)
    experts = ResidualExperts(["image", "text"], D, expert_hidden_size=32, dropout=0.0)
    pooled = torch.stack([image, text], 1)
    optimizer = torch.optim.Adam(experts.parameters(), lr=0.02)
    for _ in range(200):
        missed = experts(pooled)[1]
        optimizer.zero_grad()
        missed.backward()
        optimizer.step()
    return dict(zip(experts.names, experts(pooled)[0].detach().unbind(1), strict=True))


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
    outputs, missed = experts(torch.randn(9, 2, D))
    regressions = [p for part in (experts.from_others, experts.additive) for p in part.parameters()]
    others = [*experts.single.parameters(), *experts.joint.parameters()]
    by_outputs = torch.autograd.grad(outputs.square().sum(), regressions + others, retain_graph=True, allow_unused=True)
    assert all(g is None for g in by_outputs[: len(regressions)]) and all(
        g.any() for g in by_outputs[len(regressions) :]
    )
    by_fit = torch.autograd.grad(missed, regressions + others, allow_unused=True)
    assert all(g.any() for g in by_fit[: len(regressions)]) and all(g is None for g in by_fit[len(regressions) :])


def test_unique_parts_and_redundancy_sum_to_all_that_single_modalities_tell():
    experts = ResidualExperts(["a", "b", "c"], D, expert_hidden_size=8, dropout=0.0)
    pooled = torch.randn(9, 3, D)
    outputs, _ = experts(pooled)
    told = experts.single(pooled.transpose(0, 1)).sum(0)
    torch.testing.assert_close(outputs[:, :3].sum(1) + outputs[:, 4], told)


def test_routing_loss_by_hand():
    torch.manual_seed(2)
    states, table = torch.randn(4, 3, D), torch.randn(9, D)
    weights, targets = torch.softmax(torch.randn(4, 3), 1), torch.tensor([5, 2, 5, 7])
    losses = []
    for row in range(4):
        p = [torch.softmax(table[[2, 5, 7]] @ states[row, k], 0)[[2, 5, 7].index(targets[row])] for k in range(3)]
        shares = (1 - EVEN) * weights[row] + EVEN / 3
        losses.append(-torch.log(sum(w * q for w, q in zip(shares, p, strict=True))))
    torch.testing.assert_close(routing_loss(states, weights, targets, table), torch.stack(losses).mean())
