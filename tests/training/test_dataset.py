"""``PrefixDataset`` holds RecBole's rows, to the bit, without their lists."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.dataset import SequentialDataset
from recbole.quick_start import load_data_and_model
from recbole.utils import get_trainer

from recbole_prism import PRISMError
from recbole_prism.training.dataset import PLACE, PrefixDataset, require_prefixes

SPLITS = [{"LS": "valid_and_test"}, {"RS": [0.8, 0.1, 0.1]}]


def make_config(settings, **overrides):
    return Config(model="PRISM_SASRec", dataset="tiny", config_dict={**settings, "load_col": None, **overrides})


@pytest.mark.parametrize("split", SPLITS)
def test_rows_equal_those_of_recbole_to_the_bit(settings, split):
    eval_args = {"split": split, "order": "TO", "group_by": "user", "mode": "full"}
    config = make_config(settings, eval_args=eval_args, normalize_all=True)
    theirs, ours = SequentialDataset(config).build(), PrefixDataset(config).build()
    for number, (rows, prefixes) in enumerate(zip(theirs, ours, strict=True)):
        index = np.random.default_rng(0).permutation(len(rows))
        expected, got = rows[index], prefixes[index]
        assert len(rows) == len(prefixes) and set(got.columns) == {*expected.columns, PLACE}
        for name in expected.columns:
            assert got[name].dtype == expected[name].dtype and torch.equal(got[name], expected[name]), name
        assert ("item_id_list" in prefixes.inter_feat) == (number > 0), "training rows have no lists"
        assert rows.item_counter == prefixes.item_counter and rows.user_counter == prefixes.user_counter
        for field in (None, "rating"):
            assert (rows.inter_matrix("csr", field) != prefixes.inter_matrix("csr", field)).nnz == 0
    assert torch.equal(theirs[0][3]["item_id_list"], ours[0][3]["item_id_list"])


@pytest.mark.parametrize("kind", [np.array, list, torch.tensor])
def test_a_mask_chooses_rows(build, kind):
    dataset = build("PRISM_SASRec")[2][2]._dataset
    mask = [n in (1, 3) for n in range(len(dataset))]
    chosen, expected = dataset[kind(mask)], dataset[np.array([1, 3])]
    assert len(chosen) == 2
    assert all(torch.equal(chosen[name], expected[name]) for name in expected.columns)


def test_the_train_loader_gives_recboles_batches_row_by_row(build, settings):
    _, _, ours = build("PRISM_SASRec", training_mode="rows", shuffle=False)
    _, _, theirs = build("SASRec", train_neg_sample_args=None, shuffle=False)
    for expected, got in zip(theirs[0], ours[0], strict=True):
        assert all(torch.equal(got[name], expected[name]) for name in expected.columns)


def test_saved_datasets_and_loaders_are_found_again(settings, tmp_path):
    config = make_config(settings, save_dataset=True, save_dataloaders=True)
    first = data_preparation(config, create_dataset(config))
    assert (tmp_path / "saved" / "tiny-PrefixDataset.pth").is_file()
    again = data_preparation(config, create_dataset(config))
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a._dataset[np.arange(5)]["item_id_list"], b._dataset[np.arange(5)]["item_id_list"])
    assert again[0]._dataset.sequences().trained.sum() == len(again[0]._dataset)


def test_a_checkpoint_brings_back_data_and_model(build):
    config, model, loaders = build("PRISM_GRU4Rec")
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.fit(loaders[0], loaders[1], verbose=False)
    result = trainer.evaluate(loaders[2])
    config, model, dataset, train, _, test = load_data_and_model(trainer.saved_model_file)
    assert config["training_mode"] == "packed" and isinstance(dataset, PrefixDataset)
    again = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    assert again.evaluate(test, load_best_model=False) == result


def test_rows_that_were_made_elsewhere_are_refused(build):
    config, _, _ = build("SASRec", train_neg_sample_args=None)
    with pytest.raises(PRISMError, match=r"this dataset \(SequentialDataset\) holds rows"):
        require_prefixes(SequentialDataset(config).build()[0])
