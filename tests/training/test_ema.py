"""The moving average of the weights."""

from __future__ import annotations

import pytest
import torch
from recbole.utils import get_trainer

from recbole_prism import PRISMError

SETTINGS = {"topk": [20], "valid_metric": "Recall@20", "metrics": ["Recall", "NDCG"], "stopping_step": 100}


def start(build, name: str, **overrides):
    config, model, loaders = build(name, **SETTINGS, **overrides)
    return get_trainer(config["MODEL_TYPE"], name)(config, model), loaders


def fit(build, name: str, resume: str | None = None, **overrides):
    trainer, loaders = start(build, name, **overrides)
    if resume:
        trainer.resume_checkpoint(resume)
    trainer.fit(loaders[0], loaders[1], verbose=False)
    return trainer, loaders


@pytest.mark.parametrize("name", ["PRISM_SASRec", "SASRec", "PRISM_NARM"])
def test_between_epochs_the_model_holds_the_average_of_its_steps(build, name):
    mode = "packed" if name != "PRISM_NARM" else "rows"
    trainer, loaders = start(build, name, training_mode=mode, ema_decay=0.6, epochs=3)
    average, n = [p.detach().double().clone() for p in trainer.model.parameters()], 0

    def follow(*_):
        nonlocal n
        decay = min(0.6, (1 + n) / (10 + n))
        for mean, weight in zip(average, trainer.model.parameters(), strict=True):
            mean.mul_(decay).add_(weight.detach().double(), alpha=1 - decay)
        n += 1

    trainer.optimizer.register_step_post_hook(follow)
    trainer.fit(loaders[0], loaders[1], verbose=False)
    assert n >= 3
    for mean, weight in zip(average, trainer.model.parameters(), strict=True):
        torch.testing.assert_close(weight.double(), mean, rtol=1e-5, atol=1e-6)


def test_training_itself_does_not_see_the_average(build):
    plain, _ = fit(build, "PRISM_SASRec", epochs=3)
    averaged, _ = fit(build, "PRISM_SASRec", epochs=3, ema_decay=0.9)
    assert averaged.train_loss_dict == plain.train_loss_dict
    for current, weight in zip(averaged._current, plain.model.parameters(), strict=True):
        assert torch.equal(current, weight)
    held = zip(averaged.model.parameters(), averaged._current, strict=True)
    assert not any(torch.equal(average, current) for average, current in held)


def test_a_checkpoint_holds_what_was_validated(build):
    trainer, loaders = fit(build, "PRISM_SASRec", epochs=3, ema_decay=0.9)
    again, _ = start(build, "PRISM_SASRec")  # without the key: what recommend and a later test load
    result = again.evaluate(loaders[1], load_best_model=True, model_file=trainer.saved_model_file)
    assert dict(result) == dict(trainer.best_valid_result)


@pytest.mark.parametrize("mode", ["packed", "rows"])
def test_a_resumed_run_equals_an_uninterrupted_one(build, mode):
    settings = {"training_mode": mode, "ema_decay": 0.9}
    whole, _ = fit(build, "PRISM_SASRec", epochs=4, **settings)
    half, _ = fit(build, "PRISM_SASRec", epochs=2, **settings)
    resumed, _ = fit(build, "PRISM_SASRec", resume=half.saved_model_file, epochs=4, **settings)
    assert resumed.start_epoch == 2
    assert resumed.train_loss_dict == {epoch: whole.train_loss_dict[epoch] for epoch in (2, 3)}
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_run_goes_on_from_before_its_first_epoch(build):
    whole, _ = fit(build, "PRISM_SASRec", epochs=2, ema_decay=0.9)
    none, _ = fit(build, "PRISM_SASRec", epochs=0, ema_decay=0.9)
    none._save_checkpoint(-1, verbose=False)
    resumed, _ = fit(build, "PRISM_SASRec", resume=none.saved_model_file, epochs=2, ema_decay=0.9)
    assert resumed.start_epoch == 0 and resumed.train_loss_dict == whole.train_loss_dict


def test_a_decay_out_of_range_is_refused(build):
    for name in ("PRISM_SASRec", "SASRec"):
        with pytest.raises(PRISMError, match="ema_decay: 1 is not allowed; must be a number between 0 and 1"):
            build(name, training_mode="packed", ema_decay=1)
