"""The factory, ``plug``, the list of models, and what is said of models that cannot be wrapped."""

import json
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from recbole_prism.errors import PRISMError
from recbole_prism.models.table import BACKBONES, MODELS, REFUSED

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def table_as_it_was():
    """What a test plugs is forgotten afterwards."""
    tables = [(table, dict(table)) for table in (BACKBONES, MODELS)]
    yield
    for table, before in tables:
        table.clear()
        table.update(before)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_models_that_cannot_be_wrapped_are_named_with_the_reason(name):
    from recbole.utils import get_model

    with pytest.raises(PRISMError, match=f"PRISM_{name}: RecBole's {name} cannot be wrapped: it "):
        get_model(f"PRISM_{name}")


def test_the_command_lists_all_models(capsys):
    from recbole_prism.__main__ import main

    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in (*BACKBONES, *REFUSED, *REFUSED.values()))
    assert main(["models", "--format=json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row["backbone"] for row in listed["models"]] == list(BACKBONES)
    assert next(row for row in listed["models"] if row["backbone"] == "SASRec")["training"] == "packed, rows"


def test_the_document_holds_the_table():
    from recbole_prism.models.listing import as_markdown

    document = Path(__file__).parents[1] / "docs" / "models.md"
    assert as_markdown() in document.read_text(), "put the output of `recbole-prism models --format=markdown` there"


def test_classes_are_pickled_by_reference():
    from recbole_prism.models import factory

    for name in ("PRISM_NARM", "MRdIB_NARM", "PRISM_SASRec", "MRdIB_SASRec"):
        made = getattr(factory, name)
        assert pickle.loads(pickle.dumps(made)) is made
        assert made.__name__ == name and issubclass(made, getattr(factory, name.replace("MRdIB", "PRISM")))


PLUGIN = '''
import torch
from torch import nn
from recbole.model.abstract_recommender import SequentialRecommender
from recbole_prism import plug


class Mean(SequentialRecommender):
    """Scores by the mean of the history, scaled by a key of its own."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.item_embedding = nn.Embedding(self.n_items, 8, padding_idx=0)
        self.scale = config["mean_scale"]
        self.loss_fct = nn.CrossEntropyLoss()

    def forward(self, item_seq, item_seq_len):
        return self.scale * self.item_embedding(item_seq).sum(1) / item_seq_len[:, None]

    def full_sort_predict(self, interaction):
        states = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return states @ self.item_embedding.weight.T

    def predict(self, interaction):
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID][:, None])[:, 0]

    def calculate_loss(self, interaction):
        return self.loss_fct(self.full_sort_predict(interaction), interaction[self.POS_ITEM_ID])


PRISM_Mean = plug(Mean, defaults={"mean_scale": 2.0, "loss_type": "CE"})
'''


def test_plug_wraps_a_users_model_that_a_new_process_loads(settings, tmp_path, monkeypatch):
    from recbole.quick_start import run_recbole

    (tmp_path / "mean_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    import mean_plugin

    assert mean_plugin.PRISM_Mean.__module__ == "mean_plugin"
    result = run_recbole(model="PRISM_Mean", dataset="tiny", config_dict=settings)
    assert 0 <= result["test_result"]["recall@10"] <= 1
    (checkpoint,) = (tmp_path / "saved").glob("PRISM_Mean*.pth")
    code = f"""
        import sys
        sys.argv = ["test"]
        import recbole_prism
        from recbole_prism.models import factory
        assert not [name for name in vars(factory) if name.startswith("PRISM_")], "made before it is asked for"
        from recbole.quick_start import load_data_and_model
        config, model, dataset, train, valid, test = load_data_and_model({str(checkpoint)!r})
        assert type(model).__name__ == "PRISM_Mean" and model.scale == 2.0
        print("loaded")
    """
    (tmp_path / "load.py").write_text(textwrap.dedent(code))
    done = subprocess.run([sys.executable, "load.py"], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert "loaded" in done.stdout, done.stderr[-3000:]


@pytest.mark.parametrize("scope", ["causal", "sequence"])
@pytest.mark.parametrize("fusion", ["prism", "mrdib", "prism+residual"])
def test_a_second_pass_over_changed_rows_has_no_next_items(build, scope, fusion):
    """As a contrastive model's, on two views of each history at once."""
    import torch
    from recbole.model.sequential_recommender.sasrec import SASRec

    from recbole_prism import plug

    class Contrast(SASRec):
        def calculate_loss(self, interaction):
            items, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
            views = self.forward(torch.cat([items, items]), torch.cat([lengths, lengths])).chunk(2)
            return super().calculate_loss(interaction), (views[0] - views[1]).square().mean()

    config, _, loaders = build("PRISM_SASRec", fusion_scope=scope, fusion=fusion, training_mode="rows")
    contrast = plug(Contrast)(config, loaders[0]._dataset)
    contrast.train()
    losses = contrast.calculate_loss(next(iter(loaders[0])))
    assert all(loss.isfinite() for loss in losses)
    _, alone, _ = build("PRISM_SASRec", fusion_scope=scope, fusion=fusion, training_mode="rows")
    alone.train().calculate_loss(next(iter(loaders[0])))
    assert set(contrast.loss_names) == {*alone.loss_names, "recommendation2"}


def test_plug_refuses_what_it_cannot_wrap():
    from recbole.model.abstract_recommender import SequentialRecommender
    from recbole.model.sequential_recommender.sasrec import SASRec

    from recbole_prism import plug

    with pytest.raises(PRISMError, match="no subclass of RecBole's SequentialRecommender"):
        plug(dict)
    with pytest.raises(PRISMError, match="SASRec is a name of RecBole's"):
        plug(SASRec)
    plugged = plug(type("Bare", (SequentialRecommender,), {}))
    with pytest.raises(PRISMError, match="carries PRISM already"):
        plug(plugged)


def test_a_backbone_that_looks_nothing_up_is_an_error(build):
    _, model, _ = build("PRISM_GRU4Rec")
    model.item_embedding.forward = None
    sequence = torch.ones(2, 3, dtype=torch.long)
    base = type(model).__mro__[2]
    original = base.forward
    base.forward = lambda self, item_seq, item_seq_len: self.item_embedding.weight[item_seq].sum(1)
    try:
        with pytest.raises(PRISMError, match="never called item_embedding"):
            model(sequence, torch.ones(2))
        base.forward = lambda self, item_seq, item_seq_len: torch.nn.Embedding.__call__(self.other, item_seq[:, 0])
        model.other = model.item_embedding
        del model.item_embedding.forward
        with pytest.raises(PRISMError, match="not a history"):
            model(sequence, torch.ones(2))
    finally:
        base.forward = original


def run_here(model: str, settings: dict, **overrides):
    from recbole.quick_start import run_recbole

    return run_recbole(model=model, dataset="tiny", config_dict={**settings, **overrides}, saved=False)["test_result"]


def test_a_backbone_made_from_one_of_recboles_has_its_keys(settings):
    """And CE where nothing says otherwise, as in the example of docs/extending.md."""
    from recbole.model.sequential_recommender import SASRec

    from recbole_prism import plug

    globals()["PRISM_MySASRec"] = plug(type("MySASRec", (SASRec,), {}), defaults={"my_key": 3})
    row = BACKBONES["MySASRec"]
    assert row.keys_of == "SASRec" and row.defaults == {"loss_type": "CE", "my_key": 3}
    assert "ndcg@10" in run_here("PRISM_MySASRec", settings)


def test_a_backbone_may_have_a_loss_of_its_own(settings):
    from recbole.model.sequential_recommender import SASRec

    from recbole_prism import plug

    class Hinge(SASRec):
        def __init__(self, config, dataset):
            wanted = config["loss_type"]
            config["loss_type"] = "CE"
            super().__init__(config, dataset)
            self.loss_type = wanted

        def calculate_loss(self, interaction):
            states = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
            scores = states @ self.item_embedding.weight.T
            return torch.relu(1 - scores.gather(1, interaction[self.POS_ITEM_ID][:, None])).mean()

    Hinge.input_type = None
    globals()["PRISM_Hinge"] = plug(Hinge, defaults={"loss_type": "hinge"})
    assert BACKBONES["Hinge"].losses == ("CE", "BPR", "hinge")
    assert "ndcg@10" in run_here("PRISM_Hinge", settings, train_neg_sample_args=None)
    with pytest.raises(PRISMError, match="loss_type: 'hinges' is not allowed"):
        run_here("PRISM_Hinge", settings, loss_type="hinges")


@pytest.mark.parametrize("name", ["PRISM_SASRek", "MRdIB_SASRek"])
def test_a_misspelt_model_is_named_with_the_nearest(name):
    from recbole.utils import get_model

    with pytest.raises(PRISMError, match=f"{name}: no such model .did you mean '{name[:-1]}c'"):
        get_model(name)


def run_with_plugin(tmp_path, *words, plugins="mean_plugin"):
    (tmp_path / "mean_plugin.py").write_text(PLUGIN)
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "RECBOLE_PRISM_IMPORT": plugins, "PYTHONPATH": os.pathsep.join([str(tmp_path), root])}
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=150, env=environment)


def test_commands_know_plugged_models(settings, tmp_path):
    """A comparison trains it in a process of its own, and the checkpoint recommends in another."""
    given = [f"{key}={json.dumps(value)}" for key, value in {**settings, "checkpoint_dir": "saved"}.items()]
    words = ["--models=PRISM_Mean", "--datasets=tiny", "--seeds=1", "-o", "compared", "--set", *given]
    done = run_with_plugin(tmp_path, "recbole_prism", "compare", *words)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    (checkpoint,) = (tmp_path / "compared").rglob("PRISM_Mean*.pth")
    done = run_with_plugin(
        tmp_path, "recbole_prism", "recommend", str(checkpoint), "--user", "u1", "-k3", "--format=csv"
    )
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 4, done.stderr[-2000:]


def test_a_plugin_that_is_not_there_is_named(tmp_path):
    done = run_with_plugin(tmp_path, "recbole_prism", "models", plugins="mean_plugin,absent")
    assert done.returncode == 1 and "RECBOLE_PRISM_IMPORT: absent cannot be imported" in done.stderr
    assert len(done.stderr.splitlines()) == 1
