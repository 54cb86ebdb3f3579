"""Cold items reach the test and nothing else; features can be taken away from a trained model."""

import numpy as np
import pandas as pd
import pytest

from recbole_prism.compare.held_out import LEFT, cold_items, held_out, without_items
from recbole_prism.compare.plan import SHARED
from recbole_prism.report.record import POPULARITY, watched
from recbole_prism.run import recorded_trainers, run


def test_cold_items_are_drawn_by_token():
    tokens = ["[PAD]", *(f"i{n}" for n in range(50))]
    cold = {tokens[n] for n in np.flatnonzero(cold_items(tokens, 0.1))}
    turned = ["[PAD]", *reversed(tokens[1:])]
    assert len(cold) == 5 and cold == {turned[n] for n in np.flatnonzero(cold_items(turned, 0.1))}


def test_only_last_interactions_of_cold_items_stay():
    users = [1] * 5 + [2] * 5 + [3] * 3
    items = [9, 2, 3, 4, 9] + [1, 9, 3, 4, 5] + [1, 2, 9]
    frame = pd.DataFrame({"u": users, "i": items, "t": range(13)}).sample(frac=1, random_state=0)
    cold = np.zeros(10, bool)
    cold[9] = True
    left = without_items(frame, cold, "u", "i", "t")
    assert left[left.u == 1].i.tolist() == [2, 3, 4, 9]
    assert left[left.u == 2].i.tolist() == [1, 3, 4, 5]
    assert left[left.u == 3].i.tolist() == [1, 2] and LEFT == 3


@pytest.mark.parametrize("model", ["Pop", "SASRec", "PRISM_GRU4Rec"])
def test_cold_items_reach_neither_training_nor_validation(settings, model):
    extra = {"train_neg_sample_args": None} if model == "SASRec" else {}
    with watched() as record, held_out(0.3), recorded_trainers() as trainers:
        run(model, "tiny", [], {**SHARED, **settings, **extra, "report": False})
    dataset = record.dataset
    cold = cold_items(dataset.field2id_token["item_id"], 0.3)
    asked = [loader._dataset.inter_feat["item_id"].numpy() for loader in record.loaders]
    assert not cold[asked[0]].any() and not cold[asked[1]].any()
    columns = record.columns(trainers[-1])
    assert cold[asked[2]].any() and ((columns[POPULARITY] == 0) >= cold[asked[2]][: len(columns["users"])]).all()
    rows = record.loaders[2]._dataset.inter_feat
    if "item_id_list" in rows:
        assert not cold[rows["item_id_list"].numpy()].any()


def test_removed_features_are_put_back(settings):
    from recbole_prism.compare.removed import RATES, removed_features

    with watched() as record, recorded_trainers() as trainers:
        result = run("PRISM_SASRec", "tiny", [], {**settings, "report": False, "score_items": "content"})
    trainer = trainers[-1]
    before = {name: value.clone() for name, value in trainer.model.modalities.named_buffers()}
    removed = removed_features(trainer, record.loaders[2], seed=1)
    assert list(removed) == [str(rate) for rate in RATES]
    assert removed["0.0"] == pytest.approx(dict(result["test_result"]))
    assert all(value.equal(dict(trainer.model.modalities.named_buffers())[name]) for name, value in before.items())
    assert removed_features(trainer, record.loaders[2], seed=1) == removed


def test_nothing_to_remove_from_a_plain_model(settings):
    from recbole_prism.compare.removed import removed_features

    with watched() as record, recorded_trainers() as trainers:
        run("Pop", "tiny", [], {**settings, "report": False})
    assert removed_features(trainers[-1], record.loaders[2], seed=1) is None


def test_cold_items_need_times(settings):
    from recbole_prism.errors import PRISMError

    untimed = {**settings, "load_col": {"inter": ["user_id", "item_id"]}, "eval_args": {"order": "RO"}}
    with pytest.raises(PRISMError, match="cold_items: tiny has no interactions with times"), held_out(0.3):
        run("Pop", "tiny", [], {**SHARED, **untimed, "report": False})
