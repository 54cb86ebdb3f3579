"""What `prepare` replaces: its own files only, and all of them together."""

from __future__ import annotations

import argparse
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest

from recbole_prism.errors import PRISMError
from recbole_prism.features import write_features
from recbole_prism.prepare import outputs, prepare, prepare_dataset
from recbole_prism.prepare.files import sha256
from tests.prepare import prepare_raw as raw
from tests.prepare.prepare_raw import table


def test_an_input_is_not_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = tmp_path / "dataset" / "shop" / "shop.inter"
    raw.parent.mkdir(parents=True)
    raw.write_text("user_id\titem_id\n" + "".join(f"u{n % 3}\ti{n % 4}\n" for n in range(40)))
    before = raw.read_text()
    with pytest.raises(PRISMError, match=r"shop.inter: would be overwritten, and it is the input \(interactions\)"):
        prepare_dataset("table", "shop", interactions=raw)
    assert raw.read_text() == before


def test_files_that_prepare_has_not_made_are_not_replaced(make, tmp_path):
    by_hand = tmp_path / "dataset" / "made" / "made.inter"
    by_hand.parent.mkdir(parents=True)
    by_hand.write_text("user_id:token\titem_id:token\nu\ta\n")
    before = by_hand.read_text()
    options = table(tmp_path, [f"u,i{n},3,{n}" for n in range(9)])
    not_ours = r"made.inter: would be overwritten, and is not as prepare left it; .*--force"
    with pytest.raises(PRISMError, match=not_ours):
        make("table", **options)
    assert by_hand.read_text() == before and sorted(path.name for path in by_hand.parent.iterdir()) == ["made.inter"]
    made = make("table", force=True, **options)
    assert len(made.history("u")) == 9
    edited = by_hand.read_text() + by_hand.read_text().splitlines(True)[-1]
    by_hand.write_text(edited)
    with pytest.raises(PRISMError, match=not_ours):
        make("table", **options)
    assert by_hand.read_text() == edited
    assert len(make("table", force=True, k_core=0, **options).history("u")) == 9
    assert len(make("table", **options, duplicates="keep").history("u")) == 9  # what is as we left it is replaced


def test_a_run_that_fails_does_not_make_the_folder_ours(make, tmp_path):
    options = table(tmp_path, [f"u,i{n},3,{n}" for n in range(9)])
    with pytest.raises(PRISMError, match="no interaction is left"):
        make("table", k_core=50, **options)
    by_hand = tmp_path / "dataset" / "made" / "made.inter"
    by_hand.write_text("user_id:token\titem_id:token\nu\ta\n")
    with pytest.raises(PRISMError, match="is not as prepare left it"):
        make("table", **options)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def truncate(file):
    file.write_bytes(file.read_bytes()[:30])


def test_a_run_that_fails_leaves_the_earlier_dataset_whole(make, tmp_path):
    files = raw.amazon_2014(tmp_path)
    folder = make("amazon-2014", **files).folder
    before = contents(folder)
    truncate(files["metadata"])
    with pytest.raises(PRISMError, match="end early"):
        make("amazon-2014", k_core=0, duplicates="last", **files)
    assert contents(folder) == before


def test_a_run_that_fails_does_not_unlock_what_was_edited(make, tmp_path):
    files = raw.amazon_2014(tmp_path)
    folder = make("amazon-2014", **files).folder
    whole = files["metadata"].read_bytes()
    truncate(files["metadata"])
    with pytest.raises(PRISMError, match="end early"):
        make("amazon-2014", **files)
    files["metadata"].write_bytes(whole)
    with open(folder / "made.yaml", "a", encoding="utf-8") as file:
        file.write("# by hand\n")
    with pytest.raises(PRISMError, match="made.yaml: would be overwritten, and is not as prepare left it"):
        make("amazon-2014", **files)


def test_features_of_earlier_texts_are_named(make, tmp_path, capsys):
    files = raw.amazon_2014(tmp_path)
    made = make("amazon-2014", **files)
    folder = made.folder
    source = f"made.texts.jsonl sha256:{sha256(folder / 'made.texts.jsonl')}"
    for modality in ("text", "others"):
        features = np.ones((1, 1), np.float16)
        write_features(folder / f"made.{modality}.safetensors", ["B000"], features, source=source)
        source = "others.npy"
    assert make("amazon-2014", force=True, **files).report["outdated_features"] == []
    assert make("amazon-2014", template="{title}", **files).report["outdated_features"] == ["made.text.safetensors"]
    arguments = ["amazon-2014", "made", "--data-path", str(tmp_path / "dataset"), "--template", "{title}"]
    parser = argparse.ArgumentParser()
    prepare.add_arguments(parser)
    prepare.main(parser.parse_args([*arguments, *(f"--{role}={path}" for role, path in files.items())]))
    assert "made.text.safetensors: was made from other texts or images than these" in capsys.readouterr().out


@pytest.mark.parametrize("earlier", [False, True])
def test_killed_while_replacing_it_knows_its_files(make, tmp_path, monkeypatch, earlier):
    files = raw.amazon_2014(tmp_path)
    folder = tmp_path / "dataset" / "made"
    if earlier:
        make("amazon-2014", duplicates="keep", template="{title}", **files)
    moved = []

    def third_fails(source, target):
        if len(moved) == 2:
            raise KeyboardInterrupt
        moved.append(target)
        os.replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(outputs, "os", SimpleNamespace(replace=third_fails))
        make("amazon-2014", **files)
    report = folder / "made.report.json"
    assert "prepare" not in (json.loads(report.read_text()) if earlier else {})
    item = folder / "made.item"
    kept = item.read_bytes()
    item.write_bytes(kept + b"edited")
    with pytest.raises(PRISMError, match="made.item: would be overwritten"):
        make("amazon-2014", **files)
    item.write_bytes(kept)
    made = make("amazon-2014", **files)
    whole = make("amazon-2014", name="whole", **files)
    assert made.texts == whole.texts and made.inter == whole.inter
    assert not (folder / ".prepare").exists()
