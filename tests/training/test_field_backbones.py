"""Packed training of the backbones that embed fields of the .item file."""

from __future__ import annotations

import pytest

from recbole_prism.config import PRISMError
from recbole_prism.models.table import BACKBONES
from recbole_prism.training.encoders import PACKED
from recbole_prism.training.modes import CAUSAL, NOT_PACKED, why_not_packed
from recbole_prism.training.objective import packed_loss
from tests.training.conftest import all_in_one_batch, assert_same_loss_and_gradients, encoder_of

FIELDS = {
    "train_neg_sample_args": None,
    "selected_features": ["category"],
    "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "category"]},
    "hidden_size": 8,
    "n_layers": 2,
}


@pytest.mark.parametrize("name", [f"{family}{n}" for n in ("SASRecF", "GRU4RecF", "FDSA") for family in ("", "PRISM_")])
def test_packed_loss_and_gradients_equal_those_of_all_rows(exact_model, name):
    config, model, rows, prefixes = exact_model(name, **FIELDS)
    batch = all_in_one_batch(prefixes, config["MAX_ITEM_LIST_LENGTH"], stride=1)
    assert len(batch) == len(rows)
    packed = packed_loss(model, batch, encoder_of(name))
    assert_same_loss_and_gradients(model, packed, model.calculate_loss(rows.inter_feat))


def test_every_backbone_is_packed_or_says_why_not():
    assert set(CAUSAL) == set(PACKED)
    assert set(CAUSAL) | set(NOT_PACKED) == set(BACKBONES) and not set(CAUSAL) & set(NOT_PACKED)


def test_asking_for_packed_training_of_another_backbone_tells_why(build):
    with pytest.raises(PRISMError, match="NextItNet is causal, but reads its last place whatever"):
        build("PRISM_NextItNet", training_mode="packed")
    assert "fusion_scope" in why_not_packed({"fusion_scope": "sequence"}, "FDSA")
