"""Keys: where they may be set, and what is refused with which words."""

import pytest
from recbole.config import Config

from recbole_prism.config import check_valid_metric
from recbole_prism.errors import PRISMError
from tests.dataset_made import write_dataset


@pytest.fixture
def configure(settings):
    def make(model="PRISM_SASRec", files=None, dataset="tiny", **overrides):
        return Config(model=model, dataset=dataset, config_file_list=files, config_dict={**settings, **overrides})

    return make


def test_defaults_come_from_the_backbone_and_from_us(configure):
    config = configure()
    assert config["n_heads"] == 2 and config["expert_dropout"] == 0.1
    assert configure("PRISM_GRU4Rec")["num_layers"] == 1
    assert configure("PRISM_BERT4Rec")["mask_ratio"] == 0.2


def test_yaml_dict_and_command_line_override_in_recboles_order(configure, tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("lambda_synergy: 0.2\nlambda_redundancy: 0.2\nexpert_margin: 0.2\n")
    monkeypatch.setattr("sys.argv", ["test", "--expert_margin=0.4"])
    config = configure(files=[str(tmp_path / "mine.yaml")], lambda_redundancy=0.3)
    assert (config["lambda_synergy"], config["lambda_redundancy"], config["expert_margin"]) == (0.2, 0.3, 0.4)


@pytest.mark.parametrize("key", ["lambda_synergi", "expert_droput", "leaning_rate", "fusionscope"])
def test_misspelt_keys_are_errors_that_suggest(configure, key):
    right = {"lambda_synergi": "lambda_synergy", "expert_droput": "expert_dropout"}
    right |= {"leaning_rate": "learning_rate", "fusionscope": "fusion_scope"}
    with pytest.raises(PRISMError, match=f"{key}: known neither .*'{right[key]}'"):
        configure(**{key: 0.1})


def test_misspelt_keys_of_files_and_the_command_line_are_errors(configure, tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("expert_hiden_size: 3\n")
    with pytest.raises(PRISMError, match="expert_hidden_size"):
        configure(files=[str(tmp_path / "mine.yaml")])
    monkeypatch.setattr("sys.argv", ["test", "--noise_scal=unit"])
    with pytest.raises(PRISMError, match="noise_scale"):
        configure()


def test_options_of_other_programs_on_the_command_line_are_not_ours(configure, monkeypatch):
    monkeypatch.setattr("sys.argv", ["test", "--zzqx=short"])
    assert configure()["model"] == "PRISM_SASRec"


def test_keys_that_only_recboles_code_knows_are_accepted(configure):
    assert configure(tail_ratio=0.2)["tail_ratio"] == 0.2


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("expert_hidden_size", 0, "an integer of at least 1"),
        ("expert_hidden_size", 2.5, "an integer of at least 1"),
        ("unique_candidates", 1, "an integer of at least 2"),
        ("expert_loss_samples", 1, "an integer of at least 2"),
        ("learning_rate", "abc", "a number of at least 0"),
        ("MAX_ITEM_LIST_LENGTH", 0, "an integer of at least 1"),
        ("hidden_size", 0, "an integer of at least 1"),
        ("n_layers", "two", "an integer of at least 1"),
        ("seed", "abc", "an integer of at least 0"),
        ("hidden_act", "foo", r"one of \['gelu'"),
        ("learner", "adm", r"one of \['adam'"),
        ("weight_decay", "x", "a number of at least 0"),
        ("attn_dropout_prob", 2, "at least 0 and below 1"),
        ("clip_grad_norm", 5, "a dict of torch's"),
        ("eval_args", {"split": {"RS": [0.8, 0.2]}}, "a dict with split"),
        ("eval_args", {"split": {"LS": "vald"}}, "a dict with split"),
        ("eval_args", {"mode": "labeled"}, "a dict with split"),
        ("eval_args", {"mode": {"valid": "full", "test": "uni"}}, "a dict with split"),
        ("train_batch_size", 64.5, "an integer of at least 1"),
        ("expert_dropout", 1.0, "at least 0 and below 1"),
        ("expert_dropout", "much", "at least 0 and below 1"),
        ("expert_distance", "manhattan", r"one of \['cosine', 'euclidean'\]"),
        ("lambda_unique", -1, "a number of at least 0"),
        ("lambda_unique", {"image": 0.1}, r"needs exactly the modalities \['image', 'text'\]"),
        ("fusion_temperature", 0, "greater than 0"),
        ("fusion_scope", "future", r"one of \['sequence', 'causal'\]"),
        ("add_projections", "yes", "True or False"),
        ("modalities", [], "a list of distinct names"),
        ("modalities", ["a", "a"], "a list of distinct names"),
        ("modalities", {"type": "category"}, "'type' is a name that torch keeps"),
        ("missing", "drop", "one of"),
        ("experts_off", ["synergi"], "none of the experts .*did you mean 'synergy'"),
        ("experts_off", ["unique_image", "unique_text", "synergy", "redundancy"], "names all experts"),
        ("fusion", "prysm", r"did you mean 'prism'.*available: "),
    ],
)
def test_wrong_values_are_errors_naming_key_value_and_what_is_allowed(configure, key, value, allowed):
    with pytest.raises(PRISMError, match=rf"{key}: .*{allowed}"):
        configure(**{key: value})


@pytest.mark.parametrize("split", [{"LS": "test_only"}, {"RS": [8, 1, 1]}])
@pytest.mark.parametrize("mode", ["full", "pop50", {"valid": "uni100", "test": "full"}])
def test_what_recbole_evaluates_by_is_left_to_it(configure, split, mode):
    given = {"split": split, "order": "TO", "group_by": "user", "mode": mode}
    assert configure(eval_args=given)["eval_args"]["split"] == split


def test_fine_tuning_needs_what_was_trained_before(configure):
    with pytest.raises(PRISMError, match="pre_model_path: '' is no file; train_stage: finetune needs the checkpoint"):
        configure("PRISM_S3Rec", train_stage="finetune", item_attribute="category")


def test_nothing_may_be_given_on_the_command_line(configure, monkeypatch):
    monkeypatch.setattr("sys.argv", ["test", "--expert_loss_samples=~", "--training_mode=~"])
    config = configure()
    assert config["expert_loss_samples"] is None and config["training_mode"] == "packed"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("modalities=[text, image]", ["text", "image"]),
        ("modalities={text: tiny.text.safetensors, image: }", {"text": "tiny.text.safetensors", "image": None}),
        ("experts_off=[synergy]", ["synergy"]),
        ("lambda_unique={image: 0.1, text: 0}", {"image": 0.1, "text": 0}),
        ("load_col={inter: [user_id, item_id, timestamp]}", {"inter": ["user_id", "item_id", "timestamp"]}),
        ("metrics=[NDCG, MRR]", ["NDCG", "MRR"]),
        ("window_stride=~", None),
        ("alias_of_item_id=[", "["),
    ],
)
@pytest.mark.parametrize("model", ["PRISM_SASRec", "SASRec"])
def test_lists_on_the_command_line_may_be_written_as_in_a_yaml_file(configure, monkeypatch, model, option, value):
    """RecBole evaluates ['text'] as Python and leaves [text], which is no Python, as text."""
    monkeypatch.setattr("sys.argv", ["test", f"--{option}"])
    assert configure(model, train_neg_sample_args=None)[option.split("=")[0]] == value


@pytest.mark.parametrize("model", ["PRISM_SASRec", "SASRec"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"topk": 5}, r"valid_metric: 'NDCG@10' is not computed; metrics and topk give Recall@5, NDCG@5$"),
        ({"metrics": ["MRR", "GAUC"], "topk": [10, 20]}, "give MRR@10, MRR@20, GAUC$"),
        ({"valid_metric": "foo"}, "'foo' is not computed"),
    ],
)
def test_early_stopping_by_what_is_not_computed_is_refused(configure, model, given, message):
    def check(**given):
        check_valid_metric(configure(model, train_neg_sample_args=None, **given))

    with pytest.raises(PRISMError, match=message):
        check(**given)
    check(**given, eval_step=0)
    check(metrics=["GAUC", "ItemCoverage"], valid_metric="gauc")
    check(metrics=["ItemCoverage"], valid_metric="itemcoverage@10")


@pytest.mark.parametrize("model", ["PRISM_SASRec", "SASRec", "Pop"])
def test_all_models_read_the_same_files_of_a_dataset(configure, data_path, model):
    """RecBole takes ml-100k from its own wheel, and knows nothing of NAME/NAME.yaml."""
    for name in ("tiny", "ml-100k"):
        write_dataset(data_path, name)
        (data_path / name / f"{name}.yaml").write_text("seq_separator: '+'\nepochs: 9\n")
        config = configure(model, dataset=name, train_neg_sample_args={"sample_num": 1} if model == "Pop" else None)
        assert config["data_path"] == str(data_path / name)
        assert config["seq_separator"] == "+" and config["epochs"] == 1  # what is set in so many words wins


def test_a_file_of_comments_alone_is_a_file_of_no_settings(configure, tmp_path):
    (tmp_path / "empty.yaml").write_text("# epochs: 3\n")
    assert configure(files=[str(tmp_path / "empty.yaml")])["epochs"] == 1


def test_drawn_negatives_and_masked_histories_are_refused(configure):
    with pytest.raises(PRISMError, match=r"repeatable: False needs eval_args: \{mode: full\}"):
        configure(repeatable=False, eval_args={"mode": {"valid": "full", "test": "uni20"}})
    with pytest.raises(PRISMError, match="repeatable: False is impossible with FEARec, which makes rows of its own"):
        configure("PRISM_FEARec", repeatable=False)
    with pytest.raises(PRISMError, match="repeatable: False needs the interactions themselves, and benchmark_filename"):
        configure(repeatable=False, benchmark_filename=["train", "valid", "test"])


def test_keys_that_need_our_trainer_are_named_where_it_is_not_used(configure, caplog):
    configure("SASRec", train_neg_sample_args=None, ema_decay=0.9)
    assert "ema_decay: without effect on RecBole's own SASRec" in caplog.text
    configure("NARM", train_neg_sample_args=None, training_mode="packed")
    assert "training_mode: without effect on RecBole's own NARM, only on SASRec" in caplog.text
    with pytest.raises(PRISMError, match="training_mode: 'nonsense' is not allowed"):
        configure("NARM", train_neg_sample_args=None, training_mode="nonsense")
    dynamic = {"distribution": "uniform", "sample_num": 1, "dynamic": True, "candidate_num": 2}
    configure("SASRec", training_mode="rows", loss_type="BPR", train_neg_sample_args=dynamic, num_negatives=5)
    assert "num_negatives: without effect here, where SASRec is trained as RecBole does" in caplog.text


@pytest.mark.parametrize(
    "keys",
    [
        {"window_stride": 2, "training_mode": "rows"},
        {"window_offset": False, "model": "PRISM_BERT4Rec"},
        {"num_negatives": 5},
        {"smoothing_neighbours": 5, "target_smoothing": 0},
        {"expert_loss_samples": 5, "expert_loss_on": "prediction"},
        {"lambda_unique": 0.5, "fusion": "sum"},
    ],
)
def test_keys_that_change_nothing_beside_the_others_are_named(configure, caplog, keys):
    model, key = keys.pop("model", "PRISM_SASRec"), next(iter(keys))
    configure(model, **keys)
    assert f"{key}: without effect with" in caplog.text or f"{key}: without effect on predictions" in caplog.text


def test_keys_that_are_read_are_not_named(configure, caplog):
    configure(window_stride=2, num_negatives=5, loss_type="sampled", target_smoothing=0)
    configure(target_smoothing=0.1, smoothing_neighbours=5, expert_loss_samples=4, training_mode="packed")
    assert "without effect" not in caplog.text


@pytest.mark.parametrize("change", [{"target_smoothing": 0.1}, {"loss_type": "sampled"}])
def test_the_reason_for_an_impossible_loss_is_the_right_one(configure, change):
    configure(fusion_scope="sequence", **change)
    with pytest.raises(PRISMError, match="impossible here: expert_loss_on: prediction"):
        configure(fusion_scope="sequence", expert_loss_on="prediction", **change)


def test_unreadable_yaml_names_file_and_line(configure, tmp_path):
    (tmp_path / "broken.yaml").write_text("epochs: 3\nlambda_synergy: [1, 2\n")
    with pytest.raises(PRISMError, match=r"broken\.yaml: cannot be read as yaml .*line 3"):
        configure(files=[str(tmp_path / "broken.yaml")])
    with pytest.raises(PRISMError, match=r"absent\.yaml: cannot be read"):
        configure(files=[str(tmp_path / "absent.yaml")])


def test_bpr_keeps_recboles_negative_sampling(configure):
    assert configure(loss_type="BPR")["train_neg_sample_args"]["distribution"] == "uniform"
    assert configure()["train_neg_sample_args"]["distribution"] == "none"


def test_a_dataset_brings_its_own_yaml(configure, data_path):
    (data_path / "tiny" / "tiny.yaml").write_text("MAX_ITEM_LIST_LENGTH: 7\nmodalities: [text]\n")
    assert configure()["modalities"] == ["text"]
    assert configure()["MAX_ITEM_LIST_LENGTH"] == 10  # what the user sets wins


def test_every_key_of_ours_is_documented_in_yaml():
    from recbole_prism.checks import CHECKS
    from recbole_prism.paths import PROPERTIES

    lines = (PROPERTIES / "model" / "PRISM.yaml").read_text().splitlines()
    documented = {line.split(":")[0] for line in lines if ":" in line and "# (" in line}
    assert set(CHECKS) | {"fusion"} == documented
