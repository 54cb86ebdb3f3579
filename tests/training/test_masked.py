"""BERT4Rec: RecBole's loss, scores and distribution of masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recbole.data.transform import MaskItemSequence, construct_transform
from recbole.model.sequential_recommender.bert4rec import BERT4Rec
from recbole.trainer import Trainer
from recbole.utils import get_trainer

from recbole_prism.training.masking import FewerRows, MaskItemSequenceFast, append
from tests.training.conftest import NO_DROPOUT, assert_same_loss_and_gradients


def masked_rows(build, **overrides):
    """PRISM_BERT4Rec in float64 and rows masked by RecBole's own transform."""
    config, model, loaders = build("PRISM_BERT4Rec", **{**NO_DROPOUT, "ft_ratio": 0, "mask_ratio": 0.4, **overrides})
    model = model.double().train()
    model.beyond_recbole = ()  # as with our trainer
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.2)
    dataset = loaders[0]._dataset
    rows = MaskItemSequence(config)(dataset, dataset[np.arange(len(dataset))])
    return config, model, rows, loaders


@pytest.mark.parametrize("overrides", [{}, {"loss_type": "BPR"}, {"fusion_scope": "causal"}], ids=str)
def test_loss_and_gradients_are_those_of_recbole(build, fixed_noise, monkeypatch, overrides):
    _, model, rows, _ = masked_rows(build, **overrides)
    assert (rows["MASK_INDEX"] == 0).any() and (rows["MASK_INDEX"] > 0).any()
    monkeypatch.setattr(BERT4Rec, "multi_hot_embed", _double(BERT4Rec.multi_hot_embed))
    theirs = model.with_expert_losses(BERT4Rec.calculate_loss(model, rows))
    assert_same_loss_and_gradients(model, model.calculate_loss(rows), theirs)


def _double(method):
    return lambda *args: method(*args).double()


def test_negatives_are_drawn_where_nothing_is_masked_too(build):
    """Processes draw from generators that must stay alike, whatever their shares of a batch."""
    _, model, rows, _ = masked_rows(build, loss_type="sampled", num_negatives=8)
    drawn, sampler = [], model._sampler
    model.sample_negatives(sampler, 8)
    draw, sampler.draw = sampler.draw, lambda *args: drawn.append(args) or draw(*args)
    some = model.calculate_loss(rows)
    rows["MASK_INDEX"] = torch.zeros_like(rows["MASK_INDEX"])
    none = model.calculate_loss(rows)
    assert len(drawn) == 2
    assert all(torch.isfinite(loss) for loss in (*some, *none)) and some[0] > 0


@pytest.mark.parametrize("overrides", [{}, {"loss_type": "BPR"}, {"loss_type": "sampled", "num_negatives": 8}], ids=str)
def test_where_nothing_is_masked_the_loss_is_zero(build, overrides):
    """RecBole's is 0 / 0."""
    _, model, rows, _ = masked_rows(build, **overrides)
    rows["MASK_INDEX"] = torch.zeros_like(rows["MASK_INDEX"])
    loss = model.calculate_loss(rows)[0]
    assert loss == 0
    loss.backward()
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)


def test_scores_are_those_of_recbole(build):
    _, model, _, loaders = masked_rows(build)
    model.eval()
    rows = loaders[2]._dataset[np.arange(len(loaders[2]._dataset))]
    with torch.no_grad():
        seq = BERT4Rec.reconstruct_test_data(model, rows["item_id_list"], rows["item_length"])
        assert torch.equal(model.reconstruct_test_data(rows["item_id_list"], rows["item_length"]), seq)
        torch.testing.assert_close(model.full_sort_predict(rows), BERT4Rec.full_sort_predict(model, rows))
        torch.testing.assert_close(model.predict(rows), BERT4Rec.predict(model, rows))


@pytest.mark.parametrize("overrides", [{}, {"loss_type": "sampled", "num_negatives": 8}, {"loss_type": "BPR"}], ids=str)
def test_recboles_own_model_trains_as_ours_does_if_asked(build, overrides):
    """And what it leaves is RecBole's: the same parameters, the same scores."""
    if overrides.get("loss_type") == "BPR":
        overrides = {**overrides, "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}}
    config, model, loaders = build("BERT4Rec", training_mode="rows", epochs=2, **overrides)
    assert type(model) is BERT4Rec
    trainer = get_trainer(config["MODEL_TYPE"], "BERT4Rec")(config, model)
    best, _ = trainer.fit(loaders[0], loaders[1], verbose=False)
    assert (
        type(loaders[0].transform) is MaskItemSequenceFast and (model._sampler is not None) == config["sampled_softmax"]
    )
    theirs = BERT4Rec(config, loaders[0]._dataset)
    theirs.load_state_dict(torch.load(trainer.saved_model_file, weights_only=False)["state_dict"])
    rows = loaders[2]._dataset[np.arange(len(loaders[2]._dataset))]
    model.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model.eval().full_sort_predict(rows), theirs.eval().full_sort_predict(rows))
    config["training_mode"] = None
    recbole = Trainer(config, theirs)
    recbole.eval_collector.data_collect(loaders[0])
    assert recbole.evaluate(loaders[2], load_best_model=False) == trainer.evaluate(loaders[2], load_best_model=False)


@pytest.mark.parametrize("ft_ratio", [0, 1])
def test_masks_follow_recboles_distribution(build, ft_ratio):
    config, _, loaders = build("PRISM_BERT4Rec", mask_ratio=0.3, ft_ratio=ft_ratio)
    dataset = loaders[0]._dataset
    rows = dataset[np.repeat(np.arange(len(dataset)), 40)]
    theirs = MaskItemSequence(config)(dataset, dataset[np.repeat(np.arange(len(dataset)), 40)])
    ours = MaskItemSequenceFast(config)(dataset, rows)
    n_items = dataset.item_num
    assert set(ours.columns) == set(theirs.columns)
    for name in ("Mask_item_id_list", "Pos_item_id", "Neg_item_id", "MASK_INDEX"):
        assert ours[name].shape == theirs[name].shape and ours[name].dtype == theirs[name].dtype
    for name in ("MASK_INDEX", "Pos_item_id"):  # how often each place of the padded lists holds something
        a, b = ((batch[name] > 0).double().mean(0) for batch in (ours, theirs))
        torch.testing.assert_close(a, b, rtol=0, atol=0.02)
    share = [((b["Mask_item_id_list"] == n_items).sum(1) / b["item_length"]).mean().item() for b in (ours, theirs)]
    assert share[0] == pytest.approx(share[1], abs=0.01)
    real = ours["Pos_item_id"] > 0
    at = ours["MASK_INDEX"]
    assert torch.equal(ours["item_id_list"].gather(1, at)[real], ours["Pos_item_id"][real])
    assert (ours["Mask_item_id_list"].gather(1, at)[real] == n_items).all()
    negatives, row = ours["Neg_item_id"][real], real.nonzero()[:, 0]
    full = torch.tensor([len(set(r.tolist()) - {0}) == n_items - 1 for r in ours["item_id_list"]])
    assert not ((ours["item_id_list"][row] == negatives[:, None]).any(1) & ~full[row]).any()
    assert negatives.min() >= 1 and negatives.max() < n_items


@pytest.mark.parametrize("loss_type", ["CE", "sampled"])
def test_training_masks_fast_and_the_config_stays_recboles(build, loss_type):
    config, model, loaders = build("PRISM_BERT4Rec", loss_type=loss_type, epochs=2, num_negatives=8)
    trainer = get_trainer(config["MODEL_TYPE"], "PRISM_BERT4Rec")(config, model)
    trainer.fit(loaders[0], loaders[1], verbose=False)
    assert type(loaders[0].transform) is MaskItemSequenceFast
    assert type(construct_transform(config)) is MaskItemSequence
    assert all(np.isfinite(list(trainer.train_loss_dict.values())))


def test_fewer_rows_come_equally_often_and_predict_each_target_once(build):
    _, _, loaders = build("PRISM_BERT4Rec", training_mode="packed", MAX_ITEM_LIST_LENGTH=4)
    dataset = loaders[0]._dataset
    users, lengths = dataset.inter_feat["user_id"].numpy(), dataset.inter_feat["item_length"].numpy()
    rows = FewerRows(dataset, batch_size=16, mask_ratio=0.8, seed=3)
    drawn = [np.concatenate(list(rows)) for rows.epoch in range(3000)]
    sizes, counts = np.bincount(users), np.bincount(users[drawn[0]])
    masked = 0.8 * np.bincount(users, lengths) / np.maximum(sizes, 1)  # items in the mean row of each user
    assert all((np.bincount(users[epoch]) == counts).all() for epoch in drawn) and (counts < sizes).any()
    assert (counts <= sizes).all() and (counts * masked >= np.minimum(sizes, sizes * masked) - 1e-9).all()
    assert ((counts - 1) * masked < sizes)[sizes > 0].all()
    often = np.bincount(np.concatenate(drawn), minlength=len(users)) / len(drawn)
    np.testing.assert_allclose(often, (counts / np.maximum(sizes, 1))[users], atol=0.06)
    rows.epoch = 0
    assert list(rows) == list(rows) and (np.concatenate(list(rows)) == drawn[0]).all() and len(rows) == len(list(rows))
    assert all(0.8 * lengths[batch].sum() <= 16 + 0.8 * 4 for batch in rows)
    assert (drawn[0] != drawn[1]).any()


def test_no_more_rows_than_recbole_makes(build):
    _, _, loaders = build("PRISM_BERT4Rec")
    rows = FewerRows(loaders[0]._dataset, batch_size=100, mask_ratio=0.01, seed=1, shuffle=False)
    assert sorted(np.concatenate(list(rows))) == list(range(len(loaders[0]._dataset)))


def test_appending_shifts_full_rows():
    item_seq, lengths = torch.tensor([[3, 0, 0], [4, 5, 6]]), torch.tensor([1, 3])
    longer, more = append(item_seq, lengths, torch.tensor([7, 8]))
    assert longer.tolist() == [[3, 7, 0], [5, 6, 8]] and more.tolist() == [2, 3]
    assert item_seq.tolist() == [[3, 0, 0], [4, 5, 6]]


@pytest.mark.parametrize("name", ["BERT4Rec", "PRISM_BERT4Rec"])
def test_packed_fine_tuning_predicts_the_rows_target_which_nothing_shows(build, name):
    config, model, loaders = build(name, training_mode="packed", ft_ratio=1, MAX_ITEM_LIST_LENGTH=5)
    assert config["training_mode"] == "packed"
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
    seen = []
    calculate = model.calculate_loss
    model.calculate_loss = lambda rows: seen.append(rows) or calculate(rows)
    trainer.fit(loaders[0], verbose=False)
    assert type(seen[0]) is type(loaders[0]._dataset[np.arange(1)]) and len(seen) == len(loaders[0])
    for rows in seen:
        history, masked = rows["item_id_list"], rows["Mask_item_id_list"]
        assert torch.equal(rows["Pos_item_id"][:, -1], rows["item_id"]) and (rows["Pos_item_id"][:, :-1] == 0).all()
        expected = model.reconstruct_test_data(history, rows["item_length"])  # what evaluation reads: shifted by one
        full = rows["item_length"] == 5
        assert torch.equal(masked[full], expected[full])
        assert torch.equal(masked[~full, :1], history[~full, :1]) and ((masked == model.mask_token).sum(1) == 1).all()
        unmasked = torch.where(masked == model.mask_token, 0, masked)
        assert torch.equal(unmasked[~full], history[~full])
