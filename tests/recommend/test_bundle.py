"""Bundles answer as the checkpoint does, without its dataset, and nothing but a whole bundle is read."""

import json
import shutil
import subprocess
import sys
import zipfile

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from recbole_prism import PRISMError
from recbole_prism.recommend import Recommender, export_bundle
from recbole_prism.recommend.recommender import load

EXPORTABLE = ["PRISM_SASRec", "PRISM_GRU4Rec", "PRISM_BERT4Rec", "MRdIB_SASRec", "PRISM_STAMP", "SASRec", "HGN"]


def close(found):
    """Items in their order, scores nearly equal."""
    return [pytest.approx({item.item: item.score}, abs=1e-5) for item in found]


def answers(found):
    return [{item.item: item.score} for item in found]


@pytest.fixture
def bundle(trained, tmp_path):
    return export_bundle(load(trained("PRISM_SASRec", score_items="content")), tmp_path / "bundle", with_users=True)


@pytest.mark.parametrize("name", ["bundle", "bundle.zip"])
@pytest.mark.parametrize("model", EXPORTABLE)
def test_a_bundle_answers_as_its_checkpoint(trained, tmp_path, model, name):
    loaded = load(trained(model))
    here = Recommender(loaded)
    there = Recommender.load(export_bundle(loaded, tmp_path / name, with_users=True))
    for options in ({}, {"history": "test", "seen": "keep"}):
        assert answers(there.for_user("u3", 5, **options)) == close(here.for_user("u3", 5, **options))
    if model != "HGN":  # which needs a user
        assert answers(there.for_sequence(["i1", "i2"])) == close(here.for_sequence(["i1", "i2"]))


@pytest.mark.parametrize("name", ["SASRec", "PRISM_SASRec"])
def test_cosines_are_those_of_recboles_evaluation(trained, tmp_path, name):
    import torch
    from recbole.quick_start import load_data_and_model

    checkpoint = trained(name, cosine_temperature=0.2, training_mode="packed")
    _, model, dataset, _, _, test = load_data_and_model(str(checkpoint))
    rows = test.dataset.inter_feat
    with torch.no_grad():
        scores = model.eval().full_sort_predict(rows)
    assert scores[:, 1:].abs().max() <= 5.001
    recommender = Recommender.load(checkpoint)
    bundle = Recommender.load(export_bundle(recommender.loaded, tmp_path / "bundle"))
    for row in range(3):
        items = dataset.id2token("item_id", rows["item_id_list"][row][: rows["item_length"][row]]).tolist()
        best = scores[row, 1:].sort(descending=True).values[:5].tolist()
        for one in (recommender, bundle):
            assert [item.score for item in one.for_sequence(items, 5, seen="keep")] == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("missing", ["mean", "learned", "zero"])
@pytest.mark.parametrize("scaling", ["unit", "none"])
def test_missing_modalities_and_scalings_survive(trained, tmp_path, new_items, missing, scaling):
    loaded = load(trained("PRISM_SASRec", score_items="content", missing=missing, feature_scaling=scaling))
    here = Recommender(loaded).with_new_items(new_items)
    there = Recommender.load(export_bundle(loaded, tmp_path / "b")).with_new_items(new_items)
    assert answers(there.for_sequence(["i20", "new1"], 20)) == close(here.for_sequence(["i20", "new1"], 20))


def test_new_items_score_the_same_from_a_bundle(bundle, trained, new_items):
    here = Recommender.load(trained("PRISM_SASRec", score_items="content")).with_new_items(new_items)
    there = Recommender.load(bundle).with_new_items(new_items)
    assert answers(there.for_sequence(["new1"], 21)) == close(here.for_sequence(["new1"], 21))


def test_a_bundle_needs_neither_dataset_nor_pickle_nor_much_time(bundle, tmp_path):
    home = tmp_path / "elsewhere"
    home.mkdir()
    shutil.move(bundle, home / "moved")
    code = """
import sys, time
import recbole_prism, torch, safetensors.torch
from recbole_prism.recommend import Recommender
import recbole_prism.recommend.bundle, pickle
def refuse(*args, **kwargs): raise AssertionError("unpickled")
pickle.load = pickle.loads = pickle.Unpickler = torch.load = refuse
seconds = []
for _ in range(3):
    start = time.perf_counter()
    title = Recommender.load("moved").for_user("u1", 1)[0].title
    seconds.append(time.perf_counter() - start)
print(title)
print(min(seconds))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=home, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    title, seconds = done.stdout.splitlines()
    assert title.startswith("The i") and float(seconds) < 1


def test_a_bundle_holds_no_users_unless_asked(trained, tmp_path):
    bundle = export_bundle(load(trained("SASRec")), tmp_path / "b")
    assert not (bundle / "users.json").exists()
    assert b"dataset" not in (bundle / "manifest.json").read_bytes()
    assert str(tmp_path.parent) not in (bundle / "config.json").read_text()
    with pytest.raises(PRISMError, match="knows no users; ask for a sequence"):
        Recommender.load(bundle).for_user("u1")


def test_an_altered_or_cut_file_is_named(bundle):
    for file in sorted(bundle.iterdir()):
        whole = file.read_bytes()
        for damaged in (whole[:-1], whole[: len(whole) // 2], b"", whole[:-9] + b"X" + whole[-8:]):
            if damaged == whole:
                continue
            file.write_bytes(damaged)
            with pytest.raises(PRISMError, match="damaged or altered|no readable manifest.json|something else"):
                Recommender.load(bundle)
        file.write_bytes(whole)
    Recommender.load(bundle)


def test_a_missing_file_is_an_error(bundle):
    for file in sorted(bundle.iterdir()):
        moved = file.rename(bundle.parent / file.name)
        with pytest.raises(PRISMError):
            Recommender.load(bundle)
        moved.rename(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "bundle of version 2, and recbole-prism .* reads version 1"),
        ({"format": "another"}, "of something else than a bundle"),
        ({"files": {}}, "names no config.json"),
    ],
)
def test_another_format_or_version_is_an_error(bundle, change, message):
    file = bundle / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(PRISMError, match=message):
        Recommender.load(bundle)


def test_foreign_files_are_no_bundles(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 cut")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    for name in ("folder", "a.zip", "b.zip"):
        with pytest.raises(PRISMError, match=name):
            Recommender.load(tmp_path / name)
    with pytest.raises(PRISMError, match="no such checkpoint or bundle"):
        Recommender.load(tmp_path / "nowhere")


@hypothesis_settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(manifest=st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["format", "version", "files", "config.json"]), inner, max_size=4),
    max_leaves=8,
))  # fmt: skip
def test_no_manifest_whatever_crashes(bundle, manifest):
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PRISMError):
        Recommender.load(bundle)


def test_an_existing_target_is_kept_unless_told(bundle, trained, tmp_path):
    loaded = load(trained("SASRec"))
    with pytest.raises(PRISMError, match="exists already"):
        export_bundle(loaded, bundle)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo").write_text("dear")
    with pytest.raises(PRISMError, match="is no bundle"):
        export_bundle(loaded, tmp_path / "mine", overwrite=True)
    export_bundle(loaded, bundle, overwrite=True)
    assert Recommender.load(bundle).loaded.name == "SASRec"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


FIELDS = {"load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "category"]}}


@pytest.mark.parametrize("model", ["FDSA", "SASRecF", "GRU4RecF"])
def test_models_that_need_more_of_the_dataset_answer_from_a_checkpoint_only(trained, tmp_path, model):
    loaded = load(trained(model, selected_features=["category"], **FIELDS))
    assert len(Recommender(loaded).for_user("u3", 5)) == 5
    with pytest.raises(PRISMError, match=f"{model} needs more of its dataset"):
        export_bundle(loaded, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_models_that_score_one_item_at_a_time_are_refused(trained):
    settings = {**FIELDS, "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}}
    recommender = Recommender.load(trained("DIN", **settings))
    with pytest.raises(PRISMError, match="DIN scores one item at a time"):
        recommender.for_user("u3")


def test_a_model_of_users_needs_one(trained):
    with pytest.raises(PRISMError, match="HGN needs 'user_id' beside the items"):
        Recommender.load(trained("HGN")).for_sequence(["i1"])


@pytest.mark.parametrize("model", ["HGN", "PRISM_Caser"])
def test_a_bundle_that_could_answer_nobody_is_not_made(trained, tmp_path, model):
    loaded = load(trained(model))
    with pytest.raises(PRISMError, match=f"{model} answers for users alone; export it with users"):
        export_bundle(loaded, tmp_path / "b")
    assert len(Recommender.load(export_bundle(loaded, tmp_path / "b", with_users=True)).for_user("u3", 5)) == 5


def test_a_damaged_zip_is_named(bundle, tmp_path):
    file = tmp_path / "packed.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for each in bundle.iterdir():
            packed.write(each, each.name)
    whole = file.read_bytes()
    for place in range(60, len(whole), len(whole) // 40):
        file.write_bytes(whole[:place] + bytes(255 - byte for byte in whole[place : place + 20]) + whole[place + 20 :])
        with pytest.raises(PRISMError, match="packed.zip: "):
            Recommender.load(file)
