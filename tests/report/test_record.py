"""What is known of each test row is what the interactions say."""

import numpy as np
import pytest

from recbole_prism.compare.plan import SHARED
from recbole_prism.features import read_features
from recbole_prism.report.record import HISTORY, HISTORY_HAS, POPULARITY, TARGET_HAS, WEIGHT, watched
from recbole_prism.run import recorded_trainers, run


@pytest.fixture
def recorded(settings):
    """recorded(model) -> (columns of the test, trainer)."""

    def go(model, **overrides):
        with watched() as record, recorded_trainers() as trainers:
            run(model, "tiny", [], {**SHARED, **settings, "report": False, **overrides})
        return record.columns(trainers[-1]), trainers[-1]

    return go


def sequences(data_path) -> dict[str, list[str]]:
    """Items of each user in order of time, read without RecBole."""
    rows = [line.split("\t") for line in (data_path / "tiny" / "tiny.inter").read_text().splitlines()[1:]]
    by_user: dict = {}
    for user, item, _, _ in sorted(rows, key=lambda row: float(row[3])):
        by_user.setdefault(user, []).append(item)
    return by_user


@pytest.mark.parametrize("model", ["Pop", "SASRec", "PRISM_GRU4Rec"])
def test_history_and_popularity_are_those_of_the_interactions(recorded, data_path, model):
    columns, _ = recorded(model, **({"train_neg_sample_args": None} if model == "SASRec" else {}))
    users = sequences(data_path)
    trained = [item for items in users.values() for item in items[:-2]]
    assert sorted(columns["users"]) == sorted(users)
    for user, length, popularity in zip(columns["users"], columns[HISTORY], columns[POPULARITY], strict=True):
        assert length == len(users[user]) - 1
        assert popularity == trained.count(users[user][-1])


def test_coverage_is_that_of_the_feature_files_whatever_is_filled_in(recorded, data_path):
    columns, _ = recorded("PRISM_SASRec", missing="mean")
    has = set(read_features(data_path / "tiny" / "tiny.image.safetensors").item_ids)
    users = sequences(data_path)
    for n, user in enumerate(columns["users"]):
        history = users[user][:-1][-10:]
        assert columns[TARGET_HAS + "image"][n] == (users[user][-1] in has)
        assert columns[HISTORY_HAS + "image"][n] == pytest.approx(np.mean([item in has for item in history]))
    assert columns[TARGET_HAS + "text"].all()


@pytest.mark.parametrize("mode", ["packed", "rows"])
def test_weights_stand_beside_the_user_they_belong_to(recorded, mode):
    import torch

    columns, trainer = recorded("PRISM_SASRec", training_mode=mode)
    model = trainer.model.eval()
    dataset = trainer._eval_dataset
    rows = dataset.inter_feat
    for n in range(0, len(rows), 5):
        with torch.no_grad():
            model(rows["item_id_list"][n : n + 1], rows["item_length"][n : n + 1])
        found = [columns[WEIGHT + name][n] for name in model.fusion.names]
        assert found == pytest.approx(model.expert_weights[0].tolist(), abs=1e-5)


@pytest.mark.parametrize("model", ["PRISM_SASRec", "BPR"])
def test_drawn_items_are_the_same_in_every_evaluation(settings, model):
    """With several test items a user, whom RecBole then asks once."""
    ratio = {"split": {"RS": [0.6, 0.2, 0.2]}, "group_by": "user", "order": "TO", "mode": "uni5"}
    with watched() as record, recorded_trainers() as trainers:
        run(model, "tiny", [], {**SHARED, **settings, "report": False, "eval_args": ratio})
    columns, trainer = record.columns(trainers[-1]), trainers[-1]
    users = columns["users"].tolist()
    assert len(set(users)) == len(users) > 10 and len(columns["ndcg@10"]) == len(columns[HISTORY]) == len(users)
    first, second = (trainer.evaluate(record.loaders[2], load_best_model=False, show_progress=False) for _ in range(2))
    assert first == second and 0 < first["ndcg@10"] < 1


def test_of_several_test_items_each_has_its_own_history(recorded, data_path):
    ratio = {"split": {"RS": [0.6, 0.2, 0.2]}, "group_by": "user", "order": "TO", "mode": "full"}
    columns, _ = recorded("SASRec", train_neg_sample_args=None, eval_args=ratio)
    n_tested = []
    for user, items in sequences(data_path).items():
        lengths = sorted(columns[HISTORY][columns["users"] == user].tolist())
        assert lengths == list(range(len(items) - len(lengths), len(items)))
        n_tested.append(len(lengths))
    assert max(n_tested) > 1


def test_recbole_is_as_before_afterwards(recorded):
    import recbole.quick_start.quick_start as quick_start
    from recbole.evaluator import Evaluator

    before = Evaluator.evaluate, quick_start.data_preparation
    recorded("Pop")
    assert before == (Evaluator.evaluate, quick_start.data_preparation)
