"""Plans say which runs there are; tables say what came out of them."""

import csv
import io
import json

import numpy as np
import pytest

from recbole_prism import PRISMError
from recbole_prism.compare import tables
from recbole_prism.compare.plan import CONTROLS, SHARED, control_settings, make_plan
from recbole_prism.config import known_keys
from recbole_prism.features import read_features


@pytest.fixture
def plan():
    return make_plan(
        {"SASRec": {"hidden_size": 32}, "PRISM_SASRec": None, "Pop": None},
        ["a", "b"],
        2,
        controls=["no_losses", "only_text"],
        settings={"epochs": 3},
    )


def test_a_plan_is_every_combination(plan):
    jobs = plan.jobs()
    assert len(jobs) == 2 * 2 * 5 and len({job.folder(tables.Path("x")) for job in jobs}) == 20
    labels = ["SASRec", "PRISM_SASRec", "PRISM_SASRec+no_losses", "PRISM_SASRec+only_text", "Pop"]
    assert [job.label for job in jobs[:5]] == labels and jobs[0].seed == 1 and jobs[-1].seed == 2
    assert jobs[0].settings["hidden_size"] == 32 and "hidden_size" not in jobs[1].settings
    assert jobs[2].settings["lambda_synergy"] == 0 and jobs[3].settings["modalities"] == ["text"]
    assert all(job.settings["epochs"] == 3 and job.settings["seed"] == job.seed for job in jobs)
    assert len({json.dumps(job.settings["eval_args"]) for job in jobs}) == 1
    assert jobs[0].settings["train_neg_sample_args"] is None


def test_another_setting_is_another_folder(plan):
    before = plan.jobs()[0].folder(tables.Path("x"))
    plan.settings["epochs"] = 4
    assert plan.jobs()[0].folder(tables.Path("x")) != before


def test_parts_of_eval_args_leave_the_others_shared():
    models = {"SASRec": {}, "drawn": {"model": "SASRec", "eval_args": {"mode": "pop100"}}}
    jobs = make_plan(models, ["a"], 1, settings={"eval_args": {"mode": "uni100"}}).jobs()
    assert [job.settings["eval_args"]["mode"] for job in jobs] == ["uni100", "pop100"]
    for job in jobs:
        assert {**job.settings["eval_args"], "mode": "full"} == SHARED["eval_args"]


def test_a_label_names_a_model_with_settings_of_its_own():
    models = {"PRISM, dropout .3": {"model": "PRISM_SASRec", "hidden_dropout_prob": 0.3}, "PRISM_SASRec": {}}
    jobs = make_plan(models, ["a"], 1, controls=["no_losses"], baseline="PRISM_SASRec").jobs()
    assert [(job.label, job.model) for job in jobs[:2]] == [
        ("PRISM, dropout .3", "PRISM_SASRec"),
        ("PRISM, dropout .3+no_losses", "PRISM_SASRec"),
    ]
    assert jobs[0].settings["hidden_dropout_prob"] == 0.3 and "model" not in jobs[0].settings
    assert jobs[0].folder(tables.Path("x")).parent.name == "PRISM, dropout .3"
    for label in ("a/b", "..", "PRISM_SASRec+no_losses"):
        with pytest.raises(PRISMError, match="cannot name a folder"):
            make_plan({label: {"model": "PRISM_SASRec"}}, ["a"], 1)


def test_files_of_tuned_settings_come_before_what_all_share(tmp_path):
    """One for each dataset; ``settings`` and the shared protocol win over them, a model's own settings over those."""
    for dataset, width in (("a", 16), ("b", 24)):
        tuned = f"model: SASRec\ndataset: {dataset}\nhidden_size: {width}\nepochs: 9\nseed: 77\ntopk: [3]\n"
        (tmp_path / f"SASRec-{dataset}.yaml").write_text(tuned)
    own = {"config_files": f"{tmp_path}/{{model}}-{{dataset}}.yaml", "n_heads": 1}
    jobs = make_plan({"SASRec": own}, ["a", "b"], 1, settings={"epochs": 3}).jobs()
    assert [job.settings["hidden_size"] for job in jobs] == [16, 24]
    for job in jobs:
        said = {key: job.settings[key] for key in ("epochs", "seed", "topk", "n_heads")}
        assert said == {"epochs": 3, "seed": 1, "topk": [10, 20], "n_heads": 1}
        assert not {"model", "dataset", "config_files"} & set(job.settings)
    own["config_files"] = [f"{tmp_path}/SASRec-a.yaml"]
    with pytest.raises(PRISMError, match="is for a, not for b"):
        make_plan({"SASRec": own}, ["a", "b"], 1)
    with pytest.raises(PRISMError, match="is for SASRec, not for GRU4Rec"):
        make_plan({"GRU4Rec": own}, ["a"], 1)
    (tmp_path / "SASRec-a.yaml").write_text("hiden_size: 8\n")
    with pytest.raises(PRISMError, match="hiden_size: known neither to RecBole nor to SASRec"):
        make_plan({"SASRec": own}, ["a"], 1)


def test_controls_set_known_keys():
    assert {key for control in CONTROLS.values() for key in control} <= known_keys()
    assert control_settings("only_image") == {"modalities": ["image"]}
    with pytest.raises(PRISMError, match="no modality 'txt'.*did you mean 'text'"):
        control_settings("only_txt", {"epochs": 1})
    both = make_plan(["PRISM_SASRec"], ["a"], 1, controls=["noise_features+projections_only"]).jobs()[1]
    assert both.features == "noise" and both.settings["fusion"] == "none"
    assert both.label == "PRISM_SASRec+noise_features+projections_only"


def test_a_control_changes_what_is_set(data_path):
    files = {"image": "my.safetensors", "text": None}
    assert control_settings("only_image", {"modalities": files}) == {"modalities": {"image": "my.safetensors"}}
    assert control_settings("without_synergy+without_redundancy") == {"experts_off": ["synergy", "redundancy"]}
    off = control_settings("without_synergy", {"experts_off": ["redundancy"]})
    assert off == {"experts_off": ["redundancy", "synergy"]}
    assert control_settings("no_losses+no_unique_loss")["lambda_unique"] == 0
    assert control_settings("no_smoothing+mlp") == {"target_smoothing": 0, "fusion": "mlp"}
    lambdas = {"image": 0.1, "text": 0.2}
    off = ["unique_image", "synergy"]
    assert control_settings("only_text", {"lambda_unique": lambdas, "experts_off": off}) == {
        "modalities": ["text"],
        "lambda_unique": 0.2,
        "experts_off": ["synergy"],
    }
    (data_path / "tiny" / "tiny.yaml").write_text("modalities: {kind: category, text: }\n")
    plan = make_plan("PRISM_SASRec", "tiny", 1, controls="only_kind", settings={"data_path": str(data_path)})
    assert plan.jobs()[1].settings["modalities"] == {"kind": "category"}
    for name, message in (
        ("only_audio", "no modality .audio.; there are"),
        ("without_sinergy", "no expert 'sinergy' .did you mean 'synergy'"),
        ("sum+gate", "sets fusion to 'sum' and to 'gate'"),
    ):
        with pytest.raises(PRISMError, match=message):
            control_settings(name, {"modalities": files})


@pytest.mark.parametrize("kind", ["shuffled", "noise"])
def test_control_features_tell_nothing_but_keep_their_scale(settings, data_path, tmp_path, kind):
    from recbole_prism.compare.controls import write_control_features

    job = {"model": "PRISM_SASRec", "dataset": "tiny", "seed": 1, "features": kind, "settings": settings}
    written = write_control_features(tmp_path, job)
    assert set(written) == {"image", "text"}
    assert write_control_features(tmp_path, job) == written
    true, control = read_features(data_path / "tiny" / "tiny.text.safetensors"), read_features(written["text"])
    assert control.item_ids == true.item_ids and not (control.features == true.features).all(1).any()
    if kind == "shuffled":
        assert sorted(control.features.tolist()) == sorted(true.features.tolist())
    np.testing.assert_allclose(control.features.std(), true.features.std(), rtol=0.3)
    load = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "category"]}
    fields = {**settings, "modalities": {"kind": "category"}, "load_col": load}
    control = read_features(write_control_features(tmp_path, {**job, "settings": fields})["kind"])
    assert len(control.item_ids) == 20 and control.features.shape[1] == 3
    if kind == "shuffled":
        assert set(np.unique(control.features)) == {0, 1} and (control.features.sum(1) == 1).all()


@pytest.mark.parametrize(
    "fusion, control, keys",
    [
        ("mrdib", "no_losses", {"alpha_bottleneck", "alpha_redundancy", "alpha_unique"}),
        ("prism+residual", "no_losses", {"lambda_routing"}),
        ("prism+mib", "no_losses", {"lambda_unique", "lambda_synergy", "lambda_redundancy", "alpha_bottleneck"}),
        ("prism", "uniform_gate", {"fusion_temperature"}),
        ("gate", "uniform_gate", {"fusion_temperature"}),
        ("prism+residual", "without_synergy", {"experts_off"}),
        ("mrdib", "no_smoothing", {"target_smoothing"}),
    ],
)
def test_a_control_changes_what_the_fusion_reads(fusion, control, keys):
    assert set(control_settings(control, {"fusion": fusion})) == keys


@pytest.mark.parametrize(
    "fusion, control",
    [
        ("mrdib", "uniform_gate"),
        ("mrdib", "without_synergy"),
        ("prism+residual", "no_unique_loss"),
        ("prism", "sum+no_synergy_loss"),
        ("none", "no_losses"),
    ],
)
def test_a_control_without_effect_is_refused(fusion, control):
    with pytest.raises(PRISMError, match="control .* has no effect with fusion: "):
        control_settings(control, {"fusion": fusion})


def test_a_plan_knows_the_fusion_of_its_models(data_path):
    settings = {"data_path": str(data_path)}
    plan = make_plan("MRdIB_SASRec", "tiny", 1, controls="no_losses", settings=settings)
    assert plan.jobs()[1].settings["alpha_unique"] == 0 and "lambda_unique" not in plan.jobs()[1].settings
    with pytest.raises(PRISMError, match="'uniform_gate' has no effect with fusion: mrdib"):
        make_plan("MRdIB_SASRec", "tiny", 1, controls="uniform_gate", settings=settings)


@pytest.mark.parametrize("fusion", ["prism", "prism+mib", "prism+residual", "mrdib"])
def test_the_mlp_has_as_many_parameters_as_the_fusion(build, fusion):
    def count(**settings) -> int:
        return sum(p.numel() for p in build("PRISM_SASRec", **settings)[1].parameters())

    ours, changed = count(fusion=fusion), control_settings("mlp", {"fusion": fusion})
    assert count(**changed) == pytest.approx(ours, rel=0.02)


def test_datasets_that_hold_rows_are_compared_by_rows(data_path):
    (data_path / "tiny" / "tiny.yaml").write_text("benchmark_filename: [train, valid, test]\n")
    (plain,) = make_plan("SASRec", "tiny", 1, settings={"data_path": str(data_path)}).jobs()
    assert plain.settings.get("training_mode") is None


def test_a_uniform_gate_is_uniform(build):
    import torch

    _, model, _ = build("PRISM_SASRec", **control_settings("uniform_gate"))
    model.eval()
    with torch.no_grad():
        model(torch.tensor([[1, 2, 3] + [0] * 7]), torch.tensor([3]))
    torch.testing.assert_close(model.expert_weights, torch.full((1, 4), 0.25))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": ["SASReq"]}, "model 'SASReq' is unknown .did you mean 'SASRec'"),
        ({"models": []}, "models: .* name at least one"),
        ({"seeds": 0}, "seeds: .* name at least one"),
        ({"seeds": "x"}, "seeds: 'x' is not allowed"),
        ({"seeds": [1, 1]}, "names one twice"),
        ({"controls": ["no_loses"]}, "control 'no_loses' is unknown .did you mean 'no_losses'"),
        ({"controls": ["mlp+no_loses"]}, "control 'no_loses' is unknown .did you mean 'no_losses'"),
        ({"controls": ["noise_features+shuffled_features"]}, "asks for noise and for shuffled features"),
        ({"baseline": "Pip"}, "baseline 'Pip' is not compared .did you mean 'Pop'"),
        ({"settings": {"eval_args": "full"}}, "eval_args: 'full' is not a mapping of split, group_by, order, mode"),
        ({"settings": {"eval_args": {"spilt": 1}}}, "eval_args: 'spilt' is not one of split"),
        ({"models": {"Pop": 3}}, "Pop needs its settings as `key: value`"),
    ],
)
def test_bad_plans_are_refused(change, message):
    with pytest.raises(PRISMError, match=message):
        make_plan(**{"models": ["Pop"], "datasets": ["a"], "seeds": 1, **change})


@pytest.fixture
def rows(tmp_path):
    """Three seeds of a baseline and of a model that is better for every user; one run of a third is missing."""
    plan = make_plan(["Pop", "SASRec", "BPR"], ["d"], 3)
    rng = np.random.default_rng(0)
    for job in plan.jobs():
        if job.label == "BPR" and job.seed == 2:
            continue
        folder = job.folder(tmp_path)
        folder.mkdir(parents=True)
        (folder / "job.json").write_text("{}")
        better = {"Pop": 0.0, "SASRec": 0.1, "BPR": 0.0001}[job.label]
        values = rng.random(40) * 0.1 + 0.2 + better
        np.savez(folder / "users.npz", **{"users": np.array([f"u{n}" for n in range(40)]), "ndcg@10": values})
        test = {"ndcg@10": float(values.mean()), "itemcoverage@10": 0.5 + better * (1 + job.seed / 100)}
        result = {"test": test, "seconds_per_epoch": 1.5, "parameters": 12_000}
        (folder / "result.json").write_text(json.dumps({**result, "peak_memory": 2**20 * 300}))
    return tables.collect(plan.jobs(), tmp_path, "Pop")


def test_rows_hold_means_gains_and_tests(rows):
    pop, sasrec, bpr = rows
    assert [len(row.values["ndcg@10"]) for row in rows] == [3, 3, 2]
    assert sasrec.against["ndcg@10"].gain == pytest.approx(0.4, abs=0.05)
    assert tables.marks(sasrec.against["ndcg@10"]) == "*†" and "†" not in tables.marks(bpr.against["ndcg@10"])
    assert not pop.against and sasrec.std("ndcg@10") > 0
    assert tables.ranking(rows, "d", "ndcg@10")["SASRec"] == 1
    assert all(tables.Path(folder).is_dir() for row in rows for folder in row.runs.values())


def test_a_metric_without_a_value_for_each_user_is_tested_over_seeds_alone(rows):
    comparison = rows[1].against["itemcoverage@10"]
    assert tables.marks(comparison) == "*" and comparison.gain > 0 and comparison.p_users is None


def test_of_some_metrics_the_smallest_is_best():
    rows = [tables.Row("d", label, {"giniindex@10": {1: value}}) for label, value in (("a", 0.9), ("b", 0.3))]
    assert tables.ranking(rows, "d", "giniindex@10") == {"a": 2, "b": 1}


def test_tables_mark_best_and_second(rows):
    markdown, latex = tables.markdown_table(rows, ["ndcg@10"]), tables.latex_table(rows, ["ndcg@10"])
    line = {row.split(" | ")[1].split()[0]: row for row in markdown.splitlines()[2:]}
    assert "**0.3" in line["SASRec"] and "**" not in line["Pop"] + line["BPR"]
    assert sum("<u>0.2" in row for row in line.values()) == 1
    assert latex.count(r"\textbf{") == 1 and latex.count(r"\underline{") == 1 and r"$\pm$" in latex
    assert "%" not in latex.replace(r"\%", "")
    text = tables.text_table(rows, ["ndcg@10"])
    assert "12,000" in text and "1.50" in text and "300" in text
    for table in (markdown, latex, text):
        assert "BPR (2 of 3 seeds)" in table and table.count("seeds)") == 1


def test_csv_and_json_hold_everything(rows):
    lines = [line for line in csv.DictReader(io.StringIO(tables.csv_table(rows))) if line["metric"] == "ndcg@10"]
    assert [line["model"] for line in lines] == ["Pop", "SASRec", "BPR"] and lines[2]["seeds"] == "2"
    assert float(lines[1]["p_users_corrected"]) < 0.05 and lines[0]["p_seeds"] == ""
    assert len(json.loads(tables.json_table(rows))[1]["runs"]) == 3


def test_plain_backbones_train_packed_where_they_can():
    first, second = make_plan({"SASRec": None, "GRU4Rec": {"training_mode": "rows"}}, ["a"], 1).jobs()
    assert first.settings["training_mode"] == "packed" and second.settings["training_mode"] == "rows"
    assert make_plan(["BERT4Rec"], ["a"], 1).jobs()[0].settings["training_mode"] == "packed"
    by_rows = make_plan({"BERT4Rec": {"benchmark_filename": ["a", "b", "c"]}}, ["a"], 1).jobs()[0]
    assert by_rows.settings["training_mode"] == "rows"
    assert "training_mode" not in make_plan(["NARM"], ["a"], 1).jobs()[0].settings
    as_recbole = make_plan({"SASRec": {"training_mode": None}}, ["a"], 1).jobs()[0].settings
    assert as_recbole["training_mode"] is None and as_recbole["train_neg_sample_args"] is None


def test_cold_items_are_another_comparison():
    plain, cold = (make_plan(["Pop"], ["a"], 1, cold_items=share).jobs()[0] for share in (None, 0.1))
    assert plain.folder(tables.Path("x")) != cold.folder(tables.Path("x")) and cold.cold_items == 0.1
    with pytest.raises(PRISMError, match="cold_items: 2 is not allowed"):
        make_plan(["Pop"], ["a"], 1, cold_items=2)
