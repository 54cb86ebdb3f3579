"""`encode` with a real open_clip model of tiny architecture."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recbole_prism.prepare.files import sha256
from recbole_prism.prepare.pipeline import chunks
from tests.prepare import tiny_clip  # skips without open_clip
from tests.prepare.pictures_made import encode as encode_picture
from tests.prepare.pictures_made import jpeg


@pytest.fixture(scope="module")
def clip(checkpoint):
    """The same model by open_clip itself: (encode pictures, encode texts), one at a time, length one."""
    import torch

    from recbole_prism.prepare.clip_import import import_open_clip

    open_clip = import_open_clip()
    model, _, transform = open_clip.create_model_and_transforms(tiny_clip.NAME, pretrained=str(checkpoint))
    tokenizer = open_clip.get_tokenizer(tiny_clip.NAME)
    model.eval()

    def normalised(vector):
        return (vector / vector.norm()).numpy()

    def picture(image):
        with torch.inference_mode():
            return normalised(model.encode_image(transform(image)[None])[0])

    def text(words):
        with torch.inference_mode():
            return normalised(model.encode_text(tokenizer([words]))[0])

    return picture, text


def open_rgb(data):
    import io

    return Image.open(io.BytesIO(data)).convert("RGB")


def test_vectors_are_open_clips_own(dataset_of, clip):
    d = dataset_of({f"t{n}": f"a text number {n}" for n in range(9)}, {f"p{n}": [jpeg(n)] for n in range(9)})
    d.encode()
    for n in range(9):
        np.testing.assert_allclose(d.features("text")[0][f"t{n}"], clip[1](f"a text number {n}"), atol=1e-5)
        np.testing.assert_allclose(d.features("image")[0][f"p{n}"], clip[0](open_rgb(jpeg(n))), atol=1e-5)


def test_provenance_is_complete(dataset_of):
    d = dataset_of({"a": "x"}, {"a": [jpeg()]})
    report = d.encode()
    for name in ("text", "image"):
        metadata = d.features(name)[1]
        assert metadata["encoder"] == f"open_clip {tiny_clip.NAME}"
        assert metadata["revision"] == f"tiny0.pt sha256:{sha256(d.checkpoint)}"
        assert metadata["normalized"] == "true" and metadata["date"] and metadata["preprocessing"]
        assert metadata["source"].startswith(f"d.{name}s.jsonl sha256:")
        assert metadata["created_by"].startswith("recbole-prism ") and "torch" in metadata["packages"]
        assert report[name]["provenance"] == metadata | {}
    assert d.features("text")[1]["template"] == "{title}"
    assert json.loads((d.folder / "d.report.json").read_text())["encode"]["image"]["counts"]["rows"] == 1


def test_an_item_with_a_text_and_no_image_keeps_its_text(dataset_of):
    d = dataset_of({"a": "x", "b": "y", "c": " "}, {"a": [jpeg()], "b": [b"broken"]})
    d.encode()
    assert set(d.features("text")[0]) == {"a", "b"} and set(d.features("image")[0]) == {"a"}
    assert d.skipped("image") == {"b": "not an image of a known format"}
    assert d.skipped("text") == {"c": "empty text"}


def test_pictures_as_they_come(dataset_of):
    pictures = {
        "rgba": [encode_picture(Image.new("RGBA", (9, 9), (1, 2, 3, 4)), "PNG")],
        "grey16": [encode_picture(Image.fromarray(np.full((9, 9), 40000, np.uint16)), "PNG")],
        "cmyk": [encode_picture(Image.new("CMYK", (9, 9)), "JPEG")],
        "empty": [b""],
        "cut": [jpeg()[:-200]],
        "bomb": [encode_picture(Image.new("L", (400, 300)), "PNG")],
    }
    d = dataset_of({}, pictures)
    report = d.encode(modalities=["image"], max_pixels=100_000)["image"]
    assert list(d.features("image")[0]) == ["rgba", "grey16", "cmyk"]
    assert report["counts"] == {"items": 6, "rows": 3, "dimension": 16, "skipped": 3, "encoded_in_this_run": 6}
    assert d.skipped("image")["bomb"] == "400 x 300 pixels, more than 100000"


def test_several_images_mean_or_first(dataset_of, clip):
    d = dataset_of({}, {"a": [b"broken", jpeg(1), jpeg(2)], "b": [jpeg(3)]})
    one, two = clip[0](open_rgb(jpeg(1))), clip[0](open_rgb(jpeg(2)))
    d.encode(modalities=["image"])
    mean = (one + two) / 2
    np.testing.assert_allclose(d.features("image")[0]["a"], mean / np.linalg.norm(mean), atol=1e-5)
    d.encode(modalities=["image"], several_images="first")
    np.testing.assert_allclose(d.features("image")[0]["a"], one, atol=1e-5)


def test_long_texts_truncate_or_mean_of_chunks(dataset_of, clip):
    text = " ".join(f"word{n}" for n in range(30))
    d = dataset_of({"a": text, "b": "short"}, {})
    d.encode(modalities=["text"])
    np.testing.assert_allclose(d.features("text")[0]["a"], clip[1](text), atol=1e-5)
    d.encode(modalities=["text"], long_text="mean")
    tokenizer = tiny_clip.tokenizer()
    pieces = chunks(text, 10, lambda word: len(tokenizer.encode(word)), 8)  # a context of 12 with start and end
    mean = np.mean([clip[1](piece) for piece in pieces], axis=0)
    assert len(pieces) > 2
    np.testing.assert_allclose(d.features("text")[0]["a"], mean / np.linalg.norm(mean), atol=1e-5)
    np.testing.assert_allclose(d.features("text")[0]["b"], clip[1]("short"), atol=1e-5)


def test_precision_and_type(dataset_of):
    d = dataset_of({"a": "one", "b": "two"}, {})
    d.encode(dtype="float32")
    full = d.features("text")[0]
    for precision in ("bf16", "fp16"):
        d.encode(modalities=["text"], precision=precision, dtype="float16")
        found, metadata = d.features("text")
        assert found["a"].dtype == np.float16 and metadata["precision"] == precision
        assert found["a"] @ full["a"] > 0.99
    d.encode(modalities=["text"], normalize=False)
    found, metadata = d.features("text")
    assert metadata["normalized"] == "false" and abs(np.linalg.norm(found["a"]) - 1) > 1e-3


def test_batches_and_shards_do_not_change_vectors(dataset_of):
    d = dataset_of({f"t{n}": f"text {n}" for n in range(23)}, {})
    d.encode(batch_size=23)
    expected = d.features("text")[0]
    for options in (
        {"batch_size": 1, "shard_items": 1},
        {"batch_size": 5, "shard_items": 7},
        {"workers": 1, "shard_items": 100},
    ):
        d.encode(force=True, **options)
        found = d.features("text")[0]
        assert list(found) == list(expected)
        for item in expected:
            np.testing.assert_allclose(found[item], expected[item], atol=1e-6)


def test_nothing_is_done_twice(dataset_of):
    d = dataset_of({"a": "one", "b": "two"}, {})
    assert "already_done" not in d.encode()["text"]
    assert d.encode()["text"]["already_done"]
    assert "already_done" not in d.encode(normalize=False)["text"]
    d.write("texts.jsonl", [{"item_id": "a", "text": "changed"}])
    assert d.encode()["text"]["counts"]["items"] == 1


KILLED = """
import sys, time
from pathlib import Path
sys.argv[0] = "recbole-prism"  # as from the command line: nothing registers with RecBole
sys.path.insert(0, sys.argv[1])
from tests.prepare import tiny_clip
tiny_clip.register(Path(sys.argv[2]))
from recbole_prism.prepare import encode_dataset, encoders
whole = encoders.OpenCLIP.encode
def slow(self, modality, batch):
    time.sleep(0.05)
    return whole(self, modality, batch)
encoders.OpenCLIP.encode = slow
encode_dataset("d", data_path=sys.argv[2], model=tiny_clip.NAME, pretrained=sys.argv[3], dtype="float32",
               batch_size=4, shard_items=5, workers=2, progress=False)
"""


def test_killed_at_any_moment_it_resumes(dataset_of, tmp_path):
    d = dataset_of({f"t{n}": f"text {n}" for n in range(100)}, {})
    here = str(Path(__file__).parents[2])
    process = subprocess.Popen([sys.executable, "-c", KILLED, here, str(tmp_path), str(d.checkpoint)])
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and len(list(d.folder.glob(".encode/*/*.safetensors"))) < 3:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    shards = sorted(d.folder.glob(".encode/*/*.safetensors"))
    assert shards and not (d.folder / "d.text.safetensors").exists()
    shards[0].write_bytes(shards[0].read_bytes()[:50])  # as a machine that lost power might leave it
    counts = d.encode(shard_items=5)["text"]["counts"]
    assert counts["rows"] == 100 and counts["encoded_in_this_run"] == 100 - 5 * (len(shards) - 1)
    assert not (d.folder / ".encode").exists()
    resumed = d.features("text")[0]
    d.encode(force=True)
    whole = d.features("text")[0]
    assert list(resumed) == list(whole)
    for item in whole:
        np.testing.assert_allclose(resumed[item], whole[item], atol=1e-6)


def test_local_paths_stay_inside_their_folder(dataset_of):
    d = dataset_of({}, {"a": [jpeg()]})
    (d.root / "secret.jpg").write_bytes(jpeg(1))
    rows = [
        {"item_id": item, "path": path}
        for item, path in (("a", "a_0.bin"), ("b", "../secret.jpg"), ("c", str(d.root / "secret.jpg")), ("e", "."))
    ]
    d.write("images.jsonl", rows)
    d.encode(modalities=["image"])
    assert list(d.features("image")[0]) == ["a"]
