"""One packed pass gives the loss and the gradients of RecBole's rows."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from recbole_prism.training.dataset import PLACE
from recbole_prism.training.encoders import PACKED
from recbole_prism.training.objective import packed_loss
from recbole_prism.training.packing import Windows, pack
from tests.test_models import rows
from tests.training.conftest import all_in_one_batch, assert_same_loss_and_gradients, encoder_of
from tests.training.test_field_backbones import FIELDS

MODELS = ["SASRec", "GRU4Rec", "PRISM_SASRec", "PRISM_GRU4Rec"]


@pytest.mark.parametrize("temperature", [None, 0.2])
@pytest.mark.parametrize("name", MODELS)
def test_packed_loss_and_gradients_equal_those_of_all_rows(exact_model, name, temperature):
    """User u0 has more items than MAX_ITEM_LIST_LENGTH; stride 1 keeps RecBole's rows for them."""
    settings = {"cosine_temperature": temperature, "training_mode": "packed"} if temperature else {}
    config, model, rows, prefixes = exact_model(name, train_neg_sample_args=None, **settings)
    lengths = rows.inter_feat["item_length"]
    assert lengths.max() == config["MAX_ITEM_LIST_LENGTH"] and (lengths == lengths.max()).sum() > 5
    batch = all_in_one_batch(prefixes, config["MAX_ITEM_LIST_LENGTH"], stride=1)
    assert len(batch) == len(rows)
    packed = packed_loss(model, batch, encoder_of(name))
    assert_same_loss_and_gradients(model, packed, model.calculate_loss(rows.inter_feat))


@pytest.mark.parametrize("name", ["SASRec", "PRISM_GRU4Rec"])
def test_bpr_loss_and_gradients_equal_those_of_all_rows(exact_model, name):
    config, model, rows, prefixes = exact_model(name, loss_type="BPR", train_neg_sample_args={"sample_num": 1})
    batch = all_in_one_batch(prefixes, config["MAX_ITEM_LIST_LENGTH"], stride=1)
    place_of_row = prefixes.inter_feat[PLACE].numpy()
    negative = torch.arange(len(rows)) % (rows.item_num - 1) + 1
    batch.negatives = negative[np.argsort(place_of_row)[np.searchsorted(np.sort(place_of_row), batch.target_index)]]
    rows.inter_feat["neg_item_id"] = negative
    packed = packed_loss(model, batch, encoder_of(name))
    assert_same_loss_and_gradients(model, packed, model.calculate_loss(rows.inter_feat))


@pytest.mark.parametrize(
    ("name", "scope"),
    [(name, "causal") for name in MODELS] + [("PRISM_SASRec", "sequence"), ("PRISM_GRU4Rec", "sequence")],
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_batch_of_rows_gives_their_loss_and_gradients(exact_model, cache, name, scope, data):
    """Batches of arbitrary rows, in any order, of any lengths, in any length groups."""
    if "made" not in cache:
        own = {"fusion_scope": scope} if name.startswith("PRISM") else {}
        cache["made"] = exact_model(name, train_neg_sample_args=None, **own)
    _, model, rows, prefixes = cache["made"]
    index = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=30, unique=True))
    growth = data.draw(st.sampled_from([1.0, 1.4, 3.0]))
    trained = np.ones(len(prefixes.base_feat), dtype=bool)
    windows = prefixes.row_windows(prefixes.inter_feat[index])
    batch = pack(prefixes.base_feat["item_id"].numpy(), windows, trained, growth)
    packed = packed_loss(model, batch, encoder_of(name))
    assert_same_loss_and_gradients(model, packed, model.calculate_loss(rows.inter_feat[index]))


@pytest.fixture
def cache() -> dict:
    """Models are made once per test, not once per example."""
    return {}


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec"])
def test_a_window_trains_the_prefixes_it_holds(exact_model, name):
    """All targets of one window: the rows of these prefixes, cut at the window's first item."""
    config, model, _, prefixes = exact_model(name, train_neg_sample_args=None)
    items = prefixes.base_feat["item_id"].numpy()
    trained = np.ones(len(items), dtype=bool)
    whole = pack(items, Windows(np.array([3]), np.array([9]), np.array([2])), trained)
    rows = Windows(np.full(7, 3), np.arange(3, 10), np.arange(2, 9))
    apart = pack(items, rows, trained)
    encode = encoder_of(name)
    assert sorted(whole.targets.tolist()) == sorted(apart.targets.tolist())
    assert_same_loss_and_gradients(model, packed_loss(model, whole, encode), packed_loss(model, apart, encode))


@pytest.mark.parametrize("name", sorted(PACKED))
def test_a_packed_pass_drops_where_recboles_does(build, name):
    _, model, _ = build(name, **FIELDS)
    calls = Counter()
    for path, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda *_, path=path: calls.update([path]))
    model.train()
    interaction = rows([5, 5, 5])
    model(interaction["item_id_list"], interaction["item_length"])
    of_recbole = Counter(calls)
    calls.clear()
    items, lengths = interaction["item_id_list"].flatten().numpy(), np.full(3, 5)
    PACKED[name](model, pack(items, Windows(np.arange(3) * len(items) // 3, lengths, lengths - 1)))
    assert calls == of_recbole and of_recbole
