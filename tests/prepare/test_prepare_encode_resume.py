"""`encode` makes again what has changed, and no more."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from recbole_prism.prepare import encoders
from tests.prepare import tiny_clip  # noqa: F401  skips without open_clip
from tests.prepare.pictures_made import jpeg


@pytest.fixture
def downloaded(dataset_of):
    """A dataset of 20 downloaded images, d.fetched(numbers) having arrived; four items a shard."""
    d = dataset_of({}, {})
    d.write("images.jsonl", [{"item_id": f"p{n}", "url": f"http://x.org/{n}"} for n in range(20)])

    def fetched(numbers):
        lines = []
        for n in numbers:
            data = jpeg(n)
            name = hashlib.sha256(data).hexdigest()
            file = d.folder / "images" / name[:2] / f"{name}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
            lines.append({"url": f"http://x.org/{n}", "file": f"{name[:2]}/{name}.jpg", "bytes": len(data)})
        (d.folder / "images" / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    d.fetched = fetched
    return d


def same(one, other):
    assert list(one) == list(other)
    for item in other:
        np.testing.assert_allclose(one[item], other[item], atol=1e-6)


def test_an_image_that_arrives_late_costs_one_shard(downloaded):
    options = {"modalities": ["image"], "shard_items": 4}
    downloaded.fetched([n for n in range(20) if n != 9])
    counts = downloaded.encode(**options)["image"]["counts"]
    assert counts["items"] == counts["rows"] == counts["encoded_in_this_run"] == 19 and counts["skipped"] == 0
    assert not (downloaded.folder / ".encode").exists()
    downloaded.fetched(range(20))
    counts = downloaded.encode(**options)["image"]["counts"]
    assert counts["rows"] == 20 and counts["encoded_in_this_run"] == 4
    found = downloaded.features("image")[0]
    assert downloaded.encode(**options)["image"]["already_done"]
    file = downloaded.folder / "d.image.safetensors"
    file.write_bytes(file.read_bytes()[:-9])  # damaged: nothing can be taken over
    assert downloaded.encode(**options)["image"]["counts"]["encoded_in_this_run"] == 20
    downloaded.encode(force=True, **options)
    same(found, downloaded.features("image")[0])


def test_an_image_that_arrives_after_an_interruption_costs_one_shard(downloaded, monkeypatch):
    options = {"modalities": ["image"], "shard_items": 4, "workers": 1}
    downloaded.fetched([n for n in range(20) if n != 1])
    whole, seen = encoders.OpenCLIP.encode, []

    def stops(self, modality, batch):
        seen.append(batch)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return whole(self, modality, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(encoders.OpenCLIP, "encode", stops)
        downloaded.encode(**options)
    n_kept = len(list(downloaded.folder.glob(".encode/*/*.safetensors")))
    downloaded.fetched(range(20))
    counts = downloaded.encode(**options)["image"]["counts"]
    assert n_kept >= 2 and counts["rows"] == 20 and counts["encoded_in_this_run"] == 20 - 4 * (n_kept - 1)
    found = downloaded.features("image")[0]
    downloaded.encode(force=True, **options)
    same(found, downloaded.features("image")[0])


def test_a_text_that_has_changed_costs_one_shard_and_reasons_stay(dataset_of):
    texts = {f"t{n}": " " if n == 1 else f"text {n}" for n in range(20)}
    d = dataset_of(texts, {})
    d.encode(shard_items=4)
    texts["t9"] = "another"
    d.write("texts.jsonl", [{"item_id": item, "text": text} for item, text in texts.items()])
    assert d.encode(shard_items=4)["text"]["counts"]["encoded_in_this_run"] == 4
    assert d.skipped("text") == {"t1": "empty text"}
    found = d.features("text")[0]
    d.encode(shard_items=4, force=True)
    same(found, d.features("text")[0])
    d.encode(shard_items=4, dtype="float16")  # another option: nothing is taken over
    counts = json.loads((d.folder / "d.report.json").read_text())["encode"]["text"]["counts"]
    assert counts["encoded_in_this_run"] == 20
