"""Each cure is tested by running the RecBole code it mends, in a process of its own where that matters."""

import subprocess
import sys

import pytest
import torch
from recbole.utils import get_trainer

from recbole_prism import compat


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_process_that_makes_no_config_tests_a_checkpoint(build):
    """RecBole gives numpy its old names where a Config is made; that of a checkpoint is not."""
    from recbole.utils import get_trainer

    config, model, loaders = build("PRISM_SASRec")
    trainer = get_trainer(config["MODEL_TYPE"], "PRISM_SASRec")(config, model)
    trainer.fit(loaders[0], loaders[1], verbose=False)
    code = (
        "import sys, recbole_prism; sys.argv = ['x']; "
        "from recbole.quick_start import load_data_and_model; from recbole.utils import get_trainer; "
        f"config, model, _, _, _, test = load_data_and_model({trainer.saved_model_file!r}); "
        "trainer = get_trainer(config['MODEL_TYPE'], config['model'])(config, model); "
        "print({name: float(value) for name, value in trainer.evaluate(test, load_best_model=False).items()})"
    )
    assert eval(run_python(code).splitlines()[-1]) == dict(trainer.evaluate(loaders[2]))


def test_recbole_config_is_built_on_this_numpy(build):
    from recbole.config import Config

    assert Config(model="Pop", dataset="ml-100k")["model"] == "Pop"


def test_quick_start_imports_without_ray_and_reports_nowhere():
    code = (
        "import recbole_prism, sys; from recbole.quick_start import quick_start; "
        "print(quick_start.tune.report(recall=1.0), 'recbole_prism' in (quick_start.tune.__doc__ or ''))"
    )
    real = "import importlib.util as u; print(u.find_spec('ray') is not None)"
    if run_python(real).strip() == "True":
        pytest.skip("ray is installed here, so there is nothing to stand in for")
    assert run_python(code).split() == ["None", "True"]


def test_a_ray_that_imports_is_left_alone(tmp_path):
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "__init__.py").write_text("")
    (tmp_path / "ray" / "tune.py").write_text("def report(**metrics): return 'real'")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import recbole_prism, ray.tune; print(ray.tune.report())"
    )
    assert run_python(code).strip() == "real"


def test_a_ray_that_dies_on_import_is_stubbed(tmp_path):
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "__init__.py").write_text("import numpy as np; np.bool8x")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import recbole_prism.compat as c; "
        "import recbole_prism; from recbole.quick_start import run_recbole; print(c.MENDED['ray_stub'])"
    )
    assert "AttributeError" in run_python(code)


def test_checkpoints_with_a_config_load_for_recbole_only(build, tmp_path):
    import recbole.trainer.trainer as trainer_module

    config, model, _ = build("SASRec", train_neg_sample_args=None)
    trainer = trainer_module.Trainer(config, model)
    trainer._save_checkpoint(0, verbose=False)
    trainer.resume_checkpoint(trainer.saved_model_file)
    assert trainer.start_epoch == 1
    with pytest.raises(Exception, match="weights_only|Unsupported"):
        torch.load(trainer.saved_model_file)


def test_lightgcn_builds_its_sparse_matrix(build):
    _, model, _ = build(
        "LightGCN", eval_args={"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": "user"}
    )
    assert model.norm_adj_matrix.is_sparse


def test_anomaly_detection_is_off_after_all_models_are_imported():
    culprit, ours = "import recbole.model.sequential_recommender.sine", "import recbole_prism"
    for first, second in ((culprit, ours), (ours, culprit)):
        assert run_python(f"{first}\n{second}\nimport torch; print(torch.is_anomaly_enabled())").strip() == "False"


def test_anomaly_detection_can_still_be_asked_for():
    code = "import recbole_prism, torch; torch.autograd.set_detect_anomaly(True); import recbole.quick_start; "
    assert run_python(code + "print(torch.is_anomaly_enabled())").strip() == "True"


def test_exhaustive_search_runs_with_this_hyperopt(tmp_path):
    pytest.importorskip("hyperopt")
    from recbole.trainer import HyperTuning

    space = tmp_path / "space.hyper"
    space.write_text("learning_rate choice [0.1,0.2]\n")

    def objective(config_dict, config_file_list):
        return {
            "model": "x",
            "best_valid_score": config_dict["learning_rate"],
            "valid_score_bigger": True,
            "best_valid_result": {"a": 1},
            "test_result": {"a": 1},
        }

    tuning = HyperTuning(objective, params_file=str(space), algo="exhaustive")
    tuning.run()
    assert tuning.best_params["learning_rate"] == 0.2


def test_general_models_are_evaluated_by_coverage_too(build):
    metrics = ["NDCG", "ItemCoverage", "AveragePopularity", "GiniIndex"]
    config, model, loaders = build("Pop", metrics=metrics, topk=[3], valid_metric="NDCG@3")
    trainer = get_trainer(config["MODEL_TYPE"], "Pop")(config, model)
    trainer.fit(loaders[0], loaders[1], verbose=False)
    first, second = (trainer.evaluate(loaders[2]) for _ in range(2))
    assert first == second and 3 / 20 <= first["itemcoverage@3"] <= 1 and "counts_of_metrics" in compat.MENDED


def test_cures_are_applied_once():
    load = torch.load
    before = dict(compat.MENDED)
    assert compat.apply() == before
    assert torch.load is load
