"""``expert_loss_on: prediction`` against a slow, literal transcription of the paper's Eq. 1 to 12."""

import pytest
import torch
import torch.nn.functional as F

from recbole_prism.errors import PRISMError
from tests.test_models import QUIET, randomize, rows

pytestmark = pytest.mark.usefixtures("one_thread")
LAMBDAS = {"lambda_unique": {"image": 0.3, "text": 0.2}, "lambda_synergy": 0.5, "lambda_redundancy": 0.7}


def expert(experts, k: int, image, text):
    """Eq. 1: E_k(e_img, e_txt), a two-layer MLP of its own."""
    width = experts.expert_hidden_size
    columns = slice(k * width, (k + 1) * width)
    first = (
        image @ experts.weight_in[0][:, columns] + text @ experts.weight_in[1][:, columns] + experts.bias_in[columns]
    )
    return F.gelu(first) @ experts.weight_out[k] + experts.bias_out[k]


def predict(plain, interaction, vectors):
    """Eq. 2: P(S(e_id, e)), with RecBole's own backbone, row by row; vectors [B, L, D] are added at real items."""
    outputs = []
    for row in range(len(interaction)):
        sequence, length = interaction["item_id_list"][row : row + 1], interaction["item_length"][row : row + 1]

        def add(_, inputs, embedded, row=row):
            return embedded + vectors[row : row + 1] * (inputs[0] > 0).unsqueeze(-1)

        handle = plain.item_embedding.register_forward_hook(add)
        outputs.append(plain(sequence, length)[0])
        handle.remove()
    return torch.stack(outputs)


def triplet(anchor, positive, negative, margin):
    """max(0, m + d(a, p) - d(a, n)) with d = 1 - cos."""
    return torch.stack(
        [
            max(torch.zeros(()).double(), margin - F.cosine_similarity(a, p, 0) + F.cosine_similarity(a, n, 0))
            for a, p, n in zip(anchor, positive, negative, strict=True)
        ]
    ).mean()


def mean_cosine(a, b):
    return torch.stack([F.cosine_similarity(x, y, 0) for x, y in zip(a, b, strict=True)]).mean()


def literal_losses(model, plain, interaction, noise, scope):
    """Eq. 1-9 in the paper's order, for image and text."""
    experts = model.fusion.experts
    sequences = interaction["item_id_list"]
    n_rows, length = sequences.shape
    projected = model.modalities()[0]
    covered = {0: model.modalities.covered_image, 1: model.modalities.covered_text}
    pooled = torch.zeros(n_rows, length, 2, 8, dtype=torch.float64)  # what position t may see
    for row in range(n_rows):
        n = int((sequences[row] > 0).sum())
        for t in range(length):
            seen = sequences[row, : (n if scope == "sequence" else t + 1)]
            for m in range(2):
                having = [item for item in seen.tolist() if item > 0 and covered[m][item]]
                if having:
                    pooled[row, t, m] = torch.stack([projected[item, m] for item in having]).mean(0)
    image, text = pooled[:, :, 0], pooled[:, :, 1]
    r_image, r_text = noise[:, :, 0], noise[:, :, 1]  # Eq. 3-4: text replaced gives y_img, image replaced y_txt
    y, y_img, y_txt = [], [], []
    for k in range(4):
        y.append(predict(plain, interaction, expert(experts, k, image, text)))
        y_img.append(predict(plain, interaction, expert(experts, k, image, r_text)))
        y_txt.append(predict(plain, interaction, expert(experts, k, r_image, text)))
    margin = experts.margin
    return {
        "unique_image": 0.3 * triplet(y[0], y_img[0], y_txt[0], margin),  # Eq. 5
        "unique_text": 0.2 * triplet(y[1], y_txt[1], y_img[1], margin),  # Eq. 6
        "synergy": 0.5 * (mean_cosine(y[2], y_img[2]) + mean_cosine(y[2], y_txt[2])) / 2,  # Eq. 7
        "redundancy": 0.7 * (1 - (mean_cosine(y[3], y_img[3]) + mean_cosine(y[3], y_txt[3])) / 2),  # Eq. 8
    }


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec", "STAMP"])
@pytest.mark.parametrize("scope", ["sequence", "causal"])
def test_losses_equal_the_literal_transcription(build, monkeypatch, name, scope):
    overrides = {**QUIET, **LAMBDAS, "fusion_scope": scope, "expert_margin": 0.2}
    _, model, _ = build(f"PRISM_{name}", expert_loss_on="prediction", **overrides)
    _, plain, _ = build(name, train_neg_sample_args=None)
    model.double().train(), plain.double().eval()
    with torch.no_grad():  # outputs that are not all alike
        for parameter in model.parameters():
            parameter.mul_(3)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k in plain.state_dict()})
    interaction = rows([2, 5, 10, 1])
    real = interaction["item_id_list"] > 0
    torch.manual_seed(3)
    noise = torch.randn(*((4, 1) if scope == "sequence" else real.shape), 2, 8, dtype=torch.float64)
    drawn = noise[:, 0] if scope == "sequence" else noise[real]
    monkeypatch.setattr(model.fusion.experts, "draw_noise", lambda *_: drawn)
    values = model.calculate_loss(interaction)
    losses = dict(zip(model.loss_names, values, strict=True))
    if scope == "sequence":
        noise = noise.expand(-1, real.shape[1], -1, -1)
    expected = literal_losses(model, plain, interaction, noise, scope)
    assert set(losses) == {"recommendation", *expected}
    for key, value in expected.items():
        torch.testing.assert_close(losses[key], value)
    # Eq. 10-12: the recommendation loss is the one on the fused vector
    fused_by_hand = F.cross_entropy(model.full_sort_predict(interaction), interaction["item_id"])
    torch.testing.assert_close(losses["recommendation"], fused_by_hand)


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec", "NARM"])
def test_losses_compare_inputs_and_not_what_dropout_hit(build, monkeypatch, name):
    """Where a modality is replaced by itself nothing changes, whatever the backbone drops."""
    dropout = dict.fromkeys(("hidden_dropout_prob", "attn_dropout_prob", "dropout_prob"), 0.5)
    dropout["dropout_probs"] = [0.5, 0.5]
    unweighted = {"lambda_unique": 1.0, "lambda_synergy": 1.0, "lambda_redundancy": 1.0}
    _, model, _ = build(f"PRISM_{name}", expert_loss_on="prediction", fusion_scope="sequence", **unweighted, **dropout)
    monkeypatch.setattr(model.fusion.experts, "draw_noise", lambda pooled, _: pooled)
    values = model.train().calculate_loss(rows([2, 5, 10, 1]))
    losses = dict(zip(model.loss_names, (value.item() for value in values), strict=True))
    assert losses["synergy"] == pytest.approx(1, abs=1e-4) and losses["redundancy"] == pytest.approx(0, abs=1e-4)
    assert losses["unique_image"] == pytest.approx(model.fusion.experts.margin, abs=1e-4)
    first, second = (model.calculate_loss(rows([2, 5, 10, 1]))[0].item() for _ in range(2))
    assert first != second, "dropout works, and the modules are as before"
    assert all("forward" not in vars(module) for module in model.modules())


def test_one_pass_over_the_backbone_and_none_at_inference(build, monkeypatch):
    _, model, loaders = build("PRISM_SASRec", expert_loss_on="prediction")
    base, calls = type(model).__mro__[2], []
    original = base.forward

    def count(self, item_seq, item_seq_len):
        calls.append(len(item_seq))
        return original(self, item_seq, item_seq_len)

    monkeypatch.setattr(base, "forward", count)
    interaction = rows([2, 5, 10])
    model.train().calculate_loss(interaction)
    assert calls == [3, 3 * 4 * 3]  # 4 experts on the full input and on 2 perturbed ones
    calls.clear()
    model.eval().full_sort_predict(interaction)
    assert calls == [3]


def test_prediction_mode_trains_backbone_and_experts_and_needs_rows(build):
    config, model, loaders = build("PRISM_GRU4Rec", expert_loss_on="prediction")
    assert config["training_mode"] == "rows"
    model.train()
    values = model.calculate_loss(next(iter(loaders[0])))
    losses = dict(zip(model.loss_names, values, strict=True))
    (losses["unique_image"] + losses["synergy"]).backward()
    assert model.gru_layers.weight_hh_l0.grad.any() and model.fusion.experts.weight_out.grad[2].any()
    with pytest.raises(PRISMError, match="expert_loss_on: prediction compares predictions"):
        build("PRISM_GRU4Rec", expert_loss_on="prediction", training_mode="packed")


def test_losses_of_the_codes_go_with_losses_on_predictions(build):
    """``prism+mib``: the bottleneck's loss comes with the first pass, those on predictions with the second."""
    _, model, loaders = build("PRISM_SASRec", fusion="prism+mib", expert_loss_on="prediction")
    model.train().calculate_loss(next(iter(loaders[0])))
    assert model.loss_names == (
        "recommendation",
        "bottleneck",
        "unique_image",
        "unique_text",
        "synergy",
        "redundancy",
    )


@pytest.mark.parametrize("scope", ["sequence", "causal"])
def test_without_any_modality_no_prediction_changes(build, scope):
    lambdas = {"lambda_unique": 1.0, "lambda_synergy": 1.0, "lambda_redundancy": 1.0}
    _, model, _ = build("PRISM_SASRec", expert_loss_on="prediction", fusion_scope=scope, **lambdas, **QUIET)
    model.double().train()
    model.modalities.covered_image.zero_(), model.modalities.covered_text.zero_()
    randomize(model.fusion)
    values = model.calculate_loss(rows([2, 5, 10]))
    losses = dict(zip(model.loss_names, values, strict=True))
    assert losses["synergy"].item() == pytest.approx(1) and losses["redundancy"].item() == pytest.approx(0, abs=1e-9)


def test_a_history_without_any_modality_has_nothing_to_vary(build, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "recbole_prism.mixin.prediction_losses", lambda model, variants, *_: seen.append(variants) or {}
    )
    _, model, _ = build("PRISM_SASRec", expert_loss_on="prediction", fusion_scope="sequence", **QUIET)
    interaction = rows([4, 4])
    interaction["item_id_list"][:, :4] = torch.tensor([[11, 12, 13, 14], [1, 2, 3, 4]])
    model.modalities.covered_image[11:], model.modalities.covered_text[11:] = False, False
    randomize(model.fusion)
    model.train().calculate_loss(interaction)
    (variants,) = seen
    assert variants.shape[1] == 2 and not variants[:, 0].any() and variants[:, 1].any(-1).all()
