"""Our evaluation gives RecBole's metrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recbole.evaluator import Collector, Evaluator
from recbole.evaluator.register import metric_types
from recbole.trainer import Trainer
from recbole.utils import EvaluatorType, get_trainer

from recbole_prism.training.dataset import PLACE
from recbole_prism.training.evaluation import ChunkCollector, ScoreChunks, row_histories

RANKING = sorted(name for name, kind in metric_types.items() if kind == EvaluatorType.RANKING)
SOME = [name for name in RANKING if name != "gauc"]


@pytest.mark.parametrize("metrics", [RANKING, SOME, ["recall", "ndcg", "mrr"]], ids=["all", "all but gauc", "top k"])
@pytest.mark.parametrize("levels", [3, 10**6], ids=["ties", "no ties"])
def test_every_ranking_metric_of_recbole_has_the_same_value(build, metrics, levels):
    config, _, loaders = build("PRISM_SASRec", metrics=metrics, topk=[1, 5, 10], valid_metric="recall@5")
    torch.manual_seed(0)
    n_items = loaders[0]._dataset.item_num
    scores = torch.randint(0, levels, (300, n_items)).float()
    scores[:, 0] = -torch.inf
    positive = torch.randint(1, n_items, (300,))
    results = []
    for collector in (Collector(config), ChunkCollector(config)):
        collector.data_collect(loaders[0])
        for part in (slice(0, 130), slice(130, 300)):
            given = scores[part].clone()
            if isinstance(collector, ChunkCollector):
                given = ScoreChunks([slice(0, 50), slice(50, len(given))], lambda rows, all=given: all[rows])
            index = torch.arange(part.stop - part.start)
            collector.eval_batch_collect(given, index, index, positive[part])
        results.append(Evaluator(config).evaluate(collector.get_data_struct()))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("PRISM_SASRec", {"training_mode": "packed"}),
        ("PRISM_GRU4Rec", {"training_mode": "packed"}),
        ("SASRec", {"training_mode": "packed"}),
        ("SASRec", {"training_mode": "rows"}),
        ("PRISM_SASRec", {"fusion_scope": "sequence"}),
        ("PRISM_GRU4Rec", {"fusion_scope": "sequence", "missing": "mean"}),
    ],
)
def test_scores_and_results_of_a_trained_model_are_those_of_its_rows(build, name, overrides):
    settings = {**overrides, "topk": [5, 10], "metrics": SOME, "eval_batch_size": 7}
    config, model, loaders = build(name, epochs=2, learning_rate=0.01, **settings)
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
    trainer.fit(loaders[0], loaders[1], verbose=False)
    model.eval()
    with torch.no_grad():
        for loader in loaders[1:]:
            rows = loader._dataset[np.arange(len(loader._dataset))]
            packed = trainer._encode_rows(rows) @ model.item_embedding.weight.t()
            torch.testing.assert_close(packed, model.full_sort_predict(rows), rtol=1e-5, atol=1e-5)
    result = trainer.evaluate(loaders[2], load_best_model=False)
    plain = Trainer(config, model)
    plain.eval_collector.data_collect(loaders[0])
    assert plain.evaluate(loaders[2], load_best_model=False) == result


@pytest.mark.parametrize("name", ["PRISM_SASRec", "PRISM_BERT4Rec"])
def test_small_chunks_change_nothing(build, name, monkeypatch):
    config, model, loaders = build(name)
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
    whole = trainer.evaluate(loaders[2], load_best_model=False)
    weights = trainer.mean_expert_weights
    monkeypatch.setattr("recbole_prism.training.evaluation.SCORES", {"cpu": 45})
    monkeypatch.setattr("recbole_prism.training.evaluation.TOKENS", {"cpu": 9})
    assert trainer.evaluate(loaders[2], load_best_model=False) == whole
    assert trainer.mean_expert_weights == pytest.approx(weights, abs=1e-6)


def test_masking_the_history_takes_all_earlier_items_off_the_ranking(build):
    config, model, loaders = build("PRISM_SASRec", repeatable=False, MAX_ITEM_LIST_LENGTH=3)
    test = loaders[2]._dataset
    interaction = test[np.arange(len(test))]
    rows, items = row_histories(test, interaction, interaction["item_id"])
    users, base = test.base_feat["user_id"], test.base_feat["item_id"]
    for row, (place, user) in enumerate(zip(interaction[PLACE], interaction["user_id"], strict=True)):
        earlier = set(base[:place][users[:place] == user].tolist()) - {interaction["item_id"][row].item()}
        assert set(items[rows == row].tolist()) == earlier
    trainer = get_trainer(config["MODEL_TYPE"], "PRISM_SASRec")(config, model)
    trainer._eval_dataset, trainer.tot_item_num = test, test.item_num
    model.eval()
    _, chunks, _, positive = trainer._full_sort_batch_eval(next(iter(loaders[2])))
    ((_, scores),) = list(chunks)
    assert (scores[rows, items] == -torch.inf).all()
    assert torch.isfinite(scores.gather(1, positive[:, None])).all()


def test_recbole_still_refuses_to_mask_the_history_of_its_own_models(build):
    with pytest.raises(ValueError, match="repeatable"):
        build("SASRec", repeatable=False, train_neg_sample_args=None)


def test_drawing_candidates_leaves_the_numbers_of_training_alone(build):
    protocol = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "uni3"}
    settings = {"eval_args": protocol, "topk": [1], "metrics": ["Recall"], "valid_metric": "Recall@1"}
    config, model, loaders = build("PRISM_SASRec", **settings)
    trainer = get_trainer(config["MODEL_TYPE"], "PRISM_SASRec")(config, model)
    results = set()
    for seed in range(6):
        np.random.seed(seed)
        expected = np.random.random(3)
        np.random.seed(seed)
        results.add(tuple(trainer.evaluate(loaders[1], load_best_model=False).items()))
        assert (np.random.random(3) == expected).all()
    assert len(results) == 1
