"""Cells of .item files as vectors, those of new items as those of the dataset's."""

import numpy as np
import pytest
import torch

from recbole_prism import PRISMError
from recbole_prism.item_fields import ItemField

SETTINGS = {"ITEM_ID_FIELD": "item_id", "field_separator": "\t", "seq_separator": " ", "encoding": "utf-8"}


@pytest.mark.parametrize(
    "field, size, cells, expected, unknown",
    [
        (ItemField("x", "token", ["a", "b c"]), 2, ["b c", "d", ""], {"i0": [0, 1]}, ["d"]),
        (ItemField("x", "token_seq", ["a", "b"]), 2, ["b a e", "a  d", ""], {"i0": [1, 1], "i1": [1, 0]}, ["d", "e"]),
        (ItemField("x", "float"), 1, ["0", "nan", "-2.5"], {"i0": [0], "i2": [-2.5]}, []),
        (ItemField("x", "float_seq"), 2, ["1 2", "0 0", ""], {"i0": [1, 2]}, []),
    ],
)
def test_cells_become_vectors(tmp_path, field, size, cells, expected, unknown):
    contents, missed = field.read(write(tmp_path, cells), SETTINGS, size)
    assert dict(zip(contents.item_ids, contents.features.tolist(), strict=True)) == expected
    assert missed == unknown and contents.features.dtype == np.float32


def test_lists_of_another_size_are_refused(tmp_path):
    with pytest.raises(PRISMError, match="new.item: x of item 'i1' has 3 numbers, and the model knows 2"):
        ItemField("x", "float_seq").read(write(tmp_path, ["1 2", "1 2 3"]), SETTINGS, 2)


@pytest.mark.parametrize("kind, name", [("token", "category"), ("float", "price")])
def test_a_file_of_the_datasets_items_gives_their_features(build, data_path, kind, name):
    """What a new item gets is what an item of the dataset with the same cell has."""
    load_col = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "category", "price"]}
    config, model, loaders = build("PRISM_SASRec", modalities={name: name}, load_col=load_col, feature_scaling="none")
    field, values = model.modalities.fields[name], getattr(model.modalities, f"values_{name}").numpy()
    assert field.kind == kind
    contents, _ = field.read(data_path / "tiny" / "tiny.item", config.final_config_dict, values.shape[1])
    rows = loaders[0]._dataset.token2id("item_id", np.array(contents.item_ids))
    assert len(rows) == 20 and np.array_equal(values[rows], contents.features)


def test_numerical_features_of_recbole_are_the_numbers(build, data_path):
    """RecBole keeps such a field as [value, index]."""
    file = data_path / "tiny" / "tiny.item"
    file.write_text(file.read_text().replace("i1\tc1\t0.5", "i1\tc1\t"))
    load_col = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "category", "price"]}
    settings = {"modalities": {"price": "price"}, "load_col": load_col, "feature_scaling": "none"}
    plain = build("PRISM_SASRec", **settings)[1].modalities
    numerical = build("PRISM_SASRec", **settings, numerical_features=["price"])[1].modalities
    assert numerical.values_price.shape[1] == 1 and torch.equal(numerical.values_price, plain.values_price)
    assert np.array_equal(numerical.coverage["price"], plain.coverage["price"])
    assert not plain.coverage["price"][1:].all()
    with pytest.raises(PRISMError, match="'price' is in discretization"):
        bins = {"price": {"method": "LD"}}
        build("PRISM_SASRec", **settings, numerical_features=["price"], discretization=bins)


def write(folder, cells):
    file = folder / "new.item"
    file.write_text("\n".join(["item_id:token\tx:token", *(f"i{n}\t{cell}" for n, cell in enumerate(cells))]) + "\n")
    return file
