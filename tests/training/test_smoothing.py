"""Targets softened by content."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
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


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("n_targets", [12, 40])
def test_the_loss_is_cross_entropy_with_soft_targets(biased, n_targets):
    torch.manual_seed(0)
    found = modalities(image=[4, 7], text=[])
    states, table = (torch.randn(n, HIDDEN, dtype=torch.float64, requires_grad=True) for n in (n_targets, N_ITEMS))
    bias = torch.randn(N_ITEMS, dtype=torch.float64, requires_grad=True) if biased else None
    variables = (states, table, bias) if biased else (states, table)
    targets = torch.randint(1, N_ITEMS, (n_targets,))
    smoothing = TargetSmoothing(found, 0.3, 4)
    loss = linear_cross_entropy(states, table, targets, bias) + smoothing(states, table, targets, bias)
    soft = torch.zeros(n_targets, N_ITEMS, dtype=torch.float64)
    neighbours = nearest_items(found, 4)
    for row, target in enumerate(targets.tolist()):
        soft[row, target] += 0.7
        for item in neighbours[target].tolist():
            soft[row, item] += 0.3 / 8
    expected = F.cross_entropy(states @ table.t() + (bias if biased else 0), soft)
    torch.testing.assert_close(loss, expected)
    ours, theirs = (torch.autograd.grad(each, variables) for each in (loss, expected))
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


def only(values):
    """Modalities with one, that all items have."""
    return SimpleNamespace(names=["one"], coverage={"one": np.ones(len(values), bool)}, values_one=values)


@pytest.mark.parametrize("kind", ["even", "tiny", "with an outlier", "whole"])
def test_numbers_are_near_by_distance(kind):
    numbers = torch.rand(300, 1, generator=torch.Generator().manual_seed(1))
    numbers = {"even": numbers, "tiny": numbers * 1e-6, "whole": (numbers * 20).round()}.get(kind, numbers)
    if kind == "with an outlier":
        numbers[7] = 1e6
    near = nearest_items(only(numbers), 5)
    distances = (numbers - numbers.t()).abs().fill_diagonal_(torch.inf)
    found = distances.gather(1, near).sort().values
    torch.testing.assert_close(found, distances.topk(5, largest=False).values, rtol=1e-5, atol=0)
    assert all(len(set(row)) == 5 for row in near.tolist())


@pytest.mark.parametrize("features", ["category", "number"])
def test_among_equals_each_item_has_others(features):
    """No item is the neighbour of many, as the first of a category would be; half precision does not change that."""
    values = torch.arange(5000) % 2
    values = F.one_hot(values).float() if features == "category" else values[:, None].float()
    near = nearest_items(only(values), 10)
    assert (near % 2 == torch.arange(5000)[:, None] % 2).all() and not (near == torch.arange(5000)[:, None]).any()
    assert torch.bincount(near.flatten(), minlength=5000).max() < 40
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest_items(only(values), 10), near)


def test_it_is_on_by_default_where_it_is_possible(build):
    for name in ("PRISM_SASRec", "PRISM_BERT4Rec"):
        assert build(name)[1].smoothing.share == 0.2
    assert build("PRISM_NARM")[1].smoothing is None
    assert build("PRISM_SASRec", loss_type="sampled", num_negatives=8)[1].smoothing is None
    assert build("PRISM_SASRec", target_smoothing=0)[1].smoothing is None


GROWTH = """
import numpy as np, torch
from types import SimpleNamespace
from recbole_prism.training import memory, smoothing
torch.set_num_threads(1)
memory.keep_freed_memory()
smoothing.SIMILARITIES = 1 << 21  # 8 MiB
values = torch.randn(8000, 8)
found = SimpleNamespace(names=["one"], coverage={"one": np.ones(len(values), bool)}, values_one=values)
smoothing.nearest_items(SimpleNamespace(**{**vars(found), "coverage": {"one": np.arange(8000) < 300}}), 10)
before = memory.resident()
smoothing.nearest_items(found, 10)
print((memory.resident() - before) >> 20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_the_search_for_neighbours_holds_one_block_of_cosines():
    """Where freed memory is kept, too: 30 blocks of 8 MiB are 240."""
    grown = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True).stdout
    assert int(grown) < 60


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, mode) for name in ("PRISM_SASRec", "PRISM_GRU4Rec") for mode in ("packed", "rows")]
    + [("PRISM_BERT4Rec", "rows")],
)
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
        ("PRISM_NARM", {}, "is impossible here: NARM pools or weighs the row"),
        ("PRISM_SASRec", {"expert_loss_on": "prediction"}, "is impossible here: expert_loss_on: prediction"),
    ],
)
def test_it_refuses_what_it_cannot_soften(build, name, overrides, reason):
    with pytest.raises(PRISMError, match=f"target_smoothing:? {reason}"):
        build(name, target_smoothing=0.2, **overrides)
