"""Every fusion behind the one signature: the baselines by hand, and all of them inside a model, by rows and packed."""

import math

import pytest
import torch

from recbole_prism.fused import Context
from recbole_prism.fusion import FUSIONS, build_fusion
from tests.test_fusion import SETTINGS

pytestmark = pytest.mark.usefixtures("one_thread")
D = 3
EACH_FUSION = pytest.mark.parametrize("name", sorted(FUSIONS))
QUIET = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "expert_dropout": 0.0, "fusion_dropout": 0.0}


def make(name, modalities=("image", "text"), **overrides):
    torch.manual_seed(0)
    return build_fusion({**SETTINGS, "mlp_matches": "prism", "fusion": name, **overrides}, list(modalities), D).double()


def histories(n=6, n_modalities=2):
    torch.manual_seed(1)
    pooled = torch.randn(n, n_modalities, D, dtype=torch.float64)
    context = Context(torch.ones(n, n_modalities, dtype=torch.bool), torch.arange(1, n + 1), torch.randn(9, D).double())
    return pooled, torch.randn(n, D, dtype=torch.float64), context


def test_none_adds_nothing_and_sum_adds_the_pools():
    pooled, ids, context = histories()
    assert not make("none")(pooled, ids, None, context).vector.any()
    torch.testing.assert_close(make("sum")(pooled, ids, None, context).vector, pooled[:, 0] + pooled[:, 1])


def test_concat_projects_the_pools_side_by_side():
    fusion = make("concat", ("a", "b", "c"))
    pooled, ids, context = histories(n_modalities=3)
    expected = torch.cat([pooled[:, 0], pooled[:, 1], pooled[:, 2]], 1) @ fusion.projection.weight.T
    torch.testing.assert_close(fusion(pooled, ids, None, context).vector, expected + fusion.projection.bias)


@pytest.mark.parametrize("hidden_size", [D, 64])
def test_mlp_has_the_parameters_of_experts_and_gate(hidden_size):
    settings = {**SETTINGS, "mlp_matches": "prism", "expert_hidden_size": 40, "fusion_hidden_size": 50}
    counts = [
        sum(p.numel() for p in build_fusion({**settings, "fusion": name}, ["a", "b"], hidden_size).parameters())
        for name in ("mlp", "prism")
    ]
    assert abs(counts[0] - counts[1]) <= 2 * hidden_size + 1  # half a hidden unit


def test_gate_weighs_the_pools_and_skips_what_is_missing():
    fusion = make("gate")
    pooled, ids, context = histories()
    fused = fusion(pooled, ids, None, context)
    torch.testing.assert_close(fused.weights.sum(1), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(fused.vector, (fused.weights.unsqueeze(-1) * pooled).sum(1))
    context.available[0] = torch.tensor([False, True])
    context.available[1] = False
    weights = fusion(pooled, ids, None, context).weights
    assert weights[0].tolist() == [0, 1] and weights[1].tolist() == [0, 0]
    torch.testing.assert_close(weights[2:], fused.weights[2:])


def test_attention_by_hand():
    fusion = make("attention")
    pooled, ids, context = histories()
    fused = fusion(pooled, ids, None, context)
    for row in range(6):
        query = fusion.gate.query(ids[row])
        scores = [float(query @ fusion.gate.key(pooled[row, m])) / math.sqrt(D) for m in range(2)]
        weights = [math.exp(s) / sum(map(math.exp, scores)) for s in scores]
        assert fused.weights[row].tolist() == pytest.approx(weights)
        expected = sum(w * fusion.value(pooled[row, m]) for m, w in enumerate(weights))
        torch.testing.assert_close(fused.vector[row], expected)


def test_prism_with_the_bottleneck_reads_codes(monkeypatch):
    fusion, plain = make("prism+mib", alpha_bottleneck=0.5).eval(), make("prism").eval()
    plain.load_state_dict({k: v for k, v in fusion.state_dict().items() if not k.startswith("bottleneck")})
    pooled, ids, context = histories()
    mean, log_variance = fusion.bottleneck(pooled)
    torch.testing.assert_close(fusion(pooled, ids, None, context).vector, plain(mean, ids).vector)
    fusion.train()
    losses = fusion(pooled, ids, None, context).losses
    assert set(losses) == {"unique_image", "unique_text", "synergy", "redundancy", "bottleneck"}
    torch.testing.assert_close(losses["bottleneck"], 0.5 * fusion.bottleneck.divergence(mean, log_variance))


@EACH_FUSION
@pytest.mark.parametrize("n_modalities", [1, 2, 4])
def test_any_number_of_modalities(name, n_modalities):
    fusion = make(name, [f"m{n}" for n in range(n_modalities)], lambda_unique=0.1)
    fused = fusion(*histories(n_modalities=n_modalities)[:2], None, histories(n_modalities=n_modalities)[2])
    assert fused.vector.shape == (6, D) and torch.isfinite(fused.vector).all()
    assert fused.weights is None or fused.weights.shape == (6, len(fusion.names))
    assert all(torch.isfinite(loss) for loss in fused.losses.values())


@EACH_FUSION
def test_losses_are_taken_on_the_selected_histories_only(name, monkeypatch):
    fusion = make(name)
    monkeypatch.setattr(torch, "randn_like", lambda x: torch.sin(37.0 * x.detach()) + 0.3)
    monkeypatch.setattr(torch, "randperm", lambda n, device=None: torch.arange(n).roll(1))
    pooled, ids, (available, targets, table) = histories()
    select = torch.tensor([1, 4, 5])
    chosen = fusion(pooled, ids, select, Context(available, targets[select], table))
    alone = fusion(pooled[select], ids[select], None, Context(available[select], targets[select], table))
    assert chosen.losses.keys() == alone.losses.keys() and len(chosen.vector) == 6
    for key, loss in alone.losses.items():
        torch.testing.assert_close(chosen.losses[key], loss)


def test_the_gate_learns_no_share_of_an_expert_that_is_off(monkeypatch):
    shares = []
    monkeypatch.setattr("recbole_prism.fusion.routing_loss", lambda s, w: shares.append(s) or w.sum() * 0)
    pooled, ids, context = histories(40)
    context = context._replace(targets=torch.arange(40) % 8 + 1)
    make("prism+residual")(pooled, ids, None, context)
    assert all(share[:, 2].any() for share in shares)
    shares.clear()
    make("prism+residual", experts_off=["synergy"])(pooled, ids, None, context)
    assert len(shares) == 2 and all(share.any() and not share[:, 2].any() for share in shares)


@EACH_FUSION
@pytest.mark.parametrize("scope", ["sequence", "causal"])
def test_each_trains_by_rows_with_gradients_everywhere(build, name, scope):
    _, model, loaders = build("PRISM_SASRec", fusion=name, fusion_scope=scope, training_mode="rows")
    model.train()
    for interaction in loaders[0]:
        losses = model.calculate_loss(interaction)
        assert len(losses) == len(model.loss_names) and all(torch.isfinite(loss) for loss in losses)
        sum(losses).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@EACH_FUSION
def test_padding_and_batch_change_no_score(build, name):
    from tests.test_models import rows

    for scope in ("sequence", "causal"):
        _, model, _ = build("PRISM_SASRec", fusion=name, fusion_scope=scope, training_mode="rows")
        model.double().eval()
        interaction = rows([1, 3, 7])
        scores = model.full_sort_predict(interaction)
        for row in range(3):
            width = int(interaction["item_length"][row])
            alone = {k: v[row : row + 1] for k, v in interaction.interaction.items()}
            alone["item_id_list"] = alone["item_id_list"][:, :width]
            own = model.full_sort_predict(type(interaction)(alone))[0]
            torch.testing.assert_close(own, scores[row], rtol=1e-9, atol=1e-12)


@EACH_FUSION
def test_each_trains_packed_and_scores_alike_in_both_ways(build, name):
    from recbole.utils import get_trainer

    config, model, (train, valid, test) = build("PRISM_GRU4Rec", fusion=name)
    assert config["training_mode"] == "packed"
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.fit(train, valid, saved=False)
    assert 0 <= trainer.evaluate(test, load_best_model=False)["recall@10"] <= 1


def test_modality_dropout_hides_items_while_training_only(build):
    _, model, _ = build("PRISM_SASRec", modality_dropout=0.5)
    model.train()
    torch.manual_seed(0)
    first, second = (model.modalities()[1] for _ in range(2))
    assert not torch.equal(first, second) and first[1:].any() and not first[1:].all()
    projected, available = model.modalities()
    assert not projected[~available].any() and projected[available].any(-1).all()
    model.eval()
    _, available = model.modalities()
    assert torch.equal(available[:, 1], model.modalities.covered_text)
    _, unhidden, _ = build("PRISM_SASRec")
    assert torch.equal(unhidden.train().modalities()[1], available)


@pytest.mark.parametrize("scaling", ["standardize", "unit", "none"])
def test_modality_dropout_hides_as_a_lack_is_filled(build, scaling):
    _, model, _ = build("PRISM_SASRec", modality_dropout=0.5, missing="mean", feature_scaling=scaling)
    modalities = model.eval().modalities
    whole = modalities()[0][:, 1]
    with modalities.lacking("text", torch.ones(len(whole), dtype=torch.bool)):
        mean = modalities()[0][1, 1]
    model.train()
    torch.manual_seed(0)
    projected, available = (part[1:, 1] for part in modalities())
    hidden = torch.isclose(projected, mean).all(1)
    assert available.all() and hidden.any() and not hidden.all()
    torch.testing.assert_close(projected[~hidden], whole[1:][~hidden])


def test_token_float_and_float_seq_fields_are_modalities(build, data_path):
    folder = data_path / "tiny"
    lines = (folder / "tiny.item").read_text().splitlines()
    header = lines[0] + "\ttags:token_seq\tvector:float_seq"
    rest = [f"{line}\tt{n % 4} t{n % 3}\t{n / 7:.3f} {n / 3:.3f} 1.0" for n, line in enumerate(lines[1:])]
    (folder / "tiny.item").write_text("\n".join([header, *rest]) + "\n")
    columns = ["item_id", "category", "price", "tags", "vector"]
    sources = {"image": None, "kind": "category", "cost": "price", "tags": "tags", "audio": "vector"}
    overrides = {
        "modalities": {k: v or "tiny.image.safetensors" for k, v in sources.items()},
        "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": columns},
        "feature_scaling": "none",
        "training_mode": "rows",
    }
    _, model, loaders = build("PRISM_SASRec", **overrides)
    sizes = {name: getattr(model.modalities, f"values_{name}").shape[1] for name in model.modalities.names}
    assert sizes == {"image": 6, "kind": 3, "cost": 1, "tags": 4, "audio": 3}
    assert model.fusion.names == [*(f"unique_{name}" for name in sources), "synergy", "redundancy"]
    dataset = loaders[0].dataset
    for item in range(1, model.n_items):
        n = int(dataset.id2token("item_id", item)[1:]) - 1
        assert model.modalities.values_cost[item].item() == pytest.approx((n + 1) / 2)
        assert model.modalities.values_audio[item].tolist() == pytest.approx([n / 7, n / 3, 1.0], abs=1e-3)
        assert model.modalities.values_kind[item].sum() == 1
        assert model.modalities.values_tags[item].sum() == len({f"t{n % 4}", f"t{n % 3}"})
    losses = model.train().calculate_loss(next(iter(loaders[0])))
    assert len(losses) == 8 and all(torch.isfinite(loss) for loss in losses)
