"""Named losses in RecBole's log, checkpoints that are whole or not there, expert weights of an evaluation."""

import logging
import os

import pytest
import torch
from recbole.utils import get_trainer

from recbole_prism.errors import PRISMError


@pytest.fixture
def trained(build):
    def train(name="PRISM_SASRec", **overrides):
        config, model, loaders = build(name, **overrides)
        trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
        return trainer, loaders

    return train


def test_losses_reach_the_log_under_their_names(trained, caplog):
    trainer, (train, valid, _) = trained(lambda_redundancy=0)
    with caplog.at_level(logging.INFO):
        trainer.fit(train, valid, saved=False)
    line = next(message for message in caplog.messages if "training" in message and "recommendation" in message)
    for name in ("recommendation", "unique_image", "unique_text", "synergy"):
        assert name in line
    assert "redundancy" not in line


def test_losses_reach_tensorboard_under_their_names(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer, (train, valid, _) = trained()
    trainer.fit(train, valid, saved=False)
    trainer.tensorboard.flush()
    events = EventAccumulator(trainer.tensorboard.log_dir)
    events.Reload()
    assert {"Loss/Train", "Loss/Train/recommendation", "Loss/Train/synergy"} <= set(events.Tags()["scalars"])


def test_mean_expert_weights_are_those_of_the_evaluated_rows(trained):
    trainer, (train, valid, test) = trained()
    trainer.fit(train, valid, saved=False)
    trainer.evaluate(test, load_best_model=False)
    weights = trainer.mean_expert_weights
    assert list(weights) == ["unique_image", "unique_text", "synergy", "redundancy"]
    assert sum(weights.values()) == pytest.approx(1)
    model, parts = trainer.model, []
    for batch in test:
        with torch.no_grad():
            model.full_sort_predict(batch[0])
        parts.append(model.expert_weights)
    torch.testing.assert_close(torch.tensor(list(weights.values())), torch.cat(parts).mean(0))


def test_rows_without_any_modality_have_no_weights(trained, monkeypatch):
    """There is nothing to weigh: f is 0."""
    trainer, (_, _, test) = trained(fusion="gate")
    modalities = trainer.model.modalities
    for name in modalities.names:
        getattr(modalities, f"covered_{name}")[4:] = False
    trainer.evaluate(test, load_best_model=False)
    without = ~trainer.expert_weights.any(1)
    assert 0 < without.sum() < len(without)
    assert sum(trainer.mean_expert_weights.values()) == pytest.approx(1)


def test_a_full_disk_while_saving_is_one_message_and_no_half_file(trained, monkeypatch):
    trainer, (train, valid, _) = trained()

    def full(_, path, **__):
        with open(path, "wb") as file:
            file.write(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file: No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(PRISMError, match=r"\.pth: the checkpoint cannot be written \(.*No space left"):
        trainer.fit(train, valid, saved=True)
    assert os.listdir(trainer.checkpoint_dir) == []


def test_a_crash_while_saving_keeps_the_last_checkpoint(trained, monkeypatch):
    trainer, _ = trained()
    trainer._save_checkpoint(0, verbose=False)
    before = open(trainer.saved_model_file, "rb").read()

    def crash(_, path, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", crash)
    with pytest.raises(KeyboardInterrupt):
        trainer._save_checkpoint(1, verbose=False)
    assert open(trainer.saved_model_file, "rb").read() == before


def test_a_checkpoint_of_another_dataset_is_refused(trained, tmp_path, data_path):
    from tests.dataset_made import write_dataset

    trainer, _ = trained()
    trainer._save_checkpoint(0, verbose=False)
    write_dataset(data_path, "other", seed=5)
    other, _ = trained(dataset="other")
    with pytest.raises(PRISMError, match="trained on other items"):
        other.resume_checkpoint(trainer.saved_model_file)
    fewer, _ = trained(item_inter_num_interval="[8,inf)")
    with pytest.raises(PRISMError, match="does not fit PRISM_SASRec .*size mismatch"):
        fewer.resume_checkpoint(trainer.saved_model_file)
    with pytest.raises(PRISMError, match="no such checkpoint"):
        fewer.resume_checkpoint(tmp_path / "absent.pth")


def test_a_checkpoint_of_another_model_is_refused_by_recboles_models_too(trained, build):
    from recbole.utils import get_trainer

    trainer, _ = trained()
    trainer._save_checkpoint(0, verbose=False)
    config, model, _ = build("SASRec", training_mode="packed", train_neg_sample_args=None)
    with pytest.raises(PRISMError, match="does not fit SASRec on this dataset .*another model"):
        get_trainer(config["MODEL_TYPE"], "SASRec")(config, model).resume_checkpoint(trainer.saved_model_file)


def test_resuming_goes_on_where_training_stopped(trained):
    first, (train, valid, _) = trained(epochs=2)
    first.fit(train, valid, saved=True)
    again, (train, valid, _) = trained(epochs=4)
    again.resume_checkpoint(first.saved_model_file)
    again.fit(train, valid, saved=True)
    assert again.start_epoch >= 1 and 3 in again.train_loss_dict and 0 not in again.train_loss_dict


@pytest.mark.parametrize("settings_of", [{"loss_type": "sampled", "num_negatives": 3}, {"ema_decay": 0.9}])
def test_recboles_own_trainer_cannot_do_what_the_configuration_asks(build, settings_of):
    from recbole.trainer import Trainer

    config, model, loaders = build("PRISM_SASRec", **settings_of)
    with pytest.raises(
        PRISMError, match=f"{next(iter(settings_of))}.*: needs our trainer; .* recbole_prism.PRISMTrainer"
    ):
        Trainer(config, model).fit(loaders[0], loaders[1], verbose=False)


def test_recboles_own_trainer_trains_rows_with_a_warning(build, caplog):
    from recbole.trainer import Trainer

    config, model, loaders = build("PRISM_SASRec")
    Trainer(config, model).fit(loaders[0], loaders[1], verbose=False)
    said = [record.message for record in caplog.records if "without effect" in record.message]
    assert len(said) == 1 and said[0].startswith("training_mode: packed and target_smoothing: without effect")


def test_trainers_and_datasets_of_recboles_models_stay_classes(build):
    from recbole.utils import get_trainer

    made = []

    class Mine(get_trainer(None, "SASRec")):
        def _train_epoch(self, *args, **kwargs):
            made.append(1)
            return super()._train_epoch(*args, **kwargs)

    config, model, loaders = build("SASRec", train_neg_sample_args=None)
    Mine(config, model).fit(loaders[0], loaders[1], verbose=False)
    assert made == [1]


def test_packed_training_asks_for_rows_it_can_read(build):
    """A dataset that RecBole's own class has made."""
    from recbole.data import data_preparation
    from recbole.data.dataset import SequentialDataset
    from recbole.utils import get_trainer

    config, model, _ = build("PRISM_SASRec")
    train, valid, _ = data_preparation(config, SequentialDataset(config))
    with pytest.raises(PRISMError, match="training_mode needs interactions, and this dataset .* holds rows"):
        get_trainer(config["MODEL_TYPE"], "PRISM_SASRec")(config, model).fit(train, valid, verbose=False)
