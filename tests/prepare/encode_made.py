"""A prepared dataset with given texts and pictures, and what `encode` made of it."""

from __future__ import annotations

import json

from recbole_prism.features import read_features
from recbole_prism.prepare import encode_dataset
from tests.prepare import tiny_clip


class Dataset:
    """texts {item: text}, pictures {item: [bytes]} as a prepared dataset with local images."""

    def __init__(self, root, texts, pictures, checkpoint):
        self.root, self.folder, self.checkpoint = root, root / "d", checkpoint
        pictures_folder = root / "pictures"
        for folder in (self.folder, pictures_folder):
            folder.mkdir(exist_ok=True)
        lines = []
        for item, files in pictures.items():
            for n, data in enumerate(files):
                (pictures_folder / f"{item}_{n}.bin").write_bytes(data)
                lines.append({"item_id": item, "path": f"{item}_{n}.bin"})
        self.write("images.jsonl", lines)
        self.write("texts.jsonl", [{"item_id": item, "text": text} for item, text in texts.items()])
        report = {"prepare": {"image_root": str(pictures_folder), "text_template": "{title}"}}
        (self.folder / "d.report.json").write_text(json.dumps(report))

    def write(self, suffix, rows):
        (self.folder / f"d.{suffix}").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def encode(self, **options):
        chosen = {"model": tiny_clip.NAME, "pretrained": str(self.checkpoint), "batch_size": 4, "progress": False}
        return encode_dataset("d", data_path=self.root, **{**chosen, "dtype": "float32", "workers": 2, **options})

    def features(self, name):
        found = read_features(self.folder / f"d.{name}.safetensors")
        return dict(zip(found.item_ids, found.features, strict=True)), found.metadata

    def skipped(self, name):
        lines = (self.folder / f"d.{name}.skipped.jsonl").read_text().splitlines()
        return {row["item_id"]: row["reason"] for row in map(json.loads, lines)}
