"""Synthetic sequences: what they promise, counted; and that a model trained on them shows it."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging

import numpy as np
import pytest
import torch

from recbole_prism.__main__ import main
from recbole_prism.errors import PRISMError
from recbole_prism.features import read_features
from recbole_prism.information import count, decompose
from recbole_prism.synthetic import MIXTURE, RULES, Sizes, parse_kinds, synthesize, write_dataset

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = Sizes(rows=320, clusters=4, next_items=5, repeats=4)
PARTS_OF = {"unique_image": "unique_a", "unique_text": "unique_b", "redundancy": "redundancy", "synergy": "synergy"}


@pytest.mark.parametrize("kind", RULES)
def test_bits_about_the_next_class_are_exactly_those_promised(kind):
    pytest.importorskip("clarabel")
    made, _ = synthesize((kind,), SMALL, seed=3)
    for part in range(3):
        rows = made.rows["part"] == part
        y, a, b = (made.rows[name][rows] for name in ("y", "a", "b"))
        assert (made.next_class[made.rows["target"][rows]] == y).all()
        bits = decompose(count(y, a, b, (4, 4, 4)))
        expected = dict.fromkeys(bits, 0.0)
        if RULES[kind][1]:
            expected[PARTS_OF[RULES[kind][1]]] = 2.0
        assert bits == pytest.approx(expected, abs=1e-6)


def test_a_class_does_not_tell_which_of_its_items_comes_next():
    made, _ = synthesize(("synergy",), SMALL, seed=0)
    counts = np.bincount(made.rows["target"][made.rows["part"] == 0])
    assert set(counts[counts > 0]) == {320 // 20}


@pytest.mark.parametrize("history", [2, 3])
def test_an_item_appears_in_about_as_many_histories_as_asked_for(history):
    made, _ = synthesize(MIXTURE, dataclasses.replace(SMALL, history=history), seed=0)
    items = made.rows["history"][made.rows["part"] == 0][:, 1:]
    assert np.unique(items, return_counts=True)[1].mean() == pytest.approx(SMALL.repeats, abs=0.5)


def test_histories_share_no_item_across_parts_nor_with_next_items():
    made, _ = synthesize(MIXTURE, SMALL, seed=0)
    rows = made.rows
    of_part = [set(rows["history"][rows["part"] == part][:, 1:].ravel()) for part in range(3)]
    assert not of_part[0] & of_part[1] and not of_part[0] & of_part[2] and not of_part[1] & of_part[2]
    targets, histories = set(rows["target"]), set().union(*of_part)
    assert not targets & histories and len(targets) == 20
    for row in rows["history"]:
        assert len(set(row)) == len(row)


def test_items_show_the_clusters_of_their_history_and_markers_the_group():
    made, features = synthesize(MIXTURE, SMALL, seed=0)
    rows = made.rows
    assert (made.image_cluster[rows["history"][:, 1:]] == rows["a"][:, None]).all()
    assert (made.text_cluster[rows["history"][:, 1:]] == rows["b"][:, None]).all()
    assert (rows["a"] == rows["b"])[rows["group"] == MIXTURE.index("redundant")].all()
    markers = [set(rows["history"][rows["group"] == group, 0]) for group in range(4)]
    assert all(len(m) == 4 for m in markers) and len(set().union(*markers)) == 16
    assert (made.image_cluster[sorted(set().union(*markers))] == -1).all()
    for name, clusters in (("image", made.image_cluster), ("text", made.text_cluster)):
        centres = np.stack([features[name][clusters == c].mean(0) for c in range(4)])
        nearest = (features[name] @ centres.T).argmax(1)
        assert (nearest == clusters)[clusters >= 0].all()


def test_the_seed_decides_everything():
    first, again, other = (synthesize(("noise",), SMALL, seed=seed)[0].rows for seed in (1, 1, 2))
    assert all((first[name] == again[name]).all() for name in first)
    assert not (first["target"] == other["target"]).all()


def test_files_and_command(tmp_path, capsys):
    arguments = ["synthesize", "toy", "--kind", "unique_text,noise", "--rows", "80", "--data_path", str(tmp_path)]
    assert main([*arguments, "--next_items", "5"]) == 0
    assert "group unique_text: the features tell 2 bits unique_text" in capsys.readouterr().out
    folder = tmp_path / "toy"
    report = json.loads((folder / "toy.report.json").read_text())["synthesize"]
    assert report["rows"] == {"train": 400, "valid": 400, "test": 400}  # 80 and 320 are the least that is balanced
    for part, n in report["rows"].items():
        assert len((folder / f"toy.{part}.inter").read_text().splitlines()) == 1 + n
    groups = [line.split("\t")[1] for line in (folder / "toy.user").read_text().splitlines()[1:]]
    assert {*groups} == {"unique_text", "noise"} and len(groups) == sum(report["rows"].values())
    shown = read_features(folder / "toy.image.safetensors")
    items = [line.split("\t") for line in (folder / "toy.item").read_text().splitlines()[1:]]
    assert shown.item_ids == [row[0] for row in items if row[1]]
    for file in ("toy.yaml", "toy.item"):  # a dataset of one's own need not have a yaml
        assert main(arguments) == 1
        assert "--force overwrites it" in capsys.readouterr().err
        (folder / file).unlink()


def test_what_cannot_be_made_is_an_error(tmp_path):
    with pytest.raises(PRISMError, match="kind 'sinergy' is unknown .*did you mean 'synergy'"):
        write_dataset("toy", parse_kinds("sinergy"), data_path=tmp_path)
    with pytest.raises(PRISMError, match="--clusters: 1 is too small"):
        write_dataset("toy", ("noise",), sizes=Sizes(clusters=1), data_path=tmp_path)
    with pytest.raises(PRISMError, match="--dimension: 3 cannot hold 4"):
        write_dataset("toy", ("noise",), sizes=Sizes(dimension=3), data_path=tmp_path)


@pytest.fixture
def trained(settings, tmp_path):
    """trained(kind, fusion) -> (model, test rows), after a few seconds of training."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    def train(kind: str, fusion: str):
        sizes = Sizes(rows=1600, clusters=2, next_items=5, repeats=8)
        write_dataset("toy", (kind,), sizes=sizes, data_path=tmp_path / "made")
        own = {"data_path": str(tmp_path / "made"), "fusion": fusion, "add_projections": False, "projection_init": 1.0}
        sizes = {"hidden_size": 16, "n_layers": 1, "train_batch_size": 128, "learning_rate": 0.005, "topk": [5]}
        settings.update(own, **sizes, valid_metric="Recall@5")
        settings["lambda_routing"] = 0.1  # on so few rows a larger one settles before the regressions do
        for key in ("load_col", "MAX_ITEM_LIST_LENGTH"):
            del settings[key]
        config = Config(model="PRISM_SASRec", dataset="toy", config_dict=settings)
        logging.getLogger().setLevel(logging.WARNING)
        init_seed(0, True)
        loaders = data_preparation(config, create_dataset(config))
        init_seed(0, True)
        model = get_model("PRISM_SASRec")(config, loaders[0]._dataset)
        trainer = get_trainer(config["MODEL_TYPE"], "PRISM_SASRec")(config, model)
        for epoch in range(8):
            trainer._train_epoch(loaders[0], epoch)
            model.train()
        return model.eval(), next(iter(loaders[2]))

    return train


@torch.no_grad()
def recall(model, batch) -> float:
    scores = model.full_sort_predict(batch[0])
    return (scores.topk(5).indices == batch[3][:, None]).any(1).float().mean().item()


def test_residual_experts_send_what_both_modalities_say_to_redundancy(trained):
    """Histories of held-out items, so that ids cannot know; the right expert has the most weight and is missed most."""
    model, batch = trained("redundant", "prism+residual")
    whole = recall(model, batch)
    assert whole > 0.95
    weights = dict(zip(model.fusion.names, model.expert_weights.mean(0).tolist(), strict=True))
    assert weights["redundancy"] > 0.5
    drops = {}
    for k, name in enumerate(model.fusion.names):
        zero = functools.partial(without, k=k)
        handle = model.fusion.gate.register_forward_hook(zero)
        drops[name] = whole - recall(model, batch)
        handle.remove()
    assert max(drops, key=drops.get) == "redundancy" and drops["redundancy"] > 0.05


def without(module, inputs, weights: torch.Tensor, k: int) -> torch.Tensor:
    return weights.index_fill(1, torch.tensor([k]), 0)


def test_ids_alone_know_nothing_about_held_out_items(trained):
    model, batch = trained("redundant", "none")
    assert recall(model, batch) < 0.65
