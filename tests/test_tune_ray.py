"""The smallest search on a Ray cluster that is started here."""

from __future__ import annotations

import importlib.metadata
import json

import pytest
import yaml

from recbole_prism.__main__ import main

HAS_RAY = any(importlib.metadata.distributions(name="ray"))  # compat's stand-in is a module, but nothing installed


@pytest.fixture
def arguments(settings, tmp_path):
    (tmp_path / "space.hyper").write_text("learning_rate loguniform -7,-4\nexpert_hidden_size quniform 8,12,4\n")
    pairs = [f"{key}={json.dumps(value)}" for key, value in {**settings, "epochs": 2}.items()]
    options = ["--model=PRISM_GRU4Rec", "--dataset=tiny", "--trials=2", f"--space={tmp_path / 'space.hyper'}"]
    return ["tune", *options, f"--output={tmp_path / 'study'}", "--ray", "--set", *pairs]


@pytest.mark.skipif(HAS_RAY, reason="ray is installed")
def test_without_ray_one_line_says_what_to_install(arguments, capsys):
    assert main(arguments) == 1
    assert "pip install 'recbole-prism[ray]'" in capsys.readouterr().err


@pytest.mark.skipif(not HAS_RAY, reason="ray is not installed; pip install 'recbole-prism[ray]'")
def test_a_search_on_ray_writes_its_best(arguments, tmp_path, capsys):
    import ray

    assert hasattr(ray, "__version__"), "a real ray wins over the stand-in"
    assert main(arguments) == 0
    assert "2 trials, 0 failed" in capsys.readouterr().out
    best = yaml.safe_load((tmp_path / "study" / "best.yaml").read_text())
    assert best["expert_hidden_size"] in (8, 12) and isinstance(best["expert_hidden_size"], int)
    assert best["epochs"] == 2 and (best["model"], best["dataset"]) == ("PRISM_GRU4Rec", "tiny")
    trials = [folder for folder in (tmp_path / "study" / "ray").iterdir() if folder.is_dir()]
    assert len(trials) == 2 and all((folder / "result.json").read_text() for folder in trials)
