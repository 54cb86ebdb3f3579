"""RecBole's own entry points know our models, and nothing else changes."""

import subprocess
import sys

import numpy as np
import pytest
import torch

ALL = ["PRISM_SASRec", "PRISM_GRU4Rec", "PRISM_BERT4Rec"]


def run_script(path, code: str, timeout=150) -> str:
    script = path / "script.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=timeout, cwd=path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("name", ALL)
def test_run_recbole_trains_and_tests(settings, name):
    from recbole.quick_start import run_recbole

    result = run_recbole(model=name, dataset="tiny", config_dict=settings)
    assert 0 <= result["test_result"]["ndcg@10"] <= 1


def test_embedded_ml_100k_trains_from_its_own_features(tmp_path):
    from recbole.config import Config

    from recbole_prism.modalities import find_feature_file

    config = Config(model="PRISM_SASRec", dataset="ml-100k")
    for modality in ("image", "text"):
        assert find_feature_file(config, f"ml-100k.{modality}.safetensors").is_file()


def test_data_path_is_respected_for_ml_100k_too(tmp_path):
    from recbole.config import Config

    from tests.dataset_made import write_dataset

    folder = write_dataset(tmp_path / "mine", "ml-100k")
    config = Config(model="PRISM_SASRec", dataset="ml-100k", config_dict={"data_path": str(folder)})
    assert config["data_path"] == str(folder / "ml-100k")


CURES_BY_HAND = """
import sys, types, numpy as np, torch
np.float_, np.complex_, np.unicode_ = np.float64, np.complex128, np.str_
ray, ray.tune = types.ModuleType("ray"), types.ModuleType("ray.tune")
sys.modules.update({"ray": ray, "ray.tune": ray.tune})
load = torch.load
torch.load = lambda *a, **k: load(*a, **{"weights_only": False, **k})
"""


@pytest.mark.parametrize("name", ALL)
def test_a_new_process_that_never_imported_us_loads_a_checkpoint_to_the_same_scores(settings, tmp_path, name):
    """RecBole alone needs cures on these packages, which this process applies by itself instead of importing us."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    config = Config(model=name, dataset="tiny", config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    train, valid, test = data_preparation(config, create_dataset(config))
    model = get_model(name)(config, train._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
    trainer.fit(train, valid, saved=True)
    file = trainer.saved_model_file
    model.load_state_dict(torch.load(file, weights_only=False)["state_dict"])
    model.eval()
    interaction = next(iter(test))[0]
    expected = model.full_sort_predict(interaction).detach().numpy()
    code = f"""{CURES_BY_HAND}
from recbole.quick_start import load_data_and_model
assert "recbole_prism" not in sys.modules
config, model, dataset, train, valid, test = load_data_and_model({file!r})
model.eval()
np.save({str(tmp_path / "scores.npy")!r}, model.full_sort_predict(next(iter(test))[0]).detach().numpy())
"""
    run_script(tmp_path, code)
    np.testing.assert_array_equal(np.load(tmp_path / "scores.npy"), expected)


def test_checkpoints_do_not_hold_features(settings):
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model

    config = Config(model="PRISM_SASRec", dataset="tiny", config_dict=settings)
    train, _, _ = data_preparation(config, create_dataset(config))
    model = get_model("PRISM_SASRec")(config, train._dataset)
    assert not [key for key in model.state_dict() if "values" in key or "covered" in key]


def test_case_study_functions_work(build):
    from recbole.utils.case_study import full_sort_scores, full_sort_topk

    config, model, loaders = build("PRISM_SASRec")
    users = np.array([1, 3])
    scores = full_sort_scores(users, model, loaders[2], device=config["device"])
    top_scores, top_items = full_sort_topk(users, model, loaders[2], k=3, device=config["device"])
    assert scores.shape == (2, model.n_items) and top_items.shape == (2, 3)
    torch.testing.assert_close(top_scores, torch.topk(scores, 3).values)


def test_hyper_tuning_runs_our_model(settings, tmp_path):
    pytest.importorskip("hyperopt")
    import yaml
    from recbole.quick_start import objective_function
    from recbole.trainer import HyperTuning

    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**settings, "model": "PRISM_SASRec", "dataset": "tiny"}))
    (tmp_path / "space.hyper").write_text("lambda_synergy choice [0.0,0.5]\n")
    tuning = HyperTuning(
        objective_function,
        params_file=str(tmp_path / "space.hyper"),
        fixed_config_file_list=[str(tmp_path / "run.yaml")],
        algo="exhaustive",
    )
    tuning.run()
    assert len(tuning.params2result) == 2


def test_several_processes_train_our_model(settings, tmp_path):
    code = f"""
import recbole_prism
from recbole.quick_start import run
if __name__ == "__main__":
    result = run("PRISM_SASRec", "tiny", config_dict={settings | {"training_mode": "rows"}!r}, nproc=2, port="29731")
    print("ndcg", result["test_result"]["ndcg@10"])
"""
    assert "ndcg" in run_script(tmp_path, code)


def test_importing_us_leaves_sasrec_bit_identical(settings, tmp_path):
    def scores(first_lines: str, name: str) -> np.ndarray:
        code = f"""{first_lines}
import sys
import numpy as np
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed
config = Config("SASRec", "tiny", config_dict={settings | {"train_neg_sample_args": None}!r})
init_seed(config["seed"], config["reproducibility"])
train, valid, test = data_preparation(config, create_dataset(config))
model = get_model("SASRec")(config, train._dataset)
trainer = get_trainer(config["MODEL_TYPE"], "SASRec")(config, model)
assert type(trainer).__module__ == "recbole.trainer.trainer"
trainer.fit(train, valid, saved=False)
model.eval()
np.save({str(tmp_path / name)!r}, model.full_sort_predict(next(iter(test))[0]).detach().numpy())
"""
        run_script(tmp_path, code)
        return np.load(tmp_path / f"{name}.npy")

    np.testing.assert_array_equal(scores("import recbole_prism", "with"), scores(CURES_BY_HAND, "without"))


def test_import_is_cheap_beside_recbole(tmp_path):
    """What the import itself runs, without torch and RecBole, which are in memory already."""
    code = f"""{CURES_BY_HAND}
import recbole.quick_start, recbole.model.sequential_recommender, recbole.trainer, time
start = time.process_time()
import recbole_prism
print(time.process_time() - start)
"""
    assert (
        float(run_script(tmp_path, code)) < 1.0
    )  # 0.3 s is the aim, measured in benchmarks; this catches a torch of ours
