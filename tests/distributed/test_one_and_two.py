"""Two processes compute what one does: parameters, losses, metrics."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recbole_prism.distributed import sharding, trainers
from recbole_prism.features import write_features
from tests.dataset_made import make_cold
from tests.distributed.together import prepare, run_together, train

CASES = {
    "packed": ("PRISM_SASRec", {"lambda_redundancy": 0.3}),
    "packed, prism+residual": ("PRISM_SASRec", {"fusion": "prism+residual", "learning_rate": 0.01}),  # 0.05 diverges
    "packed GRU4Rec": ("PRISM_GRU4Rec", {}),
    "packed, RecBole's": ("SASRec", {"training_mode": "packed"}),
    "packed, sampled": ("PRISM_SASRec", {"loss_type": "sampled", "num_negatives": 8}),
    "rows": ("PRISM_SASRec", {"training_mode": "rows"}),
    "rows with padding": ("PRISM_NARM", {"dropout_probs": [0.0, 0.0]}),
    "rows, one vector each": ("PRISM_GRU4Rec", {"fusion_scope": "sequence"}),
    "rows, masked": ("PRISM_BERT4Rec", {"training_mode": "rows", "mask_ratio": 1.0, "ft_ratio": 0.0}),
    "rows, masked, predictions": ("PRISM_BERT4Rec", {"ft_ratio": 1.0, "expert_loss_on": "prediction"}),
    "packed, masked": ("PRISM_BERT4Rec", {"training_mode": "packed", "mask_ratio": 1.0, "ft_ratio": 0.0}),
    "packed, masked, RecBole's": ("BERT4Rec", {"training_mode": "packed", "ft_ratio": 1.0}),
    "rows, masked, RecBole's": ("BERT4Rec", {"training_mode": "rows", "mask_ratio": 1.0, "ft_ratio": 0.0}),
    "packed, cold items": ("PRISM_SASRec", {"cold_item_spread": 1.0}),
    "packed, few features": ("PRISM_SASRec", {"learning_rate": 0.1}),
    "rows, few features, codes": (
        "MRdIB_SASRec",
        {"alpha_redundancy": 0.0, "alpha_unique": 1.0, "alpha_bottleneck": 0.1, "unique_candidates": 99}
        | {"learning_rate": 0.1},
    ),
    "rows, RecBole's": ("GRU4Rec", {"train_neg_sample_args": None}),
    "rows, one evaluation batch": ("SASRec", {"train_neg_sample_args": None, "eval_batch_size": 4096}),
}
COMMON = {"epochs": 2, "learner": "sgd", "learning_rate": 0.5, "train_batch_size": 37, "eval_batch_size": 7,
          "metric_decimal_place": 16, "topk": [3, 10], "stopping_step": 100}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_what_one_does(case, settings, data_path, tmp_path, one_thread, monkeypatch):
    """Float64, dropout off, noise fixed; the last batch is short, and most shares are unequal."""
    if "few features" in case:  # histories without, and more of them in one process than in the other
        rng = np.random.default_rng(5)
        for modality, items, size in (("image", (2, 7), 6), ("text", (2, 3, 5, 11), 5)):
            vectors = rng.normal(size=(len(items), size)).astype(np.float32)
            write_features(data_path / "tiny" / f"tiny.{modality}.safetensors", [f"i{i}" for i in items], vectors)
    if "cold" in case:
        make_cold(data_path, ["i3", "i7"])
    monkeypatch.setattr("recbole_prism.experts.InteractionExperts.draw_noise", None)
    monkeypatch.setattr("recbole_prism.mrdib.Bottleneck.draw", None)
    model, overrides = CASES[case]
    overrides = {**COMMON, **overrides}
    two = run_together(train, settings, tmp_path, model, overrides)
    assert isinstance(two[0], dict), two[0]
    for name, parameter in two[0]["parameters"].items():
        assert torch.equal(parameter, two[1]["parameters"][name]), name
    assert {k: two[0][k] for k in ("losses", "metrics", "weights", "file")} == {
        k: two[1][k] for k in ("losses", "metrics", "weights", "file")
    }
    if "sampled" in case:  # one process draws from torch's own generator
        return
    one = train(settings, model, overrides)
    assert two[0]["metrics"] == one["metrics"]
    assert two[0]["losses"] == pytest.approx(one["losses"], rel=1e-10)
    assert two[0]["weights"] == pytest.approx(one["weights"], abs=1e-6)
    for name, parameter in one["parameters"].items():
        torch.testing.assert_close(two[0]["parameters"][name], parameter, rtol=1e-8, atol=1e-10)
    files = {os.path.basename(run["file"]) for run in (one, *two)}  # theirs and ours, alike within a second
    assert {file for file in os.listdir(tmp_path / "saved") if file.endswith(".pth")} == files


def seed_of(settings):
    prepare(settings, "PRISM_SASRec")
    return torch.initial_seed()


def test_processes_do_not_drop_the_same(settings, tmp_path):
    first, second = run_together(seed_of, settings, tmp_path)
    assert second == first + 1


def test_negatives_of_an_epoch_are_alike_and_those_of_the_next_are_others():
    drawn = []
    for epoch in (0, 0, 1):
        trainer = SimpleNamespace(_negative_sampler=SimpleNamespace(), device="cpu", config={"seed": 7})
        trainers.draw_alike(trainer, epoch)
        drawn.append(torch.rand(3, generator=trainer._negative_sampler.generator).tolist())
    assert drawn[0] == drawn[1] != drawn[2]


def test_expert_losses_are_weighed_by_rows_and_the_backbones_by_masked_positions(monkeypatch):
    monkeypatch.setattr(sharding, "share_of_count", lambda count: 2.0 * count)
    model = SimpleNamespace(MASK_INDEX="MASK_INDEX", loss_names=("recommendation", "recommendation2", "synergy"))
    weighted = sharding.WeightedLoss(model, lambda rows: (1.0, 1.0, 1.0), SimpleNamespace(weights=[0.5, 0.25]))
    rows = {"MASK_INDEX": torch.tensor([[0, 2], [1, 3]])}
    assert weighted(rows) == (6.0, 6.0, 0.5) and weighted(rows)[2] == 0.25
