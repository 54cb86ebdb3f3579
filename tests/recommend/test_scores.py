"""Recommendations are what RecBole's own evaluation ranks, for every kind of model and history."""

import numpy as np
import pytest
import torch

from recbole_prism import PRISMError
from recbole_prism.recommend import Recommender
from recbole_prism.recommend.catalogue import read_titles

PLAIN = ["SASRec", "GRU4Rec", "BERT4Rec", "HGN", "SRGNN"]
SEQUENTIAL = [*PLAIN, "PRISM_SASRec", "PRISM_GRU4Rec", "PRISM_BERT4Rec", "PRISM_NARM", "PRISM_SRGNN", "MRdIB_SASRec"]


def recbole_rows(checkpoint, part: str):
    """RecBole's model and the rows of its valid or test loader."""
    from recbole.quick_start import load_data_and_model

    _, model, dataset, _, valid, test = load_data_and_model(str(checkpoint))
    return model.eval(), dataset, {"valid": valid, "test": test}[part]


@pytest.mark.parametrize("model", SEQUENTIAL)
def test_scores_and_ranks_equal_full_sort_topk(trained, model):
    from recbole.utils.case_study import full_sort_topk

    checkpoint = trained(model)
    recommender = Recommender.load(checkpoint)
    recbole, dataset, loader = recbole_rows(checkpoint, "test")
    users = dataset.field2id_token["user_id"][1:]
    expected = full_sort_topk(np.arange(1, len(users) + 1), recbole, loader, 5)
    found = recommender.for_users(list(users), 5, seen="keep", history="test")
    order = torch.argsort(loader.dataset.inter_feat["user_id"])  # rows of the loader -> order of users
    for row, values, ids in zip(found, expected.values[order], expected.indices[order], strict=True):
        assert [item.score for item in row] == pytest.approx(values.tolist(), abs=1e-5)
        assert [item.item for item in row] == dataset.id2token("item_id", ids).tolist()


@pytest.mark.parametrize("part", ["valid", "test"])
@pytest.mark.parametrize(
    "split", [{"LS": "valid_and_test"}, {"RS": [0.6, 0.2, 0.2]}], ids=["leave one out", "by ratio"]
)
def test_history_of_a_part_is_recboles_first_row(trained, part, split):
    """Longer histories are cut by the scorer, so the last items of ours must be all of RecBole's."""
    eval_args = {"split": split, "group_by": "user", "order": "TO", "mode": "full"}
    checkpoint = trained("SASRec", eval_args=eval_args)
    histories = Recommender.load(checkpoint).loaded.histories
    _, dataset, loader = recbole_rows(checkpoint, part)
    rows = loader.dataset.inter_feat
    firsts = {}
    for n, user in enumerate(rows["user_id"].tolist()):
        firsts.setdefault(user, rows["item_id_list"][n][: rows["item_length"][n]].tolist())
    assert firsts and set(firsts) == {u for u in range(1, dataset.user_num) if histories.has(u, part)}
    for user, expected in firsts.items():
        assert histories.history(user, part)[-len(expected) :].tolist() == expected


@pytest.mark.parametrize("unused", ["rating", "timestamp"])
def test_columns_that_recbole_drops_are_not_missed(trained, unused):
    """Those that only filter, say."""
    columns = {"inter": ["user_id", "item_id", "timestamp", "rating"]}
    settings = {"load_col": columns, "val_interval": {"rating": "[2,inf)"}, "unused_col": {"inter": [unused]}}
    with_all = trained("SASRec", **{**settings, "unused_col": None})
    expected, found = (Recommender.load(c).loaded.histories for c in (with_all, trained("SASRec", **settings)))
    assert (found.items == expected.items).all() and (found.offsets == expected.offsets).all()
    assert (found.test == expected.test).all() and (found.valid == expected.valid).all()


def test_full_history_ends_with_the_test_item(trained):
    checkpoint = trained("SASRec")
    histories = Recommender.load(checkpoint).loaded.histories
    _, _, loader = recbole_rows(checkpoint, "test")
    rows = loader.dataset.inter_feat
    for user, target in zip(rows["user_id"].tolist(), rows["item_id"].tolist(), strict=True):
        full, test = histories.history(user), histories.history(user, "test")
        assert full[-1] == target and full[:-1].tolist() == test.tolist()


def test_a_sequence_scores_as_the_user_who_has_it(trained):
    recommender = Recommender.load(trained("PRISM_GRU4Rec"))
    histories = recommender.loaded.histories
    tokens = [recommender.catalogue.tokens[item] for item in histories.history(histories.id_of["u5"])]
    by_user, by_sequence = recommender.for_user("u5"), recommender.for_sequence(tokens)
    assert [item.item for item in by_user] == [item.item for item in by_sequence]
    assert [i.score for i in by_user] == pytest.approx([i.score for i in by_sequence], abs=1e-6)


@pytest.mark.parametrize("model", ["PRISM_SASRec", "PRISM_BERT4Rec", "MRdIB_GRU4Rec"])
def test_answers_do_not_depend_on_the_chunk(trained, model):
    recommender = Recommender.load(trained(model))
    whole = list(recommender.stream(None, 4))
    parts = list(recommender.stream(None, 4, chunk_size=5))
    assert [user for chunk in parts for user in chunk.users] == [user for chunk in whole for user in chunk.users]
    np.testing.assert_allclose(
        np.concatenate([chunk.scores for chunk in parts]), np.concatenate([chunk.scores for chunk in whole]), atol=1e-5
    )


def test_seen_only_and_exclude_leave_the_other_scores_alone(trained):
    recommender = Recommender.load(trained("PRISM_SASRec"))
    history = {"i1", "i2", "i3"}
    everything = {item.item: item.score for item in recommender.for_sequence(sorted(history), 20, seen="keep")}
    assert len(everything) == 20
    dropped = recommender.for_sequence(sorted(history), 20)
    assert {item.item for item in dropped} == set(everything) - history
    few = recommender.for_sequence(sorted(history), 3, only=["i1", "i7", "i8", "i9"], exclude=["i9"], seen="keep")
    assert {item.item for item in few} == {"i1", "i7", "i8"}
    assert all(item.score == pytest.approx(everything[item.item]) for item in dropped + few)


def test_titles_are_found_by_name(trained):
    found = Recommender.load(trained("SASRec")).for_sequence(["i1"], 1)[0]
    assert found.title == f"The {found.item} story"
    categories = Recommender.load(trained("SASRec"), title_field="category")
    assert categories.for_sequence(["i1"], 1)[0].title.startswith("c")


def test_titles_are_read_as_pandas_reads_them(tmp_path):
    file = tmp_path / "a.item"
    file.write_text('item_id:token\ttitle:token_seq\n1\t"The ""Best"" Soap"\n', encoding="utf-8-sig")
    assert read_titles(file, "item_id") == {"1": 'The "Best" Soap'}
    file.write_text("item_id:token\ttitle:token_seq\n1\tcaf\u00e9\n", encoding="latin-1")
    assert read_titles(file, "item_id", encoding="latin-1") == {"1": "caf\u00e9"}
    assert read_titles(file, "item_id") == {"1": "caf\ufffd"}


@pytest.mark.parametrize("shape", [(3, 2000), (2, 1999), (4, 40), (1, 11)])
def test_best_items_are_those_of_topk(shape):
    from recbole_prism.recommend.scoring import best_items

    scores = torch.randn(shape[::-1], generator=torch.Generator().manual_seed(0)).t()
    scores[0, : shape[1] // 2] = -torch.inf
    for k in (1, 5, 10):
        values, columns = best_items(scores, k)
        expected = torch.topk(scores, k)
        assert values.equal(expected.values) and columns.equal(expected.indices)


def test_a_row_with_fewer_items_than_asked_for_ends_with_minus_infinity():
    from recbole_prism.recommend.scoring import best_items

    scores = torch.full((3000, 2), -torch.inf).t()
    scores[0, [7, 2999]] = torch.tensor([1.0, 2.0])
    values, columns = best_items(scores, 4)
    assert columns[0, :2].tolist() == [2999, 7] and values[0, 2:].eq(-torch.inf).all()


def test_no_more_is_held_than_a_chunk(trained, monkeypatch):
    """Rows are scored a few at a time, and users after the first chunk are not looked at before it is taken."""
    monkeypatch.setattr("recbole_prism.recommend.scoring.SCORES_AT_ONCE", {"cpu": 21 * 3})
    recommender = Recommender.load(trained("PRISM_SASRec"))
    scored, batches = [], recommender.scorer.batches

    def watched_batches(histories, users=None):
        for rows, scores in batches(histories, users):
            assert scores.numel() <= 21 * 3
            scored.extend(rows)
            yield rows, scores

    monkeypatch.setattr(recommender.scorer, "batches", watched_batches)
    for number, chunk in enumerate(recommender.stream(None, 4, chunk_size=10), 1):
        assert chunk.ids.shape == (len(chunk.users), 4) and len(chunk.users) <= 10
        assert len(scored) == min(10 * number, 24)


def test_titles_of_separators_and_lengths_that_pandas_reads(tmp_path):
    file = tmp_path / "a.item"
    file.write_text("item_id:token::title:token_seq::about:token_seq\n1::Soap::" + "long " * 40_000 + "\n")
    assert read_titles(file, "item_id", separator="::") == {"1": "Soap"}
    file.write_text(file.read_text().replace("::", "\t"))
    assert read_titles(file, "item_id") == {"1": "Soap"}


def test_one_text_is_no_list_of_tokens(trained):
    recommender = Recommender.load(trained("SASRec"))
    for ask in (lambda: recommender.for_sequence("i1"), lambda: recommender.for_users("u1")):
        with pytest.raises(PRISMError, match="is one text; name them as a list"):
            ask()
    with pytest.raises(PRISMError, match="items: 'i2' is one text"):
        recommender.for_user("u1", exclude="i2")
