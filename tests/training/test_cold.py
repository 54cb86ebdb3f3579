"""Items without a training interaction get embeddings that their features tell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recbole.utils import get_trainer

from recbole_prism import PRISMError
from recbole_prism.feature_map import FeatureMap
from recbole_prism.recommend import Recommender
from recbole_prism.recommend.standin import model_features
from recbole_prism.training.cold import items_of_training
from tests.dataset_made import make_cold

SETTINGS = {"topk": [10], "valid_metric": "Recall@10", "stopping_step": 100, "epochs": 2}
COLD = ["i3", "i7", "i20"]


@pytest.fixture
def start(build, data_path):
    """start(name, **overrides) -> (trainer, loaders) of data in which each of COLD is the last item of one user."""
    make_cold(data_path, COLD)

    def make(name: str, **overrides):
        config, model, loaders = build(name, **{**SETTINGS, **overrides})
        return get_trainer(config["MODEL_TYPE"], name)(config, model), loaders

    return make


@pytest.fixture
def fit(start):
    def make(name: str, resume: str | None = None, **overrides):
        trainer, loaders = start(name, **overrides)
        if resume:
            trainer.resume_checkpoint(resume)
        trainer.fit(loaders[0], loaders[1], verbose=False)
        return trainer, loaders

    return make


def ids(loaders, tokens) -> list[int]:
    dataset = loaders[0]._dataset
    return sorted(dataset.token2id(dataset.iid_field, tokens))


@pytest.mark.parametrize("name", ["PRISM_SASRec", "PRISM_FEARec", "PRISM_NARM"])
def test_items_of_training_are_those_of_rows_and_histories(start, name):
    _, loaders = start(name)
    dataset = loaders[0]._dataset
    rows = dataset[torch.arange(len(dataset))]
    expected = np.union1d(rows["item_id"].numpy(), rows["item_id_list"].numpy())
    assert np.flatnonzero(items_of_training(dataset)).tolist() == expected[expected > 0].tolist()
    assert not items_of_training(dataset)[ids(loaders, COLD)].any()


@pytest.mark.parametrize("name", ["PRISM_SASRec", "PRISM_BERT4Rec", "PRISM_NARM"])
def test_cold_rows_are_predicted_from_the_others(fit, name):
    trainer, loaders = fit(name, cold_item_spread=0.5)
    dataset, model = loaders[0]._dataset, trainer.model
    seen, features = items_of_training(dataset), model_features(model, dataset.item_num)
    cold = trainer._cold.numpy()
    assert set(ids(loaders, COLD)) <= set(cold) and not seen[cold].any() and seen.sum() > 8
    learned = FeatureMap(features, known=np.flatnonzero(seen), asked=cold)
    for key in {"item_embedding.weight", "output_bias"} & dict(model.named_parameters()).keys():
        table = dict(model.named_parameters())[key].detach().numpy()
        np.testing.assert_allclose(table[cold], learned.predict(table, 0.5), rtol=1e-5, atol=1e-7)


def test_training_itself_does_not_see_predicted_rows(fit):
    plain, loaders = fit("PRISM_SASRec", epochs=3)
    predicted, _ = fit("PRISM_SASRec", epochs=3, cold_item_spread=1)
    assert predicted.train_loss_dict == plain.train_loss_dict
    seen = torch.from_numpy(items_of_training(loaders[0]._dataset))
    one, other = (trainer.model.item_embedding.weight.detach() for trainer in (plain, predicted))
    assert torch.equal(one[seen], other[seen]) and not torch.equal(one, other)
    assert torch.equal(predicted._trained_rows["item_embedding.weight"], one[predicted._cold])


def test_a_checkpoint_scores_as_it_was_tested(start, fit):
    trainer, loaders = fit("PRISM_SASRec", cold_item_spread=1)
    tested = trainer.evaluate(loaders[2], load_best_model=False)
    again, _ = start("PRISM_SASRec")  # without the key
    assert again.evaluate(loaders[2], load_best_model=True, model_file=trainer.saved_model_file) == tested
    rows = Recommender.load(trainer.saved_model_file).loaded.model.item_embedding.weight
    assert torch.equal(rows, trainer.model.item_embedding.weight)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_resumed_run_equals_an_uninterrupted_one(fit, ema_decay):
    settings = {"cold_item_spread": 0.5, "ema_decay": ema_decay}
    whole, _ = fit("PRISM_SASRec", epochs=4, **settings)
    half, _ = fit("PRISM_SASRec", epochs=2, **settings)
    resumed, _ = fit("PRISM_SASRec", resume=half.saved_model_file, epochs=4, **settings)
    assert resumed.start_epoch == 2
    assert resumed.train_loss_dict == {epoch: whole.train_loss_dict[epoch] for epoch in (2, 3)}
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_item_without_features_keeps_its_row(fit):
    """i20 has no image."""
    plain, loaders = fit("PRISM_SASRec", modalities=["image"])
    predicted, _ = fit("PRISM_SASRec", modalities=["image"], cold_item_spread=1)
    same = (plain.model.item_embedding.weight == predicted.model.item_embedding.weight).all(1)
    assert same[ids(loaders, ["i20"])].all() and not same[ids(loaders, ["i3", "i7"])].any()


@pytest.mark.parametrize("value", [1.5, -0.1, True, "far"])
def test_a_spread_out_of_range_is_refused(build, value):
    with pytest.raises(PRISMError, match="cold_item_spread: .* must be a number from 0 to 1, or nothing"):
        build("PRISM_SASRec", cold_item_spread=value)


def test_models_with_a_table_of_their_own_refuse_it(build):
    with pytest.raises(PRISMError, match="cold_item_spread is impossible with HGN"):
        build("PRISM_HGN", cold_item_spread=0)
