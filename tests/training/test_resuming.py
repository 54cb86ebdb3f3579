"""Runs that go on from a checkpoint."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from recbole.utils import get_trainer

from recbole_prism import PRISMError
from recbole_prism.run import plain_defaults, recorded_trainers, run
from recbole_prism.training import resuming
from recbole_prism.training.trainer import PackedTrainer


def fit(build, name: str, resume: str | None = None, **overrides):
    config, model, loaders = build(name, **overrides)
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
    if resume:
        trainer.resume_checkpoint(resume)
    trainer.fit(loaders[0], loaders[1], verbose=False, show_progress=overrides.get("show_progress", False))
    return trainer


@pytest.mark.parametrize("mode", ["packed", "rows"])
@pytest.mark.parametrize("name", ["PRISM_SASRec", "PRISM_BERT4Rec"])
def test_a_resumed_run_equals_an_uninterrupted_one(build, name, mode):
    settings = {"training_mode": mode, "stopping_step": 100, "valid_metric": "Recall@20", "topk": [20]}
    whole = fit(build, name, epochs=4, **settings)
    half = fit(build, name, epochs=2, **settings)  # every item is among 20, so each epoch is saved
    resumed = fit(build, name, resume=half.saved_model_file, epochs=4, **settings)
    assert resumed.start_epoch == 2
    assert resumed.train_loss_dict == {epoch: whole.train_loss_dict[epoch] for epoch in (2, 3)}
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("mode", ["packed", "rows"])
def test_a_resumed_run_draws_the_negatives_of_an_uninterrupted_one(build, mode):
    settings = {"training_mode": mode, "loss_type": "BPR", "train_neg_sample_args": {"sample_num": 2}}
    settings |= {"stopping_step": 100, "valid_metric": "Recall@20", "topk": [20]}
    whole = fit(build, "PRISM_SASRec", epochs=3, **settings)
    half = fit(build, "PRISM_SASRec", epochs=2, **settings)
    np.random.seed(99)  # as in another process
    resumed = fit(build, "PRISM_SASRec", resume=half.saved_model_file, epochs=3, **settings)
    assert resumed.train_loss_dict == {2: whole.train_loss_dict[2]}


def test_what_is_finished_can_be_resumed_any_number_of_times(build):
    first = fit(build, "PRISM_SASRec", epochs=2)
    for _ in range(3):
        again = fit(build, "PRISM_SASRec", epochs=2, resume=first.saved_model_file)
        assert again.best_valid_result == first.best_valid_result and again.best_valid_score == first.best_valid_score


def test_a_run_does_not_go_on_with_other_defaults(build):
    """Those of another version, say; what is set in so many words may change."""
    settings = {"valid_metric": "Recall@20", "topk": [20]}
    half = fit(build, "PRISM_SASRec", epochs=1, feature_length=5, target_smoothing=0, **settings).saved_model_file
    with pytest.raises(
        PRISMError, match="was trained with feature_length: 5, target_smoothing: 0, .* are 2.0, 0.2 now"
    ):
        fit(build, "PRISM_SASRec", epochs=2, resume=half, **settings)
    assert fit(build, "PRISM_SASRec", epochs=2, resume=half, feature_length=5, target_smoothing=0.1, **settings)


def test_a_run_does_not_go_on_with_another_optimizer_or_from_another_file(build, tmp_path):
    half = fit(build, "PRISM_SASRec", epochs=1).saved_model_file
    for changed in ({"learning_rate": 0.5}, {"weight_decay": 0.1}, {"learner": "sgd"}):
        with pytest.raises(PRISMError, match=f"was trained with {next(iter(changed))}: .* would have no effect"):
            fit(build, "PRISM_SASRec", epochs=2, resume=half, **changed)
    (tmp_path / "orders.csv").write_text("customer,sku\n")
    with pytest.raises(PRISMError, match="orders.csv: cannot be read as a checkpoint"):
        fit(build, "PRISM_SASRec", epochs=2, resume=str(tmp_path / "orders.csv"))


def test_resume_is_a_key_like_any_other(build, settings, monkeypatch):
    """RecBole's own run_recbole builds the trainer and calls fit; every item is among 20, so each epoch is saved."""
    from recbole.quick_start import run_recbole

    common = {"stopping_step": 100, "valid_metric": "Recall@20", "topk": [20]}
    half = fit(build, "PRISM_SASRec", epochs=2, **common)
    train_epoch, epochs = PackedTrainer._train_epoch, []

    def watched(self, train_data, epoch, *args, **kwargs):
        epochs.append(epoch)
        return train_epoch(self, train_data, epoch, *args, **kwargs)

    monkeypatch.setattr(PackedTrainer, "_train_epoch", watched)
    changed = {**settings, **common, "epochs": 4, "resume": half.saved_model_file}
    run_recbole(model="PRISM_SASRec", dataset="tiny", config_dict=changed, saved=False)
    assert epochs == [2, 3]
    with pytest.raises(PRISMError, match="nowhere.pth: no such checkpoint"):
        run_recbole(model="PRISM_SASRec", dataset="tiny", config_dict={**settings, "resume": "nowhere.pth"})


def test_each_process_goes_on_with_its_own_generators(monkeypatch):
    class Recbole:
        def resume_checkpoint(self, resume_file):
            pass

    class Trainer(resuming.ResumableMixin, Recbole):
        def __init__(self, states):
            self.config, self.model = None, SimpleNamespace(random_states=states)

    monkeypatch.setattr(resuming.processes, "share_of", lambda config: (1, 2))
    monkeypatch.setattr(resuming.processes, "is_first", lambda: False)
    trainer = Trainer({"of_each_process": [{"torch": "first", "valid_result": 1}, {"torch": "second"}]})
    trainer.resume_checkpoint("x")
    assert trainer._resumed == {"torch": "second"} and trainer.best_valid_result == 1
    of_one_process = Trainer({"torch": "alone"})
    of_one_process.resume_checkpoint("x")
    assert of_one_process._resumed is None


EVERY_EPOCH_IS_SAVED = {"stopping_step": 100, "valid_metric": "Recall@20", "topk": [20]}  # every item is among 20


@pytest.mark.parametrize("model", ["SASRec", "NARM", "BERT4Rec", "BPR"])
def test_recboles_own_models_go_on_as_if_they_had_not_stopped(settings, model):
    settings = {**settings, **EVERY_EPOCH_IS_SAVED, **plain_defaults(model, {})}

    def trained(epochs: int, **overrides):
        with recorded_trainers() as trainers:
            result = run(model, "tiny", [], {**settings, "epochs": epochs, **overrides})
        return trainers[-1], result

    whole, whole_result = trained(4)
    half, half_result = trained(2)
    finished = trained(2, resume=half.saved_model_file)[1]  # nothing is left to train
    assert finished["best_valid_result"] == half_result["best_valid_result"]
    resumed, result = trained(4, resume=half.saved_model_file)
    assert resumed.train_loss_dict == {epoch: whole.train_loss_dict[epoch] for epoch in (2, 3)}
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert result["test_result"] == whole_result["test_result"]


def test_a_model_whose_checkpoints_hold_too_little_is_refused(settings):
    settings = {**settings, "train_neg_sample_args": None}
    checkpoint = run("RecVAE", "tiny", [], settings)["summary"]["checkpoint"]
    with pytest.raises(PRISMError, match="resume: checkpoints of RecVAE hold one of its optimizers only"):
        run("RecVAE", "tiny", [], {**settings, "epochs": 2, "resume": checkpoint})


def test_models_with_a_knowledge_graph_are_shuffled_anew(settings, data_path, caplog):
    (data_path / "tiny" / "tiny.kg").write_text(
        "head_id:token\trelation_id:token\ttail_id:token\n" + "".join(f"e{i}\tr\te{i + 1}\n" for i in range(1, 9))
    )
    links = "".join(f"i{i}\te{i}\n" for i in range(1, 9))
    (data_path / "tiny" / "tiny.link").write_text("item_id:token\tentity_id:token\n" + links)
    load_col = {**settings["load_col"], "kg": ["head_id", "relation_id", "tail_id"], "link": ["item_id", "entity_id"]}
    settings = {**settings, "load_col": load_col, "topk": [2], "valid_metric": "NDCG@2"}
    checkpoint = run("CKE", "tiny", [], settings)["summary"]["checkpoint"]
    assert "do not hold" not in caplog.text
    run("CKE", "tiny", [], {**settings, "epochs": 2, "resume": checkpoint})
    assert "checkpoints do not hold how these interactions and triples were shuffled" in caplog.text
