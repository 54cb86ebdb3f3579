"""What a checkpoint knows of its features, and items from which a modality is taken."""

import numpy as np
import pytest
import torch
from recbole.utils import FeatureSource, FeatureType

from recbole_prism.compare.held_out import held_out
from recbole_prism.compare.plan import SHARED
from recbole_prism.errors import PRISMError
from recbole_prism.features import read_features, write_features
from recbole_prism.recommend import Recommender
from recbole_prism.run import recorded_trainers, run


@pytest.mark.parametrize("missing", ["zero", "mean", "learned"])
def test_items_that_lack_a_modality_are_as_those_without_features(build, missing):
    _, model, loaders = build("PRISM_SASRec", missing=missing)
    modalities = model.eval().modalities
    without = loaders[0]._dataset.token2id("item_id", "i20")  # has no image
    with torch.no_grad():
        if missing == "learned":
            modalities.missing_vector["image"].normal_()
        projected, available = modalities()
        items = torch.zeros(len(projected), dtype=torch.bool)
        items[[1, 2, 3]] = True
        with modalities.lacking("image", items):
            reduced, left = modalities()
        for item in (1, 2, 3):
            torch.testing.assert_close(reduced[item, 0], projected[without, 0])
            assert left[item, 0] == available[without, 0] == (missing != "zero")
        assert torch.equal(reduced[~items], projected[~items]) and torch.equal(left[~items], available[~items])
        with modalities.lacking("image", items):  # what the model keeps for one set of weights knows of it, too
            torch.testing.assert_close(model.project_table()[0], reduced)
        torch.testing.assert_close(model.project_table()[0], projected)
        assert torch.equal(reduced[:, 1], projected[:, 1]) and not left[0].any()
        assert torch.equal(modalities()[0], projected)


def test_hidden_items_train_the_vector_of_missing_ones_even_where_none_is(build):
    """New items without features get that vector later."""
    _, model, _ = build("PRISM_SASRec", missing="learned", modality_dropout=0.5, modalities=["text"])
    assert model.modalities.coverage["text"][1:].all()
    projected, available = model.train().modalities()
    assert available[1:].all()
    projected.sum().backward()
    assert model.modalities.missing_vector["text"].grad.any()


@pytest.mark.parametrize("missing", ["zero", "error"])
def test_an_item_with_an_empty_cell_does_not_have_that_field(build, data_path, missing):
    """RecBole itself fills such a cell with the mean of the others."""
    file = data_path / "tiny" / "tiny.item"
    rows = [line.split("\t") for line in file.read_text().splitlines()]
    codes = [["code:float_seq"]] + [["0.5 1" if n % 2 else ""] for n in range(len(rows) - 1)]
    rows = [[*row[:2], "" if row[0] in ("i3", "i7") else row[2], *code] for row, code in zip(rows, codes, strict=True)]
    file.write_text("\n".join("\t".join(row) for row in rows) + "\n")
    settings = {
        "modalities": {"price": "price", "code": "code"},
        "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "price", "code"]},
        "missing": missing,
    }
    if missing == "error":
        with pytest.raises(PRISMError, match="2 of 20 items have no 'price' feature"):
            build("PRISM_SASRec", **settings)
        return
    _, model, loaders = build("PRISM_SASRec", **settings)
    lacking = np.flatnonzero(~model.modalities.coverage["price"])[1:]
    assert sorted(loaders[0]._dataset.id2token("item_id", lacking)) == ["i3", "i7"]
    assert model.modalities.coverage["code"].sum() == 10


def test_a_number_that_a_dataset_computes_is_there(build, monkeypatch):
    """It is no column of the .item file, so the file cannot say who has it."""
    from recbole.data.dataset import SequentialDataset

    load = SequentialDataset._data_processing

    def computed(self):
        load(self)
        self.item_feat["age"] = np.arange(len(self.item_feat), dtype=np.float32)
        self.set_field_property("age", FeatureType.FLOAT, FeatureSource.ITEM, 1)

    monkeypatch.setattr(SequentialDataset, "_data_processing", computed)
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "price"]}
    _, model, _ = build("PRISM_SASRec", modalities={"age": "age", "price": "price"}, load_col=columns, missing="error")
    assert model.modalities.coverage["age"][1:].all()


@pytest.mark.parametrize("scaling", ["standardize", "unit", "none"])
def test_features_are_scaled_as_the_checkpoints_were(build, scaling):
    """As where a dataset has got interactions since, from which the scaling would be fitted anew."""
    _, then, loaders = build("PRISM_SASRec", feature_scaling=scaling, missing="mean")
    inter = loaders[0]._dataset.inter_feat
    loaders[0]._dataset.inter_feat = inter[inter["item_id"] % 3 > 0]
    now = type(then)(loaders[0].config, loaders[0]._dataset)
    same = scaling != "standardize"
    for name in ("values_image", "values_text"):
        assert torch.equal(getattr(now.modalities, name), getattr(then.modalities, name)) == same
    now.load_state_dict(then.state_dict())
    with torch.no_grad():
        now.eval().project_table()
        now.load_other_parameter(then.other_parameter())
        torch.testing.assert_close(now.project_table(), then.eval().project_table())
    for name, scaled in now.modalities.scalings.items():
        assert np.array_equal(scaled.mean, then.modalities.scalings[name].mean)
    assert now.other_parameter().keys() == then.other_parameter().keys()


@pytest.fixture
def checkpoint(settings):
    """Of a run that held items out of training, as ``compare --cold-items`` does."""
    with held_out(0.4), recorded_trainers() as trainers:
        run("PRISM_SASRec", "tiny", [], {**SHARED, **settings, "report": False})
    return trainers[-1].saved_model_file, trainers[-1].model


def test_a_checkpoint_recommends_as_it_was_tested(checkpoint, data_path):
    file, model = checkpoint
    loaded = Recommender.load(file, data_path=str(data_path)).loaded.model
    torch.testing.assert_close(loaded.modalities.values_image, model.modalities.values_image)
    torch.testing.assert_close(loaded.modalities.values_text, model.modalities.values_text)


def test_other_features_than_the_checkpoints_are_an_error(checkpoint, data_path, settings):
    file, _ = checkpoint
    image = data_path / "tiny" / "tiny.image.safetensors"
    content = read_features(image)
    write_features(image, content.item_ids, content.features + 1, encoder="another")
    for load in (
        lambda: Recommender.load(file, data_path=str(data_path)),
        lambda: run("PRISM_SASRec", "tiny", [], {**SHARED, **settings, "resume": file, "epochs": 2, "report": False}),
    ):
        with pytest.raises(PRISMError, match="trained with other features of modality 'image' than the dataset has"):
            load()
    write_features(image, content.item_ids[::-1], content.features[::-1], encoder="in another order")
    Recommender.load(file, data_path=str(data_path))
