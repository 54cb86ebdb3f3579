"""`inspect`: figures, warnings signs, neighbours, picture sheets."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
import torch

from recbole_prism.errors import PRISMError
from recbole_prism.features import write_features
from recbole_prism.prepare import inspect_dataset, inspection
from recbole_prism.prepare.files import sha256
from recbole_prism.prepare.neighbours import health, nearest


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "d"
    folder.mkdir()
    rows = [f"u{user}\ti{item}\t{item}" for user in range(4) for item in range(user + 1)]
    (folder / "d.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "\n".join(rows) + "\n")
    (folder / "d.item").write_text('item_id:token\ttitle:token_seq\ni0\t"A ""quoted"" film"\ni1\tSecond\ni2\tThird\n')
    vectors = np.array([[1, 0, 5, 0], [0.9, 0.1, 5, 0], [0.9, 0.1, 5, 0], [0, 0, 0, 0]], dtype=np.float32)
    write_features(folder / "d.text.safetensors", ["i1", "i0", "i9", "i2"], vectors, encoder="tests")
    return folder


def test_figures(dataset):
    with open(dataset / "d.inter", "a", encoding="utf-8") as file:
        file.write("\n")  # a blank line at the end counts for nothing
    found = inspect_dataset("d", data_path=dataset.parent)
    assert found["statistics"]["users"] == 4 and found["statistics"]["interactions"] == 10
    assert found["sequence_length"]["median"] == 2.5 and found["sequence_length"]["max"] == 4
    text = found["modalities"]["text"]
    assert text["covered_items"] == 3 and text["coverage"] == 0.75 and text["rows_of_other_items"] == 1
    assert text["zero_vectors"] == 1 and text["equal_groups"] == [["i0", "i9"]] and text["encoder"] == "tests"
    assert text["norm"]["max"] == pytest.approx(np.sqrt(26))


def test_features_of_other_formats_are_found(dataset):
    vectors = np.eye(3, dtype=np.float32)
    np.save(dataset / "d.image.npy", vectors)
    np.save(dataset / "d.other.npy", vectors)  # nobody says whose they are
    (dataset / "d.image.ids.txt").write_text("i0\ni1\ni2\n")
    torch.save({"item_ids": ["i0", "i1"], "features": torch.ones(2, 5)}, dataset / "d.audio.pt")
    torch.save({"item_ids": ["i0"], "features": torch.ones(1, 9)}, dataset / "d.text.pt")  # not it
    found = inspect_dataset("d", data_path=dataset.parent)["modalities"]
    assert set(found) == {"text", "image", "audio"}
    assert found["image"]["covered_items"] == 3 and found["audio"]["covered_items"] == 2
    assert found["text"]["encoder"] == "tests"


def test_neighbours_come_with_titles(dataset):
    found = inspect_dataset("d", data_path=dataset.parent, items=["i0"])
    assert found["neighbours"]["text"]["i0"][0] == {"item_id": "i9", "title": "", "cosine": 1.0}
    assert found["neighbours"]["text"]["i0"][1]["title"] == "Second"
    assert found["titles"] == {"i0": 'A "quoted" film'}
    assert inspect_dataset("d", data_path=dataset.parent, items="i0")["titles"] == found["titles"]
    with pytest.raises(PRISMError, match="item 'i7': no feature file knows it"):
        inspect_dataset("d", data_path=dataset.parent, items=["i7"])


def test_constant_dimensions_are_counted():
    features = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    features[:, 2] = 3
    features[:, 4] *= 1e-4
    ids = [str(n) for n in range(50)]
    assert health(ids, features, {})["near_constant_dimensions"] == 2
    features[:, :5] = 0  # most of them, and all
    assert health(ids, features, {})["near_constant_dimensions"] == 5
    assert health(ids, np.zeros_like(features), {})["near_constant_dimensions"] == 6


def test_interactions_without_users_are_an_error(dataset):
    file = dataset / "d.inter"
    file.write_text(file.read_text().replace("user_id:", "customer:"))
    with pytest.raises(PRISMError, match="d.inter: no column user_id; columns: .'customer'"):
        inspect_dataset("d", data_path=dataset.parent)


def test_field_names_and_separator_are_those_of_the_datasets_yaml(dataset):
    for suffix, names in (("inter", {"user_id:": "uid:", "item_id:": "iid:"}), ("item", {"item_id:": "iid:"})):
        file = dataset / f"d.{suffix}"
        text = file.read_text().replace("\t", ";")
        for old, new in names.items():
            text = text.replace(old, new)
        file.write_text(text)
    with pytest.raises(PRISMError, match="no column user_id; .*set USER_ID_FIELD in .*d.yaml"):
        inspect_dataset("d", data_path=dataset.parent)
    (dataset / "d.yaml").write_text('USER_ID_FIELD: uid\nITEM_ID_FIELD: iid\nfield_separator: ";"\n')
    found = inspect_dataset("d", data_path=dataset.parent, items=["i1"])
    assert found["statistics"]["interactions"] == 10 and found["modalities"]["text"]["covered_items"] == 3
    assert found["titles"] == {"i1": "Second"}


def test_nearest_agrees_with_a_plain_computation():
    features = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float16)
    unit = features.astype(np.float64) / np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    expected = np.argsort(-(unit @ unit[7]))[1:6]
    assert [row for row, _ in nearest(features, 7)] == expected.tolist()


def test_printed_and_json(dataset, capsys):
    parser = argparse.ArgumentParser()
    inspection.add_arguments(parser)
    assert inspection.main(parser.parse_args(["d", "--data-path", str(dataset.parent), "--item", "i0"])) == 0
    printed = capsys.readouterr().out
    assert "covers 3 items (75.0%)" in printed and 'nearest to i0 A "quoted" film' in printed
    inspection.main(parser.parse_args(["d", "--data-path", str(dataset.parent), "--json"]))
    assert json.loads(capsys.readouterr().out)["statistics"]["items"] == 4


def test_features_of_earlier_texts_are_named(dataset, capsys):
    def warns():
        inspection.main(parser.parse_args(["d", "--data-path", str(dataset.parent)]))
        return "text: tests; 1 x 1 float16\n  warning: made from other texts or images" in capsys.readouterr().out

    parser = argparse.ArgumentParser()
    inspection.add_arguments(parser)
    texts = dataset / "d.texts.jsonl"
    texts.write_text("one\n")
    source = f"{texts.name} sha256:{sha256(texts)}"
    write_features(dataset / "d.text.safetensors", ["i1"], np.ones((1, 1), np.float16), encoder="tests", source=source)
    assert not warns()
    texts.write_text("another\n")
    assert warns()


def test_picture_sheet(dataset):
    pytest.importorskip("PIL", reason="the extra [clip] (Pillow) is not installed")
    from PIL import Image

    from tests.prepare.pictures_made import jpeg

    pictures = dataset.parent / "pictures"
    pictures.mkdir()
    lines = []
    for n in range(2):
        (pictures / f"i{n}.jpg").write_bytes(jpeg(n))
        lines.append({"item_id": f"i{n}", "path": f"i{n}.jpg"})
    (dataset / "d.images.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = inspect_dataset("d", data_path=dataset.parent, sheet=3, image_root=str(pictures))
    with Image.open(dataset / "d.text.sheet.jpg") as sheet:
        assert sheet.size == (4 * 136 + 8, 2 * 164 + 8) and sheet.convert("L").getextrema()[0] < 60
    assert found["sheets"] == [str(dataset / "d.text.sheet.jpg")]


def test_bundled_dataset_can_be_inspected(tmp_path):
    found = inspect_dataset("ml-100k", data_path=tmp_path)
    assert found["statistics"]["interactions"] == 100_000 and found["items_with_title"] == 1682


def test_missing_dataset_says_how_to_make_it(tmp_path):
    with pytest.raises(PRISMError, match="d.inter: no such file; `recbole-prism prepare` makes it"):
        inspect_dataset("d", data_path=tmp_path)
