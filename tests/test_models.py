"""What is right for every model, in both scopes, inside RecBole."""

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

MODELS = ["PRISM_SASRec", "PRISM_GRU4Rec", "PRISM_BERT4Rec"]
BOTH_SCOPES = pytest.mark.parametrize("fusion_scope", ["sequence", "causal"])
EACH_MODEL = pytest.mark.parametrize("name", MODELS)
ROWS = {"training_mode": "rows"}
QUIET = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "dropout_prob": 0.0}
QUIET |= {"expert_dropout": 0.0, "fusion_dropout": 0.0}


def rows(lengths, n_items=21, max_length=10, seed=0) -> Interaction:
    rng = np.random.default_rng(seed)
    sequences = torch.zeros(len(lengths), max_length, dtype=torch.long)
    for row, length in enumerate(lengths):
        sequences[row, :length] = torch.from_numpy(rng.integers(1, n_items, length))
    target = torch.from_numpy(rng.integers(1, n_items, len(lengths)))
    return Interaction({"item_id_list": sequences, "item_length": torch.tensor(lengths), "item_id": target})


def randomize(module) -> None:
    """Biases start at zero, so that much is zero of itself."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()


def training_batch(config, loaders) -> Interaction:
    return next(iter(loaders[0]))


@EACH_MODEL
@BOTH_SCOPES
def test_padding_batch_size_and_row_order_change_no_score(build, name, fusion_scope):
    _, model, _ = build(name, fusion_scope=fusion_scope, **ROWS)
    model.double().eval()
    interaction = rows([1, 3, 7, 10, 2])
    with torch.no_grad():
        scores = model.full_sort_predict(interaction)
        order = torch.tensor([3, 0, 4, 2, 1])
        shuffled = Interaction({key: value[order] for key, value in interaction.interaction.items()})
        torch.testing.assert_close(model.full_sort_predict(shuffled), scores[order], rtol=1e-9, atol=1e-12)
        for row in range(len(interaction)):
            alone = Interaction({key: value[row : row + 1] for key, value in interaction.interaction.items()})
            torch.testing.assert_close(model.full_sort_predict(alone)[0], scores[row], rtol=1e-9, atol=1e-12)
            if "BERT" in name:
                continue  # RecBole's BERT4Rec shifts a full row by one, so its width belongs to its input
            width = max(int(alone["item_length"]), 1)
            narrow = Interaction({**alone.interaction, "item_id_list": alone["item_id_list"][:, :width]})
            torch.testing.assert_close(model.full_sort_predict(narrow)[0], scores[row], rtol=1e-9, atol=1e-12)


@EACH_MODEL
@BOTH_SCOPES
def test_no_target_reaches_its_own_input(build, name, fusion_scope):
    """Every training input must be the same whatever the target is; at every position if the scope is causal."""
    _, model, _ = build(name, fusion_scope=fusion_scope, **ROWS, **QUIET)
    model.double().eval()
    seen = []
    enrich = model._enrich_rows

    def record(embedding, inputs, embedded):
        seen.append(enrich(embedding, inputs, embedded))
        return seen[-1]

    model._enrich_rows = record
    if name == "PRISM_BERT4Rec":  # the masked item is the target: two rows that differ in it alone
        histories = rows([8, 8])["item_id_list"]
        histories[1] = histories[0]
        histories[1, 4] = histories[0, 4] % 20 + 1
        masked, index = histories.clone(), torch.tensor([[4], [4]])
        masked[:, 4] = model.mask_token
        at = {"MASK_INDEX": index, "Pos_item_id": histories.gather(1, index), "Neg_item_id": index}
        lists = {"item_id_list": histories, "Mask_item_id_list": masked, "item_id": histories[:, 4]}
        model.train().calculate_loss(Interaction({**at, **lists, "item_length": torch.tensor([8, 8])}))
        model(histories)
        training, unmasked = seen
        torch.testing.assert_close(training[0], training[1])
        assert not torch.equal(unmasked[0, 4], unmasked[1, 4])
        return
    interaction = rows([9])
    sequence = interaction["item_id_list"]
    for position in range(1, 9):
        changed = sequence.clone()
        changed[0, position] = changed[0, position] % 20 + 1
        model(sequence, interaction["item_length"])
        model(changed, interaction["item_length"])
        before, after = seen[-2], seen[-1]
        assert not torch.equal(before[0, position], after[0, position])
        if fusion_scope == "causal":
            torch.testing.assert_close(before[0, :position], after[0, :position], rtol=0, atol=0)


@BOTH_SCOPES
@EACH_MODEL
def test_rows_hold_only_what_came_before_their_target(build, data_path, name, fusion_scope):
    config, _, loaders = build(name, fusion_scope=fusion_scope, **ROWS)
    dataset = loaders[0].dataset
    history = {}
    lines = (data_path / "tiny" / "tiny.inter").read_text().splitlines()[1:]
    for user, item, *_ in sorted((line.split("\t") for line in lines), key=lambda row: float(row[3])):
        history.setdefault(user, []).append(item)
    for row in range(len(dataset)):
        feat = dataset[[row]]
        user = dataset.id2token("user_id", feat["user_id"][0])
        inputs = np.atleast_1d(dataset.id2token("item_id", feat["item_id_list"][0, : feat["item_length"][0]])).tolist()
        target = dataset.id2token("item_id", feat["item_id"][0])
        whole = history[user]
        assert any(
            whole[end] == target and whole[end - len(inputs) : end] == inputs for end in range(1, len(whole) - 2)
        ), "a row must be a stretch of the user's history, its target next, validation and test items untouched"


@EACH_MODEL
@BOTH_SCOPES
@pytest.mark.parametrize("loss_type", ["CE", "BPR"])
def test_every_parameter_gets_a_gradient(build, name, fusion_scope, loss_type):
    config, model, loaders = build(name, fusion_scope=fusion_scope, loss_type=loss_type, missing="learned", **ROWS)
    assert list(model.modalities.missing_vector) == ["image"]  # every item has a text
    model.train()
    torch.manual_seed(0)
    for interaction in loaders[0]:
        sum(model.calculate_loss(interaction)).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@EACH_MODEL
def test_losses_have_their_names(build, name):
    _, model, loaders = build(name, **ROWS)
    model.train()
    losses = model.calculate_loss(training_batch(None, loaders))
    assert model.loss_names == ("recommendation", "unique_image", "unique_text", "synergy", "redundancy")
    assert len(losses) == 5 and all(torch.isfinite(loss) for loss in losses)


def test_expert_losses_are_means_over_the_passes_that_had_them(build):
    _, model, _ = build("PRISM_SASRec")
    first, second = {"synergy": 1.0}, {"synergy": 3.0, "redundancy": 5.0}
    model.expert_losses = [{name: torch.tensor(loss) for name, loss in losses.items()} for losses in (first, second)]
    values = model.with_expert_losses(torch.tensor(7.0))
    assert dict(zip(model.loss_names, values, strict=True)) == {"recommendation": 7, "synergy": 2, "redundancy": 5}


@EACH_MODEL
@BOTH_SCOPES
def test_three_modalities_from_files_and_fields(build, name, fusion_scope):
    sources = {"image": "tiny.image.safetensors", "text": None, "kind": "category"}
    overrides = {"load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "category", "price"]}}
    _, model, loaders = build(name, fusion_scope=fusion_scope, modalities=sources, **overrides, **ROWS)
    model.train()
    losses = model.calculate_loss(training_batch(None, loaders))
    assert model.loss_names[1:4] == ("unique_image", "unique_text", "unique_kind")
    sum(losses).backward()
    assert model.modalities.values_kind.shape[1] == 3


@EACH_MODEL
@BOTH_SCOPES
def test_mixed_precision_trains(build, name, fusion_scope):
    _, model, loaders = build(name, fusion_scope=fusion_scope, **ROWS)
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = sum(model.calculate_loss(training_batch(None, loaders)))
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@EACH_MODEL
@BOTH_SCOPES
def test_no_available_modality_means_the_plain_backbone(build, name, fusion_scope):
    """Coverage zero everywhere: f and all p_m are zero, so scores equal the backbone's with the same weights."""
    config, model, _ = build(name, fusion_scope=fusion_scope, **ROWS)
    _, plain, _ = build(name.removeprefix("PRISM_"), train_neg_sample_args=None)
    model.double().eval(), plain.double().eval()
    model.modalities.covered_image.zero_(), model.modalities.covered_text.zero_()
    randomize(model.fusion)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k in plain.state_dict()})
    interaction = rows([1, 4, 10])
    torch.testing.assert_close(model.full_sort_predict(interaction), plain.full_sort_predict(interaction))
    assert model.expert_weights is not None and not model.expert_weights.any()


@BOTH_SCOPES
def test_a_mask_token_is_in_no_pool(build, fusion_scope):
    _, model, _ = build("PRISM_BERT4Rec", fusion_scope=fusion_scope, **ROWS)
    model.double().eval()
    pools = []
    model.fusion.register_forward_pre_hook(lambda module, inputs: pools.append(inputs[1]))
    sequences = rows([8])["item_id_list"]
    sequences[:, 4] = model.mask_token
    model(sequences)
    real = sequences[0][(sequences[0] > 0) & (sequences[0] != model.mask_token)]
    assert len(real) == 7
    torch.testing.assert_close(pools[0][-1], model.item_embedding.weight[real].mean(0))


@EACH_MODEL
@BOTH_SCOPES
def test_zero_features_without_projections_add_one_learned_vector(build, name, fusion_scope):
    """All features zero, biases of the projections zero, gate blind to the id pool: every pool is zero, every expert
    gives its constant, so f is the same learned vector c at every position of every user, and the scores are those of
    the backbone with c added to each row of its item inputs (not of its candidates)."""
    _, model, _ = build(name, fusion_scope=fusion_scope, add_projections=False, feature_scaling="none", **ROWS)
    _, plain, _ = build(name.removeprefix("PRISM_"), train_neg_sample_args=None)
    model.double().eval(), plain.double().eval()
    with torch.no_grad():
        model.modalities.values_image.zero_(), model.modalities.values_text.zero_()
        model.modalities.covered_image[1:] = True
        model.fusion.gate.hidden.weight[:, -8:] = 0
        constant = model.fusion(torch.zeros(1, 2, 8).double(), torch.zeros(1, 8).double()).vector
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k in plain.state_dict()})
    interaction = rows([2, 5, 10])
    hooked = []

    def add_constant(_, inputs, embedded):
        if inputs[0].dim() == 2:
            hooked.append(True)
            return embedded + constant * (inputs[0] > 0).unsqueeze(-1)
        return embedded

    plain.item_embedding.register_forward_hook(add_constant)
    ours, theirs = model.full_sort_predict(interaction), plain.full_sort_predict(interaction)
    assert hooked
    torch.testing.assert_close(ours, theirs)


@EACH_MODEL
def test_content_scores_rank_candidates_by_embedding_plus_projections(build, name):
    _, model, _ = build(name, score_items="content", **ROWS)
    model.double().eval()
    interaction = rows([3, 8])
    untrained = model.full_sort_predict(interaction)
    scale = model.item_embedding.content_scale
    scale.data.copy_(torch.randn(len(scale)))
    scores = model.full_sort_predict(interaction)
    content = model.modalities()[0].sum(1) * scale
    with torch.no_grad():
        model.item_embedding.scoring = False
        by_id = model.full_sort_predict(interaction)
        table = model.item_embedding.weight[: model.n_items]
        model.item_embedding.scoring = True
    torch.testing.assert_close(untrained, by_id)
    bias = getattr(model, "output_bias", 0)
    hidden = torch.linalg.lstsq(table[1:], (by_id - bias)[:, 1:].T).solution.T
    torch.testing.assert_close(scores - by_id, hidden @ content[: model.n_items].T)
    for item in (1, 7):
        single = Interaction({**interaction.interaction, "item_id": torch.full((2,), item)})
        torch.testing.assert_close(model.predict(single), scores[:, item])


@EACH_MODEL
def test_same_seed_same_result(build, name):
    from recbole.utils import get_trainer

    def train_once():
        config, model, (train, valid, test) = build(name, epochs=2)
        trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
        trainer.fit(train, valid, saved=False)
        return trainer.train_loss_dict, trainer.evaluate(test, load_best_model=False), list(model.parameters())

    first, second = train_once(), train_once()
    assert first[:2] == second[:2]
    assert all(torch.equal(a, b) for a, b in zip(first[2], second[2], strict=True))


def test_missing_policies(build):
    _, zero, _ = build("PRISM_SASRec", missing="zero")
    _, mean, _ = build("PRISM_SASRec", missing="mean")
    _, learned, _ = build("PRISM_SASRec", missing="learned")
    lacking = int((~zero.modalities.covered_image[1:]).nonzero()[0]) + 1
    assert not zero.modalities()[0][lacking, 0].any()
    covered = zero.modalities.covered_image
    expected = mean.modalities.values_image[covered].mean(0)
    torch.testing.assert_close(mean.modalities.values_image[lacking], expected)
    with torch.no_grad():
        learned.modalities.missing_vector["image"].fill_(2.0)
    projected, available = learned.modalities()
    assert (projected[lacking, 0] == 2).all() and available[lacking, 0] and not available[0].any()
    _, masked, _ = build("PRISM_BERT4Rec", missing="learned")
    assert masked.modalities.values_image.shape[0] == 22  # padding, 20 items, the mask token
    for items in (None, torch.arange(22)):
        assert masked.modalities(items)[1].any(1).tolist() == [False, *[True] * 20, False]
    from recbole_prism.errors import PRISMError

    with pytest.raises(PRISMError, match=r"1 of 20 items have no 'image' feature \(first: \['i20'\]\)"):
        build("PRISM_SASRec", missing="error")


def test_shuffled_extra_and_filtered_items_give_the_same_scores(build, data_path):
    from recbole_prism.features import read_features, write_features

    _, model, _ = build("PRISM_SASRec")
    interaction = rows([3, 8])
    before = model.eval().full_sort_predict(interaction)
    for name in ("image", "text"):
        path = data_path / "tiny" / f"tiny.{name}.safetensors"
        contents = read_features(path)
        order = np.random.default_rng(3).permutation(len(contents.item_ids))
        features = np.vstack([contents.features[order], 99 * np.ones_like(contents.features[:2])])
        write_features(path, [*np.array(contents.item_ids)[order], "extra1", "extra2"], features)
    _, model, _ = build("PRISM_SASRec")
    torch.testing.assert_close(model.eval().full_sort_predict(interaction), before, rtol=0, atol=0)


def test_filtered_items_keep_their_own_features(build, data_path):
    from recbole_prism.features import read_features

    _, model, loaders = build("PRISM_SASRec", item_inter_num_interval="[8,inf)", feature_scaling="none")
    assert model.n_items < 21
    contents = read_features(data_path / "tiny" / "tiny.text.safetensors")
    for internal, token in enumerate(loaders[0].dataset.field2id_token["item_id"][1:], start=1):
        own = torch.from_numpy(contents.features[contents.item_ids.index(token)])
        torch.testing.assert_close(model.modalities.values_text[internal], own)
