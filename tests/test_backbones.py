"""Every backbone of the table, through the same tests."""

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_prism.command import recbole_models
from recbole_prism.errors import PRISMError
from recbole_prism.models.table import BACKBONES, MODELS, REFUSED
from tests.dataset_made import N_ITEMS
from tests.test_models import randomize

pytestmark = pytest.mark.usefixtures("one_thread")
EACH_BACKBONE = pytest.mark.parametrize("name", sorted(BACKBONES))
OF_ONE_WIDTH = {"Caser", "FEARec", "FOSSIL", "GRU4RecCPR", "HGN", "LightSANs", "NPE", "NextItNet", "SASRecCPR", "SHAN"}
OF_ONE_WIDTH |= {"SINE"}  # which take no narrower rows than MAX_ITEM_LIST_LENGTH, or score them differently
KNOWLEDGE = {"GRU4RecKG", "KSR"}
ROWS = {
    "training_mode": "rows",
    "selected_features": ["category"],
    "item_attribute": "category",
    "k_interests": 2,
    "reranker_CAN_NUM": 5,
    "kg_embedding_size": 8,
    "pretrain_epochs": 1,
    "save_step": 1,
    "nh": 2,
}
ITEM_FIELDS = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "category", "price"]}


def write_knowledge(folder) -> dict:
    """A knowledge graph of the tiny dataset with vectors of entities and relations, and the keys that load it."""
    rng = np.random.default_rng(0)
    entities = [f"e{i}" for i in range(1, N_ITEMS + 1)]
    files = {
        "kg": ["head_id:token\trelation_id:token\ttail_id:token"]
        + [f"{e}\tr{i % 2}\t{entities[i - 3]}" for i, e in enumerate(entities)],
        "link": ["item_id:token\tentity_id:token"] + [f"i{i}\te{i}" for i in range(1, N_ITEMS + 1)],
    }
    for suffix, column, tokens in (("entvec", "ent", entities), ("relvec", "rel", ["r0", "r1"])):
        vectors = rng.normal(size=(len(tokens), 8)).round(3)
        lines = [f"{token}\t{' '.join(map(str, vector))}" for token, vector in zip(tokens, vectors, strict=True)]
        files[suffix] = [f"{column}_id:token\t{column}_emb:float_seq", *lines]
    for suffix, lines in files.items():
        (folder / f"tiny.{suffix}").write_text("\n".join(lines) + "\n")
    columns = {"kg": ["head_id", "relation_id", "tail_id"], "link": ["item_id", "entity_id"]}
    columns |= {"entvec": ["ent_id", "ent_emb"], "relvec": ["rel_id", "rel_emb"]}
    return {
        "load_col": {"inter": ITEM_FIELDS["inter"], **columns},
        "additional_feat_suffix": ["entvec", "relvec"],
        "alias_of_entity_id": ["ent_id"],
        "alias_of_relation_id": ["rel_id"],
        "preload_weight": {"ent_id": "ent_emb", "rel_id": "rel_emb"},
    }


@pytest.fixture
def make(build, data_path):
    """make(name, **overrides) as ``build``, with the data and keys that this backbone needs."""

    def with_needs(name: str, **overrides):
        backbone = MODELS.get(name, name)
        needs = write_knowledge(data_path / "tiny") if backbone in KNOWLEDGE else {"load_col": ITEM_FIELDS}
        if name in BACKBONES:  # RecBole's own
            overrides = {"train_neg_sample_args": None, **BACKBONES[name].defaults, **overrides}
        config, model, loaders = build(name, **{**ROWS, **needs, **overrides})
        if name == "KSR":  # RecBole's own cannot run, see models/special.py
            model.relation_Matrix = model.relation_Matrix.float()
        return config, model, loaders

    return with_needs


def test_rows(loaders) -> Interaction:
    return next(iter(loaders[2]))[0]


test_rows.__test__ = False


def copy(interaction: Interaction, rows=slice(None), **changed) -> Interaction:
    return Interaction({k: v[rows].clone() for k, v in interaction.interaction.items()} | changed)


def test_the_table_holds_every_sequential_model_of_recbole():
    sequential = {name for name, kind in recbole_models().items() if kind == "sequential"}
    assert sequential == set(BACKBONES) | set(REFUSED)
    assert set(MODELS) == {f"{family}_{name}" for family in ("PRISM", "MRdIB") for name in BACKBONES}


@EACH_BACKBONE
def test_one_epoch_and_reload_to_the_same_scores(make, name):
    from recbole.utils import get_trainer

    config, model, (train, valid, test) = make(f"PRISM_{name}")
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.fit(train, valid, saved=True)
    assert np.isfinite([np.sum(loss) for loss in trainer.train_loss_dict.values()]).all()
    assert model.loss_names[-4:] == ("unique_image", "unique_text", "synergy", "redundancy")
    checkpoint = torch.load(trainer.saved_model_file, weights_only=False)
    config, again, _ = make(f"PRISM_{name}")
    get_trainer(config["MODEL_TYPE"], config["model"])(config, again)  # the trainer chooses the kernels
    again.load_state_dict(checkpoint["state_dict"])
    again.load_other_parameter(checkpoint["other_parameter"])
    result = trainer.evaluate(test, load_best_model=True)
    interaction = test_rows((train, valid, test))
    scores, reloaded = (m.eval().full_sort_predict(copy(interaction)).detach() for m in (model, again))
    assert torch.isfinite(scores).all()
    torch.testing.assert_close(scores, reloaded, rtol=0, atol=0)
    assert 0 <= result["recall@10"] <= 1


@EACH_BACKBONE
def test_every_parameter_that_the_backbone_trains_gets_a_gradient(make, name):
    def without_gradient(model, loaders, at_most=0.0) -> set:
        model.train()
        torch.manual_seed(0)
        for interaction in loaders[0]:
            loss = model.calculate_loss(interaction)
            (sum(loss) if isinstance(loss, tuple) else loss).backward()
        parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        return {n for n, p in parameters.items() if p.grad is None or p.grad.abs().max() <= at_most}

    _, model, loaders = make(f"PRISM_{name}")
    unused = without_gradient(model, loaders)
    if unused:  # RecBole's own models leave some
        _, plain, loaders = make(name)
        rounding = 1e-7 if name == "CORE" else 0  # all that its bias before a softmax gets
        assert unused <= without_gradient(plain, loaders, at_most=rounding)


@EACH_BACKBONE
def test_without_modalities_it_is_the_plain_backbone(make, name):
    _, model, loaders = make(f"PRISM_{name}")
    _, plain, _ = make(name)
    model.eval(), plain.eval()
    model.modalities.covered_image.zero_(), model.modalities.covered_text.zero_()
    randomize(model.fusion)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k in plain.state_dict()})
    interaction = test_rows(loaders)
    torch.testing.assert_close(model.full_sort_predict(interaction), plain.full_sort_predict(interaction))
    assert model.expert_weights is not None and not model.expert_weights.any()


@EACH_BACKBONE
def test_batch_and_padding_change_scores_no_more_than_in_the_backbone(make, name):
    _, model, loaders = make(f"PRISM_{name}")
    _, plain, _ = make(name)
    model.eval(), plain.eval()
    interaction = test_rows(loaders)
    scores, own = model.full_sort_predict(copy(interaction)), plain.full_sort_predict(copy(interaction))
    n_kept = 0
    for row in (0, 5):
        alone = copy(interaction, slice(row, row + 1))
        length = int(alone["item_length"])
        narrow = copy(alone, item_id_list=alone["item_id_list"][:, : length + 1])
        for changed in (alone, narrow):
            try:
                backbone_keeps = torch.allclose(plain.full_sort_predict(copy(changed))[0], own[row], atol=1e-6)
            except (RuntimeError, IndexError):  # of one width only
                continue
            if backbone_keeps:
                n_kept += 1
                torch.testing.assert_close(model.full_sort_predict(copy(changed))[0], scores[row], rtol=1e-4, atol=1e-5)
    assert n_kept >= 4 - (name in OF_ONE_WIDTH)


@pytest.mark.parametrize("name", [name for name in sorted(BACKBONES) if "causal" in BACKBONES[name].scopes])
def test_in_causal_scope_no_input_sees_a_later_item(make, name):
    _, model, loaders = make(f"PRISM_{name}", fusion_scope="causal")
    model.eval()
    seen = []
    enrich = model._enrich_rows

    def record(embedding, inputs, embedded):
        seen.append((inputs[0], enrich(embedding, inputs, embedded)))
        return seen[-1][1]

    model._enrich_rows = record
    interaction = copy(test_rows(loaders), slice(0, 4), item_length=torch.full((4,), 5))
    sequences = torch.randint(1, N_ITEMS + 1, (4, 10), generator=torch.Generator().manual_seed(1))
    sequences[:, 5:] = 0
    for position in range(1, 5):
        changed = sequences.clone()
        changed[:, position] = changed[:, position] % N_ITEMS + 1
        seen.clear()
        for history in (sequences, changed):
            model.full_sort_predict(copy(interaction, item_id_list=history))
        (looked_up, before), (looked_up_later, after) = seen
        first = int((looked_up != looked_up_later).any(0).nonzero()[0])
        torch.testing.assert_close(before[:, :first], after[:, :first], rtol=0, atol=0)
        assert not torch.equal(before[:, first], after[:, first])


@pytest.mark.parametrize("name", [name for name in sorted(BACKBONES) if BACKBONES[name].causal])
def test_state_of_a_causal_backbone_does_not_see_later_items(make, name):
    _, model, _ = make(f"PRISM_{name}", fusion_scope="causal")
    model.eval()
    sequences = torch.randint(1, N_ITEMS + 1, (4, 10), generator=torch.Generator().manual_seed(1))
    changed = sequences.clone()
    changed[:, 5:] = changed[:, 5:] % N_ITEMS + 1

    def states(history):
        output = model(history, torch.full((4,), 5))
        output = output[-1] if isinstance(output, (list, tuple)) else output
        return output[:, :5] if output.dim() == 3 else output

    torch.testing.assert_close(states(sequences), states(changed), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["SRGNN", "GCSAN"])
def test_graph_models_pool_the_history_with_its_repetitions(make, name):
    _, model, loaders = make(f"PRISM_{name}")
    model.eval()
    pools = []
    model.fusion.register_forward_pre_hook(lambda _, inputs: pools.append(inputs))
    sequence = torch.tensor([[3, 3, 3, 7, 0, 0]])
    model(sequence, torch.tensor([4]))
    projected = model.modalities()[0]
    torch.testing.assert_close(pools[0][0][0], (3 * projected[3] + projected[7]) / 4)
    weight = model.item_embedding.weight
    torch.testing.assert_close(pools[0][1][0], (3 * weight[3] + weight[7]) / 4)
    with pytest.raises(PRISMError, match=f"fusion_scope: 'causal' is impossible with {name}.*set sequence"):
        make(f"PRISM_{name}", fusion_scope="causal")


def test_s3rec_fine_tunes_from_its_pre_trained_weights_and_ours(make):
    from recbole.utils import get_trainer

    config, model, (train, valid, _) = make("PRISM_S3Rec")
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.fit(train, valid)
    stage = {"train_stage": "finetune", "pre_model_path": trainer.saved_model_file}
    config, tuned, (train, valid, test) = make("PRISM_S3Rec", **stage, train_neg_sample_args=None)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(tuned.state_dict()[key], value, rtol=0, atol=0)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, tuned)
    trainer.fit(train, valid)
    assert 0 <= trainer.evaluate(test, load_best_model=True)["recall@10"] <= 1


def test_models_bring_their_own_transform_trainer_and_rows(make):
    import recbole.data.dataset as datasets
    from recbole.trainer import S3RecTrainer
    from recbole.utils import get_trainer

    assert make("PRISM_SHAN")[0]["transform"] == "inverse_itemseq"
    assert issubclass(get_trainer(None, "PRISM_S3Rec"), S3RecTrainer)
    assert datasets.PRISM_KSRDataset is datasets.KSRDataset
    assert make("PRISM_FEARec")[1].ssl == "us_x"


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("HGN", "score_items", "content"), ("CORE", "loss_type", "BPR"), ("SASRecCPR", "loss_type", "BPR")],
)
def test_what_a_backbone_cannot_do_is_an_error(make, name, key, value):
    with pytest.raises(PRISMError, match=f"{key}: .*impossible with {name}"):
        make(f"PRISM_{name}", **{key: value})
