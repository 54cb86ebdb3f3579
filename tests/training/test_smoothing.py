"""Targets softened by content."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from recbole.utils import get_trainer

from recbole_prism import PRISMError
from recbole_prism.training import smoothing
from recbole_prism.training.losses import linear_cross_entropy
from recbole_prism.training.smoothing import TargetSmoothing, nearest_items

N_ITEMS, HIDDEN = 30, 8


def modalities(**missing):
    """Random features, and the ids without them, as a model's ``Modalities`` has them; item 0 is padding."""
    generator = torch.Generator().manual_seed(3)
    found = SimpleNamespace(names=list(missing), coverage={})
    for name, without in missing.items():
        covered = torch.ones(N_ITEMS, dtype=torch.bool)
        covered[[0, *without]] = False
        found.coverage[name] = covered.numpy()
        setattr(found, f"values_{name}", torch.randn(N_ITEMS, 5, generator=generator))
    return found


def test_the_loss_is_cross_entropy_with_soft_targets():
    torch.manual_seed(0)
    found = modalities(image=[4, 7], text=[])
    states, table = (torch.randn(n, HIDDEN, dtype=torch.float64, requires_grad=True) for n in (12, N_ITEMS))
    targets = torch.randint(1, N_ITEMS, (12,))
    loss = linear_cross_entropy(states, table, targets) + TargetSmoothing(found, 0.3, 4)(states, table, targets)
    soft = torch.zeros(12, N_ITEMS, dtype=torch.float64)
    neighbours = nearest_items(found, 4)
    for row, target in enumerate(targets.tolist()):
        soft[row, target] += 0.7
        for item in neighbours[target].tolist():
            soft[row, item] += 0.3 / 8
    expected = F.cross_entropy(states @ table.t(), soft)
    torch.testing.assert_close(loss, expected)
    ours, theirs = (torch.autograd.grad(each, (states, table)) for each in (loss, expected))
    torch.testing.assert_close(ours, theirs)


def test_neighbours_are_those_of_largest_cosine_in_each_modality(monkeypatch):
    found = modalities(image=[4, 7], text=list(range(3, N_ITEMS)))  # two items have a text
    whole = nearest_items(found, 3)
    values, covered = found.values_image, torch.from_numpy(found.coverage["image"])
    for item in covered.nonzero().flatten().tolist():
        cosine = F.cosine_similarity(values[item][None], values, dim=1)
        cosine[~covered], cosine[item] = -2, -2
        assert set(whole[item, :3].tolist()) == set(cosine.topk(3).indices.tolist())
    assert whole[4].tolist() == [4] * 6  # has neither
    assert whole[1, 3:].tolist() == [2, 1, 1] and whole[5, 3:].tolist() == [5, 5, 5]
    monkeypatch.setattr(smoothing, "SIMILARITIES", 60)
    assert torch.equal(nearest_items(found, 3), whole)


@pytest.mark.parametrize("name", ["PRISM_SASRec", "PRISM_GRU4Rec"])
@pytest.mark.parametrize("mode", ["packed", "rows"])
def test_models_train_with_it(build, name, mode):
    losses = {}
    for share in (0.0, 0.4):
        config, model, loaders = build(name, training_mode=mode, target_smoothing=share)
        trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
        trainer.fit(loaders[0], loaders[1], verbose=False)
        losses[share] = trainer.epoch_losses[0]["recommendation"]
        assert set(model.state_dict()) == set(build(name)[1].state_dict())
    assert losses[0.4] != losses[0.0]


@pytest.mark.parametrize(
    ("name", "overrides", "reason"),
    [
        ("PRISM_SASRec", {"loss_type": "BPR", "train_neg_sample_args": {"sample_num": 1}}, "needs loss_type: CE"),
        ("PRISM_SASRec", {"loss_type": "sampled"}, "needs loss_type: CE, is 'sampled'"),
        ("PRISM_BERT4Rec", {}, "is impossible here: BERT4Rec attends to both sides"),
        ("PRISM_SASRec", {"expert_loss_on": "prediction"}, "is impossible here: expert_loss_on: prediction"),
    ],
)
def test_it_refuses_what_it_cannot_soften(build, name, overrides, reason):
    with pytest.raises(PRISMError, match=f"target_smoothing:? {reason}"):
        build(name, target_smoothing=0.2, **overrides)
