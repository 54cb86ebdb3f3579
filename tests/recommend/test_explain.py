"""Deletion tests take away what they say, and put it back; aggregates say what the arrays say."""

import json

import numpy as np
import pytest
import torch

import recbole_prism.explain as explain_verb
from recbole_prism import PRISMError
from recbole_prism.__main__ import main
from recbole_prism.recommend import Recommender, deletion, explain, population

MODELS = ["PRISM_SASRec", "PRISM_GRU4Rec", "PRISM_BERT4Rec"]


@pytest.fixture(params=MODELS)
def recommender(request, trained):
    return Recommender.load(trained(request.param))


def test_items_are_taken_away_one_by_one(recommender):
    found = explain(recommender, np.array([3, 4, 5]), item="i9")
    tokens = [recommender.catalogue.tokens[n] for n in (3, 4, 5)]
    first = int(recommender.loaded.name == "PRISM_BERT4Rec")  # whose first item never reaches it
    assert [effect.name for effect in found.history] == tokens[first:]
    for n, effect in enumerate(found.history, first):
        rest = recommender.for_sequence(tokens[:n] + tokens[n + 1 :], 20, seen="keep")
        ranked = [item.item for item in rest]
        assert effect.rank == ranked.index("i9") + 1
        assert effect.score == pytest.approx(found.score - rest[ranked.index("i9")].score, abs=1e-5)


@pytest.mark.parametrize("model_name", MODELS)
def test_a_modality_is_taken_from_the_history(trained, model_name):
    """The history looks as if its items had no features of that kind."""
    recommender = Recommender.load(trained(model_name))
    model, history = recommender.loaded.model, [np.array([3, 4, 5])]
    whole = recommender.scorer.scores(history)
    with deletion.without_modality(model, "text"):
        without = recommender.scorer.scores(history)
    assert (recommender.scorer.scores(history) == whole).all() and not (without == whole).all()
    model.modalities.covered_text[:] = False
    model.train().eval()  # forget projections
    np.testing.assert_allclose(recommender.scorer.scores(history), without, atol=1e-6)


@pytest.mark.parametrize("model_name", MODELS)
def test_candidates_keep_a_modality(trained, model_name):
    recommender = Recommender.load(trained(model_name, score_items="content"))
    model, history = recommender.loaded.model, [np.array([3, 4, 5])]
    whole, table = recommender.scorer.scores(history), model.item_embedding.weight.clone()
    with deletion.without_modality(model, "text"):
        assert not (recommender.scorer.scores(history) == whole).all()
        assert (model.item_embedding.weight == table).all()
    assert (recommender.scorer.scores(history) == whole).all()


def test_an_expert_is_taken_away_and_put_back(recommender):
    model, history = recommender.loaded.model, [np.array([3, 4, 5])]
    whole = recommender.scorer.scores(history)
    weights = deletion.expert_weights(model)
    assert weights.shape == (1, 4) and weights.sum() == pytest.approx(1)
    with deletion.without_expert(model, 2):
        recommender.scorer.scores(history)
        assert deletion.expert_weights(model)[0, 2] == 0
        assert deletion.expert_weights(model)[0, 1] == weights[0, 1]
    assert (recommender.scorer.scores(history) == whole).all()


def test_an_explanation_is_whole(recommender):
    history = recommender.loaded.histories.history(1)
    found = explain(recommender, history, user=1)
    assert found.item == recommender.for_user(recommender.loaded.histories.tokens[1], 1)[0].item
    assert [effect.name for effect in found.experts] == ["unique_image", "unique_text", "synergy", "redundancy"]
    assert [effect.name for effect in found.modalities] == ["image", "text"]
    assert len(found.history) == min(len(history), 6) - int(recommender.loaded.name == "PRISM_BERT4Rec")
    for group in (found.experts, found.modalities, found.history):
        assert sum(effect.share for effect in group) == pytest.approx(1)
    assert sum(effect.weight for effect in found.experts) == pytest.approx(1)


def test_what_never_reaches_a_model_is_no_reason(trained):
    """RecBole's BERT4Rec drops a row's first item to make place for the mask."""
    recommender = Recommender.load(trained("PRISM_BERT4Rec"))
    first, other = (recommender.scorer.scores([np.array([n, 4, 5])]) for n in (3, 9))
    assert (first == other).all()
    assert not explain(recommender, np.array([3, 4])).history  # one of the two is all that it saw


def test_plain_backbones_and_single_items_are_explained_as_far_as_possible(trained):
    found = explain(Recommender.load(trained("SASRec")), np.array([3, 4]))
    assert not found.experts and not found.modalities and len(found.history) == 2
    assert not explain(Recommender.load(trained("SASRec")), np.array([3])).history


def test_faithfulness_of_known_arrays():
    weights = np.array([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1]])
    faithful = population.faithfulness(weights, weights * 2)
    assert faithful["rank_correlation"] == pytest.approx(1) and faithful["users_where_highest_hurts_more"] == 1
    assert (faithful["drop_without_highest"], faithful["drop_without_lowest"]) == pytest.approx((1.3, 0.2))
    assert population.faithfulness(weights, -weights)["rank_correlation"] == pytest.approx(-1)
    assert population.faithfulness(weights, np.zeros((2, 3)))["rank_correlation"] == 0


def test_experts_that_are_off_are_no_evidence_of_faithfulness():
    rng = np.random.default_rng(0)
    weights, drops = rng.dirichlet(np.ones(3), 500), rng.normal(size=(500, 3))
    alone = population.faithfulness(weights, drops)
    off = np.zeros((500, 1))
    assert population.faithfulness(np.hstack([weights, off]), np.hstack([drops, off])) == pytest.approx(alone)
    assert abs(alone["rank_correlation"]) < 0.1
    assert population.faithfulness(np.full((4, 3), 1 / 3), np.ones((4, 3))) == {"users": 0}
    assert population.faithfulness(np.ones((4, 1)), np.ones((4, 1))) == {"users": 0}


def test_a_survey_agrees_with_single_explanations(recommender):
    many = population.survey(recommender, n_users=1000)
    assert len(many.users) == 24
    one = explain(recommender, recommender.loaded.histories.history(3), user=3)
    row = many.users.index(recommender.loaded.histories.tokens[3])
    np.testing.assert_allclose(many.weights[row], [effect.weight for effect in one.experts], atol=1e-5)
    np.testing.assert_allclose(many.expert_drops[row], [e.log_probability for e in one.experts], atol=1e-4)
    np.testing.assert_allclose(many.modality_drops[row], [e.log_probability for e in one.modalities], atol=1e-4)
    groups = many.summary["by_history_length"]
    assert sum(group["users"] for group in groups) == 24
    assert all(a["lengths"][1] < b["lengths"][0] for a, b in zip(groups, groups[1:], strict=False))


def test_lengths_are_those_of_the_histories_asked_for(trained):
    recommender = Recommender.load(trained("PRISM_SASRec"))
    histories = recommender.loaded.users()
    found = population.survey(recommender, n_users=1000, history="test")
    expected = [len(histories.history(histories.id_of[user], "test")) for user in found.users]
    assert found.lengths.tolist() == expected


def test_padding_has_no_rank():
    assert deletion.ranks(torch.tensor([[9.0, 1.0, 2.0]]), np.array([1])).tolist() == [2]


def test_some_users_are_surveyed_by_themselves(recommender):
    from recbole_prism.pid import model_columns

    one = explain(recommender, recommender.loaded.histories.history(3, "test"), user=3)
    token = recommender.loaded.histories.tokens[3]
    columns = model_columns(recommender, {token, "u999"})
    assert list(columns["mean weight"].values()) == pytest.approx([e.weight for e in one.experts], abs=1e-5)
    assert model_columns(recommender, {"u999"}) == {}  # a group in which nobody is tested
    assert columns != model_columns(recommender, None)


def test_a_survey_does_not_depend_on_how_many_scores_are_held(trained, monkeypatch):
    """Of a large catalogue there are fewer scores at a time than histories encoded."""
    from recbole_prism.recommend import scoring

    recommender = Recommender.load(trained("PRISM_SASRec"))
    whole = population.survey(recommender, n_users=1000)
    monkeypatch.setattr(scoring, "SCORES_AT_ONCE", {"cpu": 5 * recommender.scorer.n_items})
    parts = population.survey(recommender, n_users=1000)
    np.testing.assert_allclose(parts.weights, whole.weights, atol=1e-6)
    np.testing.assert_allclose(parts.expert_drops, whole.expert_drops, atol=1e-5)


@pytest.mark.parametrize("fusion", ["none", "gate", "attention", "prism+mib"])
def test_other_fusions_are_surveyed_as_far_as_they_have_weights(trained, fusion):
    many = population.survey(Recommender.load(trained("PRISM_SASRec", fusion=fusion)), n_users=10)
    n_weights = {"gate": 2, "attention": 2, "prism+mib": 4}.get(fusion, 0)
    assert many.weights.shape == many.expert_drops.shape == (10, n_weights)
    assert set(many.summary["modalities"]) == {"image", "text"}
    assert ("faithfulness" in many.summary) == bool(many.experts)
    assert "modality text" in explain_verb.population_text(many, {})


def test_a_sample_is_the_same_every_time(trained):
    recommender = Recommender.load(trained("PRISM_SASRec"))
    first, second = (population.survey(recommender, n_users=7).users for _ in range(2))
    assert first == second and len(first) == 7


def test_stability_of_a_model_with_itself_is_one(trained):
    survey = population.survey(Recommender.load(trained("PRISM_SASRec")), n_users=1000)
    assert all(value == pytest.approx(1) for value in population.stability(survey, survey).values())
    with pytest.raises(PRISMError, match="other experts"):
        other = population.survey(Recommender.load(trained("PRISM_SASRec", modalities=["text"])), n_users=1000)
        population.stability(survey, other)


def test_the_command_says_what_weights_are_not(trained, capsys, tmp_path):
    checkpoint = str(trained("PRISM_SASRec"))
    assert main(["explain", checkpoint, "--user", "u1"]) == 0
    out = capsys.readouterr().out
    assert "They are not measured information" in out and "expert synergy" in out and "modality image" in out
    assert main(["explain", checkpoint, "--all-users", "--others", checkpoint, "-o", str(tmp_path / "a.json")]) == 0
    out = capsys.readouterr().out
    assert "faithfulness" in out and "by construction" in out and "They are not measured information" in out
    report = json.loads((tmp_path / "a.json").read_text())
    assert {"caution", "weights", "by_history_length", "faithfulness", "stability"} <= report.keys()


def test_other_models_are_surveyed_on_the_same_histories(trained, monkeypatch):
    asked, survey = [], population.survey
    monkeypatch.setattr(population, "survey", lambda *args, **how: asked.append(how) or survey(*args, **how))
    checkpoint = str(trained("PRISM_SASRec"))
    assert (
        main(["explain", checkpoint, "--all-users", "--history", "test", "--n-users", "9", "--others", checkpoint]) == 0
    )
    assert asked == [{"n_users": 9, "history": "test"}] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--user", "u999"], "user 'u999' is unknown"),
        (["--sequence", "i1", "--item", "i77"], "item 'i77' is unknown"),
        (["--all-users", "--item", "i1"], "--item explains one history"),
        (["--all-users", "--n-users", "0"], "--n-users: 0 is not allowed"),
        (["--user", "u1", "--others", "x"], "say --all-users"),
        (["--user", "u1", "-o", "a.txt"], "call it .json"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_one(trained, capsys, arguments, message):
    assert main(["explain", str(trained("PRISM_SASRec")), *arguments]) == 1
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1


def test_a_user_and_an_item_may_stand_in_a_file(trained, capsys, tmp_path):
    (tmp_path / "one.txt").write_text("u1\n")
    (tmp_path / "item.txt").write_text("i3\n")
    (tmp_path / "two.txt").write_text("u1\nu2\n")
    checkpoint = str(trained("PRISM_SASRec"))
    said = []
    for whom in (["--user", "u1", "--item", "i3"], ["--user", "@one.txt", "--item", "@item.txt", "-o", "a.json"]):
        assert main(["explain", checkpoint, *whom]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and json.loads((tmp_path / "a.json").read_text())["user"] == "u1"
    assert main(["explain", checkpoint, "--user", "@two.txt"]) == 1
    assert "--user: two.txt holds 2 tokens, and one is explained at a time" in capsys.readouterr().err


def test_plain_models_have_nothing_to_survey(trained, capsys):
    assert main(["explain", str(trained("SASRec")), "--all-users"]) == 1
    assert "neither experts nor modalities" in capsys.readouterr().err


def test_a_history_that_nobody_has_is_an_error(recommender, monkeypatch):
    monkeypatch.setattr(recommender.loaded.users(), "has", lambda user, part: False)
    with pytest.raises(PRISMError, match="no user has the history 'valid'"):
        population.survey(recommender, n_users=5, history="valid")
