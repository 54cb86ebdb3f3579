from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest


def read_atomic(path: Path) -> list[dict[str, str]]:
    """Rows of an atomic file by column name without its type, read by csv rules as RecBole does."""
    with open(path, encoding="utf-8", newline="") as stream:
        reader = csv.reader(stream, delimiter="\t")
        header = [column.split(":")[0] for column in next(reader)]
        return [dict(zip(header, row, strict=True)) for row in reader]


class Made:
    """A prepared dataset, read back."""

    def __init__(self, folder: Path):
        self.folder, self.name = folder, folder.name
        self.inter = read_atomic(folder / f"{self.name}.inter")
        self.item = {row["item_id"]: row for row in read_atomic(folder / f"{self.name}.item")}
        self.texts = {row["item_id"]: row["text"] for row in self.lines("texts.jsonl")}
        self.images = self.lines("images.jsonl")
        self.report = json.loads((folder / f"{self.name}.report.json").read_text())["prepare"]

    def lines(self, suffix: str) -> list[dict]:
        text = (self.folder / f"{self.name}.{suffix}").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.split("\n") if line]

    def history(self, user: str) -> list[str]:
        return [row["item_id"] for row in self.inter if row["user_id"] == user]


@pytest.fixture
def make(tmp_path):
    """make(source, **options) -> Made, in tmp_path/dataset."""
    from recbole_prism.prepare import prepare_dataset

    def run(source: str, name: str = "made", **options) -> Made:
        prepare_dataset(source, name, data_path=tmp_path / "dataset", **options)
        return Made(tmp_path / "dataset" / name)

    return run


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Weights of the tiny open_clip model."""
    from tests.prepare import tiny_clip

    return tiny_clip.checkpoint(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def dataset_of(tmp_path, checkpoint):
    """dataset_of(texts, pictures) -> encode_made.Dataset."""
    from tests.prepare.encode_made import Dataset

    return lambda texts, pictures: Dataset(tmp_path, texts, pictures, checkpoint)
