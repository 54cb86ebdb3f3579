"""Items that did not exist at training time are ranked by what their features tell."""

import pytest
import torch

from recbole_prism import PRISMError
from recbole_prism.recommend import Recommender
from recbole_prism.recommend.bundle import export_bundle
from recbole_prism.recommend.catalogue import Catalogue

MODELS = ["PRISM_SASRec", "PRISM_GRU4Rec", "PRISM_BERT4Rec", "PRISM_NARM"]


@pytest.fixture(params=[(model, score) for model in MODELS for score in ("id", "content")], ids="-".join)
def recommender(request, trained):
    return Recommender.load(trained(request.param[0], score_items=request.param[1]))


def test_old_items_keep_their_scores(recommender, new_items):
    grown = recommender.with_new_items(new_items)
    before = {item.item: item.score for item in recommender.for_sequence(["i1", "i2"], 20, seen="keep")}
    after = {item.item: item.score for item in grown.for_sequence(["i1", "i2"], 22, seen="keep")}
    assert set(after) - set(before) == {"new1", "new2"}
    assert all(after[token] == pytest.approx(before[token], abs=1e-5) for token in before)


def test_embeddings_that_features_tell_are_found(trained, new_items):
    """Where embeddings are a linear map of the features, new2 (the features of i6) scores as i6 does."""
    recommender = Recommender.load(trained("PRISM_BERT4Rec"))
    model, modalities = recommender.loaded.model, recommender.loaded.model.modalities
    generator, n_items = torch.Generator().manual_seed(0), len(recommender.catalogue.tokens)
    with torch.no_grad():
        model.item_embedding.weight[:n_items] = 0.1 * sum(
            values[:n_items] @ torch.randn(values.shape[1], 8, generator=generator)
            for values in (modalities.values_image, modalities.values_text)
        )
        model.output_bias[:n_items] = modalities.values_text[:n_items, 0]
    grown = recommender.with_new_items(new_items)
    scores = {item.item: item.score for item in grown.for_sequence(["i1", "i2"], 22, seen="keep")}
    assert scores["new2"] == pytest.approx(scores["i6"], abs=0.02)
    assert abs(scores["new1"] - scores["i6"]) > 0.1


def test_spread_reaches_the_table(recommender, new_items):
    n_known = len(recommender.catalogue.tokens)
    tables = [
        recommender.with_new_items(new_items, spread).loaded.model.item_embedding._parameters["weight"].detach()
        for spread in (0, 0.5)
    ]
    assert torch.equal(tables[0][:n_known], tables[1][:n_known])
    distances = [(table[n_known : n_known + 2] - table[1:n_known].mean(0)).norm() for table in tables]
    assert distances[1] > 1.05 * distances[0]
    with pytest.raises(PRISMError, match="spread: 1.5 is not allowed; must be a number from 0 to 1"):
        recommender.with_new_items(new_items, 1.5)


def test_new_items_can_stand_in_a_history_and_be_alone_in_the_choice(recommender, new_items):
    grown = recommender.with_new_items(new_items)
    assert [item.item for item in grown.for_sequence(["i1", "new1"], 1, only=["new1", "new2"])] == ["new2"]
    assert grown.for_user("u1", 1, only=["new2"])[0].item == "new2"


def test_models_that_cannot_know_a_new_item_say_so(trained, new_items):
    for model, reason in (("SASRec", "train a PRISM model"), ("PRISM_HGN", "a table of its own")):
        with pytest.raises(PRISMError, match=reason):
            Recommender.load(trained(model)).with_new_items(new_items)


def test_models_of_fields_say_that_new_items_have_none(trained, new_items):
    load = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "category"]}
    recommender = Recommender.load(trained("PRISM_SASRecF", selected_features=["category"], load_col=load))
    with pytest.raises(PRISMError, match="PRISM_SASRecF reads fields of the .item file, which new items do not have"):
        recommender.with_new_items(new_items)


def test_a_second_table_of_items_grows_too(trained, new_items):
    grown = Recommender.load(trained("PRISM_NPE")).with_new_items(new_items)
    assert grown.for_user("u1", 1, only=["new2"])[0].item == "new2"


def test_unfit_feature_files_are_refused(trained, new_items):
    recommender = Recommender.load(trained("PRISM_SASRec", score_items="content"))
    with pytest.raises(PRISMError, match="'imag': no modality .* .did you mean 'image'"):
        recommender.with_new_items({"imag": new_items["image"]})
    with pytest.raises(PRISMError, match="features of size 6, and .* trained on text of size 5"):
        recommender.with_new_items({"text": new_items["image"]})
    known = trained.data_path / "tiny" / "tiny.text.safetensors"
    with pytest.raises(PRISMError, match="no item in it is new"):
        recommender.with_new_items({"text": known})


def test_catalogue_look_up_names_the_nearest():
    with pytest.raises(PRISMError, match="item 'i10x' is unknown .did you mean 'i10'"):
        Catalogue(["[PAD]", "i1", "i10"]).ids(["i1", "i10x"])


def test_a_model_of_users_grows_too(trained, new_items):
    grown = Recommender.load(trained("PRISM_Caser", score_items="content")).with_new_items(new_items)
    assert grown.for_user("u1", 1, only=["new2"])[0].item == "new2"


def test_an_item_may_lack_what_no_known_item_lacks(trained, new_items):
    recommender = Recommender.load(trained("PRISM_SASRec", missing="learned"))
    assert "modalities.missing_vector.text" not in recommender.loaded.model.state_dict()
    grown = recommender.with_new_items({"image": new_items["image"]})
    assert not grown.loaded.model.modalities.missing_vector["text"].any()
    assert grown.for_user("u1", 1, only=["new2"])[0].item == "new2"


@pytest.fixture
def of_fields(trained):
    """A checkpoint whose modalities are fields of the .item file, and a file of new ones."""
    fields = {"text": "tiny.text.safetensors", "kind": "category", "cost": "price"}
    load_col = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "category", "price"]}
    return trained("PRISM_SASRec", modalities=fields, load_col=load_col)


@pytest.mark.parametrize("bundled", [False, True])
def test_new_items_bring_fields_of_the_item_file(of_fields, tmp_path, caplog, bundled):
    file = tmp_path / "new.item"
    rows = ["item_id:token\tcategory:token\tprice:float", "new1\tc1\t3.5", "new2\tc9\t", "i3\tc2\t9"]
    file.write_text("\n".join(rows) + "\n")
    recommender = Recommender.load(of_fields)
    if bundled:
        recommender = Recommender.load(export_bundle(recommender.loaded, tmp_path / "bundle"))
    files = {"kind": file, "cost": file}
    with pytest.raises(PRISMError, match="'new2' is unknown"):  # it has no value in either
        recommender.with_new_items(files).for_sequence(["i1"], 1, only=["new2"])
    assert "new.item: kind ['c9'] left out" in caplog.text
    grown = recommender.with_new_items(files)
    assert grown.for_sequence(["i1"], 1, only=["new1"])[0].item == "new1"
    modalities, (new1, i1, i7) = grown.loaded.model.modalities, grown.catalogue.ids(["new1", "i1", "i7"])
    assert torch.equal(modalities.values_kind[new1], modalities.values_kind[i1])  # c1 too
    assert modalities.values_cost[new1] == modalities.values_cost[i7] != modalities.values_cost[i1]  # 3.5 too
    assert not modalities.covered_text[new1]


def test_unfit_item_files_are_refused(of_fields, tmp_path):
    recommender, file = Recommender.load(of_fields), tmp_path / "new.item"
    with pytest.raises(PRISMError, match="new.item: no such file"):
        recommender.with_new_items({"kind": file})
    file.write_text("item_id:token\tcategori:token\nnew1\tc1\n")
    with pytest.raises(PRISMError, match="new.item: no field 'category' .did you mean 'categori'"):
        recommender.with_new_items({"kind": file})
    with pytest.raises(PRISMError, match="new.item: needs a :token column first and exactly one :float_seq column"):
        recommender.with_new_items({"text": file})
