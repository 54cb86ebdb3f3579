"""Items that did not exist at training time are ranked by their content."""

import pytest

from recbole_prism import PRISMError
from recbole_prism.recommend import Recommender
from recbole_prism.recommend.catalogue import Catalogue

MODELS = ["PRISM_SASRec", "PRISM_GRU4Rec", "PRISM_BERT4Rec", "PRISM_NARM"]


@pytest.fixture(params=MODELS)
def recommender(request, trained):
    return Recommender.load(trained(request.param, score_items="content"))


def test_old_items_keep_their_scores(recommender, new_items):
    grown = recommender.with_new_items(new_items)
    before = {item.item: item.score for item in recommender.for_sequence(["i1", "i2"], 20, seen="keep")}
    after = {item.item: item.score for item in grown.for_sequence(["i1", "i2"], 22, seen="keep")}
    assert set(after) - set(before) == {"new1", "new2"}
    assert all(after[token] == pytest.approx(before[token], abs=1e-5) for token in before)


def test_a_new_item_scores_as_a_known_one_with_its_content_and_no_id(recommender, new_items):
    """new2 has the features of i6; with e_id(i6) set to zero the two are one."""
    model, (twin,) = recommender.loaded.model, recommender.catalogue.ids(["i6"])
    row = model.item_embedding._parameters["weight"].data[twin]
    kept = row.clone()
    row.zero_()
    if hasattr(model, "output_bias"):
        model.output_bias.data[twin] = 0
    grown = recommender.with_new_items(new_items)
    scores = {item.item: item.score for item in grown.for_sequence(["i1", "i2"], 22, seen="keep")}
    row.copy_(kept)
    assert scores["new2"] == pytest.approx(scores["i6"], abs=1e-5)
    assert scores["new1"] != pytest.approx(scores["i6"], abs=1e-5)


def test_new_items_can_stand_in_a_history_and_be_alone_in_the_choice(recommender, new_items):
    grown = recommender.with_new_items(new_items)
    assert [item.item for item in grown.for_sequence(["i1", "new1"], 1, only=["new1", "new2"])] == ["new2"]
    assert grown.for_user("u1", 1, only=["new2"])[0].item == "new2"


def test_models_that_score_by_id_say_so(trained, new_items):
    for model in ("PRISM_SASRec", "SASRec"):
        with pytest.raises(PRISMError, match="train a PRISM model with score_items: content"):
            Recommender.load(trained(model)).with_new_items(new_items)


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
