"""cosine_temperature: one definition of a score in losses, rankings and recommendations."""

import pickle

import pytest
import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction

from recbole_prism.errors import PRISMError

TEMPERATURE = 0.2
COSINE = {"cosine_temperature": TEMPERATURE, "training_mode": "packed", "train_neg_sample_args": None}
CAUSAL = pytest.mark.parametrize("name", ["SASRec", "GRU4Rec", "PRISM_SASRec", "PRISM_GRU4Rec"])


@CAUSAL
def test_scores_are_cosines_over_the_temperature(build, name):
    _, model, (_, _, test) = build(name, **COSINE)
    _, plain, _ = build(name, **{**COSINE, "cosine_temperature": None})
    plain.load_state_dict(model.state_dict())
    rows = test.dataset.inter_feat
    model.eval(), plain.eval()
    with torch.no_grad():
        scores = model.full_sort_predict(rows)
        states, table = plain.forward(rows["item_id_list"], rows["item_length"]), plain.item_embedding.weight
        by_hand = F.cosine_similarity(states.unsqueeze(1), table[1:], dim=-1) / TEMPERATURE
        torch.testing.assert_close(scores[:, 1:], by_hand, rtol=1e-4, atol=1e-5)
        for item in (1, 7):
            one = Interaction({**rows.interaction, "item_id": torch.full((len(rows),), item)})
            torch.testing.assert_close(model.predict(one), scores[:, item], rtol=1e-4, atol=1e-5)


def test_the_trainer_ranks_by_cosines(build):
    from recbole.utils import get_trainer

    config, model, (_, _, test) = build("PRISM_SASRec", **COSINE)
    trainer = get_trainer(config["MODEL_TYPE"], "PRISM_SASRec")(config, model)
    ours = trainer.evaluate(test, load_best_model=False)
    trainer.encode = None  # RecBole's full_sort_predict, on padded rows
    assert trainer.evaluate(test, load_best_model=False) == ours


def test_content_and_cosine_together(build):
    _, model, _ = build("PRISM_SASRec", score_items="content", **COSINE)
    torch.nn.init.normal_(model.item_embedding.content_scale)
    rows = model.item_embedding.weight[1:]
    content = model.modalities()[0].sum(1) * model.item_embedding.content_scale
    torch.testing.assert_close(rows, F.normalize(model.item_embedding._parameters["weight"] + content, dim=1)[1:])


@pytest.mark.parametrize("name", ["PRISM_BERT4Rec", "PRISM_NARM", "BERT4Rec"])
def test_other_backbones_refuse_it(build, name):
    with pytest.raises(PRISMError, match=f"cosine_temperature is impossible with {name.removeprefix('PRISM_')}"):
        build(name, cosine_temperature=0.1, training_mode="rows")


def test_a_temperature_of_zero_is_an_error(build):
    with pytest.raises(PRISMError, match="cosine_temperature: 0 is not allowed; must be a number above 0, or nothing"):
        build("PRISM_SASRec", cosine_temperature=0)


def test_a_backbone_with_cosines_is_pickled(build):
    _, model, loaders = build("SASRec", **COSINE)
    batch = next(iter(loaders[1]))[0]
    again = pickle.loads(pickle.dumps(model.eval()))
    assert torch.equal(again.full_sort_predict(batch), model.full_sort_predict(batch)) and type(again) is type(model)
