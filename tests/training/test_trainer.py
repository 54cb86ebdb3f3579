"""Packed training through RecBole's Trainer."""

from __future__ import annotations

import logging

import pytest
import torch
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer
from recbole.utils import get_trainer

from recbole_prism import PRISMError
from recbole_prism.recommend import Recommender
from recbole_prism.run import recorded_trainers, run
from recbole_prism.training import packed
from recbole_prism.training.packing import PackedBatch
from recbole_prism.training.trainer import PackedTrainer


def fit(build, name: str, resume: str | None = None, **overrides):
    config, model, loaders = build(name, **overrides)
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
    if resume:
        trainer.resume_checkpoint(resume)
    trainer.fit(loaders[0], loaders[1], verbose=False, show_progress=overrides.get("show_progress", False))
    return trainer


@pytest.mark.parametrize("name", ["PRISM_SASRec", "PRISM_GRU4Rec"])
def test_causal_models_train_packed_by_default(build, name, monkeypatch):
    seen = []
    to = PackedBatch.to
    monkeypatch.setattr(
        PackedBatch,
        "to",
        lambda self, device: seen.append(0 if self.targets is None else len(self)) or to(self, device),
    )
    trainer = fit(build, name)
    assert sum(seen) == trainer._sequences.trained.sum()
    assert {"recommendation", "synergy"} <= set(trainer.model.loss_names)


@pytest.mark.parametrize(
    ("long", "overrides", "advised"),
    [(1, {}, True), (1, {"learning_rate": 0.001}, False), (2, {"training_mode": "rows"}, False), (1000, {}, False)],
    ids=["long windows", "the user's own rate", "rows", "short windows"],
)
def test_long_windows_bring_an_advice(build, monkeypatch, caplog, long, overrides, advised):
    monkeypatch.setattr(packed, "LONG", long)
    with caplog.at_level(logging.INFO):
        fit(build, "PRISM_SASRec", **overrides)
    assert ("try learning_rate: 0.002 to 0.004" in caplog.text) == advised


@pytest.mark.parametrize(
    "overrides",
    [
        {"loss_type": "BPR", "train_neg_sample_args": {"sample_num": 2}},
        {"loss_type": "sampled", "num_negatives": 8},
        {"loss_type": "sampled", "num_negatives": 8, "negative_distribution": "uniform"},
        {"enable_amp": True, "show_progress": True},
        {"clip_grad_norm": {"max_norm": 0.5}, "weight_decay": 0.01, "learner": "adamw"},
        {"window_stride": "exact", "learner": "sgd"},
        {"window_stride": 1, "window_offset": False, "shuffle": False},
    ],
    ids=lambda o: ",".join(map(str, o.values())),
)
@pytest.mark.parametrize("name", ["PRISM_SASRec", "PRISM_GRU4Rec"])
def test_what_recbole_offers_works_packed(build, name, overrides):
    trainer = fit(build, name, epochs=2, **overrides)
    losses = list(trainer.train_loss_dict.values())
    assert len(losses) == 2 and all(torch.isfinite(torch.tensor(losses)))


@pytest.mark.parametrize("mode", ["packed", None])
def test_checkpoints_of_recboles_models_say_whose_rows_they_hold(settings, data_path, mode):
    """The same items in another order are as many rows of other items."""
    plain = {**settings, "train_neg_sample_args": None, "training_mode": mode}
    with recorded_trainers() as trainers:
        run("SASRec", "tiny", [], {**plain, "valid_metric": "Recall@20", "topk": [20]})
    checkpoint = trainers[-1].saved_model_file
    assert Recommender.load(checkpoint).for_user("u1", 1)
    file = data_path / "tiny" / "tiny.inter"
    header, *rows = file.read_text().splitlines()
    file.write_text("\n".join([header, *rows[::-1]]) + "\n")
    with pytest.raises(PRISMError, match="trained on other items"):
        Recommender.load(checkpoint)
    with pytest.raises(PRISMError, match="trained on other items"):
        run("SASRec", "tiny", [], {**plain, "resume": checkpoint, "epochs": 3})


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec"])
def test_recboles_own_model_gets_our_batches_if_asked_and_is_untouched_otherwise(build, name):
    for mode in ("packed", "rows"):
        assert isinstance(fit(build, name, training_mode=mode), PackedTrainer)
    assert type(fit(build, name, train_neg_sample_args=None)) is Trainer


@pytest.mark.parametrize(
    ("name", "overrides", "reason"),
    [
        ("PRISM_CORE", {}, "CORE attends to both sides"),
        ("PRISM_BERT4Rec", {"transform": "crop_itemseq"}, "BERT4Rec is trained by transform: mask_itemseq, .* 'crop"),
        ("BERT4Rec", {"benchmark_filename": ["a", "b", "c"]}, "benchmark_filename brings rows"),
        ("PRISM_SASRec", {"fusion_scope": "sequence"}, "fusion_scope: sequence pools the whole row"),
        ("PRISM_SASRec", {"transform": "crop_itemseq"}, "transform: crop_itemseq"),
        ("PRISM_GRU4Rec", {"window_stride": 11}, "window_stride: 11 is longer than a window"),
        ("PRISM_SASRec", {"expert_loss_on": "prediction"}, "expert_loss_on: prediction compares"),
        ("GRU4Rec", {"window_stride": 0}, "window_stride: 0 is not allowed"),
    ],
)
def test_packed_training_refuses_what_it_cannot_do(build, name, overrides, reason):
    with pytest.raises(PRISMError, match=reason):
        build(name, training_mode="packed", **overrides)


def test_rows_are_the_default_where_packing_is_impossible(build):
    for name, overrides in (("PRISM_CORE", {}), ("PRISM_SASRec", {"fusion_scope": "sequence"})):
        assert build(name, **overrides)[0]["training_mode"] == "rows"
    with pytest.raises(PRISMError, match="loss_type: sampled is impossible here: NARM pools or weighs the row"):
        build("PRISM_NARM", loss_type="sampled")
    with pytest.raises(PRISMError, match="training_mode: 'row' is not allowed; must be 'packed', 'rows' or nothing"):
        build("SASRec", training_mode="row")


@pytest.mark.parametrize(
    ("overrides", "padded"),
    [
        ({"training_mode": "rows"}, False),
        ({"fusion_scope": "sequence"}, False),
        ({"fusion_scope": "sequence", "loss_type": "sampled", "num_negatives": 8}, False),
        ({"fusion_scope": "sequence", "loss_type": "BPR", "train_neg_sample_args": {"sample_num": 1}}, False),
        ({"expert_loss_on": "prediction"}, True),
        ({"training_mode": "rows", "transform": "inverse_itemseq"}, True),
    ],
    ids=lambda o: ",".join(map(str, o.values())) if isinstance(o, dict) else "",
)
def test_rows_are_trained_without_padding_where_the_backbone_can_be_packed(build, overrides, padded, monkeypatch):
    """Each target is a window of its own then, with the history that RecBole's row has, and forward is not called."""
    windows, forwards = [], []
    to, forward = PackedBatch.to, SASRec.forward
    monkeypatch.setattr(PackedBatch, "to", lambda self, device: windows.append(self) or to(self, device))
    monkeypatch.setattr(SASRec, "forward", lambda self, *args: forwards.append(0) or forward(self, *args))
    trainer = fit(build, "PRISM_SASRec", **overrides)
    assert all(torch.isfinite(torch.tensor(list(trainer.train_loss_dict.values()))))
    trained = [batch for batch in windows if batch.targets is not None]
    assert bool(forwards) == padded == (not trained)
    if not padded:
        assert all(batch.one_each and len(batch) == len(batch.lengths) for batch in trained)
        assert sum(map(len, trained)) == trainer._sequences.trained.sum()


@pytest.mark.parametrize("learner", ["adam", "adamw"])
def test_the_fused_optimizer_has_the_options_of_recboles(build, learner):
    config, model, _ = build("PRISM_SASRec", learner=learner, weight_decay=0.02, learning_rate=0.003)
    optimizer = get_trainer(config["MODEL_TYPE"], "PRISM_SASRec")(config, model).optimizer
    (group,) = optimizer.param_groups
    assert type(optimizer).__name__.lower() == learner
    assert (group["fused"], group["weight_decay"], group["lr"]) == (True, 0.02, 0.003)


@pytest.mark.parametrize(
    ("name", "overrides"), [("PRISM_SASRec", {}), ("SASRec", {"training_mode": "packed"}), ("PRISM_NARM", {})]
)
def test_a_loss_on_pairs_needs_negatives(build, name, overrides):
    with pytest.raises(PRISMError, match="loss_type: BPR needs negatives.*set train_neg_sample_args"):
        fit(build, name, loss_type="BPR", train_neg_sample_args=None, **overrides)
