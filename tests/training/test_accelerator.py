"""What is trained and evaluated on a GPU never meets a tensor on the CPU (``tests/accelerator.py`` pretends one)."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

FIELDS = {"load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "category"]}}
CASES = {
    "PRISM_SASRec": {},
    "SASRec": {"training_mode": "packed", "train_neg_sample_args": None, "cosine_temperature": 0.1},
    "PRISM_GRU4Rec": {"loss_type": "sampled", "ema_decay": 0.9, "missing": "learned"},
    "PRISM_SASRecF": {"selected_features": ["category"], **FIELDS},
    "PRISM_BERT4Rec": {},
    "BERT4Rec": {"training_mode": "packed", "train_neg_sample_args": None},
    "MRdIB_SASRec": {"training_mode": "rows"},
    "PRISM_NARM": {"fusion": "prism+residual"},
    "PRISM_CORE": {"score_items": "content"},
    "PRISM_STAMP": {"expert_loss_on": "prediction"},
    "PRISM_LightSANs": {"fusion_scope": "causal", "fusion": "prism+mib", "modality_dropout": 0.2},
}


RECOMMENDED = ("PRISM_GRU4Rec", "PRISM_BERT4Rec", "PRISM_NARM", "SASRec")


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    from tests.dataset_made import write_dataset

    folder = tmp_path_factory.mktemp("accelerator")
    write_dataset(folder)
    settings = {"data_path": str(folder), "checkpoint_dir": str(folder), "epochs": 1, "show_progress": False}
    settings |= {"train_batch_size": 64, "MAX_ITEM_LIST_LENGTH": 10, "hidden_size": 8, "embedding_size": 8}
    settings |= {"inner_size": 16, "expert_hidden_size": 12, "fusion_hidden_size": 10, "use_gpu": False}
    settings |= {
        "metrics": ["Recall", "NDCG"],
        "valid_metric": "NDCG@10",
        "load_col": FIELDS["load_col"] | {"item": ["item_id"]},
    }
    cases = [*CASES.items(), *((name, {"recommend": True, "train_neg_sample_args": None}) for name in RECOMMENDED)]
    command = [sys.executable, "-m", "tests.accelerator", json.dumps(settings), json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
    assert len(found) == len(cases), done.stderr[-3000:]
    return dict(zip([*CASES, *(f"recommended by {name}" for name in RECOMMENDED)], found, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_trained_there_and_evaluated_here(lines, name):
    assert "error" not in lines[name], lines[name]["error"]
    assert lines[name]["there"] == pytest.approx(lines[name]["here"], abs=1e-4)
    assert any(lines[name]["there"].values())


@pytest.mark.parametrize("name", RECOMMENDED)
def test_recommendations_and_explanations_are_the_same_there(lines, name):
    line = lines[f"recommended by {name}"]
    assert "error" not in line, line["error"]
    assert line["there"] == line["here"] and len(line["here"]) >= 4
