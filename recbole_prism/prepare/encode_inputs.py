"""What ``encode`` reads: the items of a modality, and how an item becomes inputs for the encoder.

Of each item ``item_ids`` and ``stamps``: what tells that its text or pictures have changed; empty where there are none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from recbole_prism.errors import PRISMError
from recbole_prism.prepare.encoders import Encoder
from recbole_prism.prepare.extras import inside
from recbole_prism.prepare.files import DatasetFolder, json_lines, read_report, sha256
from recbole_prism.prepare.image_index import ImageIndex
from recbole_prism.prepare.images import MADE_BY
from recbole_prism.prepare.pictures import Unusable, decode
from recbole_prism.prepare.pipeline import Prepared, chunks

LONG_TEXTS = ("truncate", "mean")
SEVERAL_IMAGES = ("mean", "first")
_TEXTS_A_JOB = 16


class Texts:
    """The texts of ``NAME.texts.jsonl``, streamed; the first one of an item counts."""

    def __init__(self, folder: DatasetFolder, options: dict[str, Any]):
        self.path = folder.existing("texts.jsonl", MADE_BY)
        self.long_text, self.max_chunks = options["long_text"], options["max_chunks"]
        texts: dict[str, str] = {}
        for row in json_lines(self.path):
            text = str(row.get("text")).encode("utf-8", "surrogatepass")
            texts.setdefault(row["item_id"], hashlib.sha256(text).hexdigest()[:24])
        self.item_ids, self.stamps = list(texts), list(texts.values())
        self.template = str(read_report(folder).get("prepare", {}).get("text_template", "unknown"))
        self.digest = sha256(self.path)
        self.source = f"{self.path.name} sha256:{self.digest}"

    def key(self) -> dict[str, Any]:
        """What decides the vectors, besides the encoder."""
        return {"texts": self.digest, **self.options()}

    def options(self) -> dict[str, Any]:
        return {"long_text": self.long_text, "max_chunks": self.max_chunks}

    def provenance(self) -> dict[str, str]:
        return {"source": self.source, "template": self.template, "long_text": self.long_text}

    def jobs(self, wanted: set[int]) -> Iterator[list[tuple[int, str, str]]]:
        """Groups of (position, item id, text) for the wanted positions."""
        seen: set[str] = set()
        job: list[tuple[int, str, str]] = []
        for row in json_lines(self.path):
            if row["item_id"] in seen:
                continue
            position = len(seen)
            seen.add(row["item_id"])
            if position in wanted:
                text = row.get("text")
                job.append((position, row["item_id"], text if isinstance(text, str) else ""))
                if len(job) == _TEXTS_A_JOB:
                    yield job
                    job = []
        if job:
            yield job

    def prepare(self, encoder: Encoder, job: list[tuple[int, str, str]]) -> list[Prepared]:
        items: list[Prepared] = []
        pieces: list[str] = []
        for position, item_id, text in job:
            if not text.strip():
                items.append(Prepared(position, item_id, [], [{"item_id": item_id, "reason": "empty text"}]))
                continue
            parts = [text]
            if self.long_text == "mean":
                parts = chunks(text, encoder.context_tokens, encoder.count_tokens, self.max_chunks)
            items.append(Prepared(position, item_id, [None] * len(parts)))
            pieces += parts
        inputs = iter(encoder.prepare_texts(pieces) if pieces else [])
        for item in items:
            item.inputs = [next(inputs) for _ in item.inputs]
        return items


class Images:
    """The picture files of ``NAME.images.jsonl``: downloaded ones by the index, local ones below ``image_root``."""

    def __init__(self, folder: DatasetFolder, options: dict[str, Any]):
        path = folder.existing("images.jsonl", MADE_BY)
        self.several, self.max_pixels = options["several_images"], options["max_pixels"]
        index = ImageIndex(folder.images)
        root = options["image_root"] or read_report(folder).get("prepare", {}).get("image_root")
        self.files: dict[str, list[Path]] = {}
        self.n_missing = 0
        for row in json_lines(path):
            files = self.files.setdefault(row["item_id"], [])
            file = index.file(row["url"]) if isinstance(row.get("url"), str) else None
            if isinstance(row.get("path"), str):
                if not root:
                    raise PRISMError(f"{path}: names local files; say where they are by --image-root")
                file = inside(Path(root), row["path"])
            if file is None:
                self.n_missing += 1
            else:
                files.append(file)
        self.item_ids = list(self.files)  # also those without: an image that arrives later moves no other item
        self.stamps = [[_stamp(file) for file in files] for files in self.files.values()]
        if not any(self.stamps):
            raise PRISMError(f"{path}: no image is at hand; run `recbole-prism images {folder.name}` first")
        self.digest = hashlib.sha256(
            json.dumps([row for row in zip(self.item_ids, self.stamps, strict=True) if row[1]]).encode()
        )
        self.source = f"{path.name} sha256:{sha256(path)}"

    def key(self) -> dict[str, Any]:
        return {"images": self.digest.hexdigest(), **self.options()}

    def options(self) -> dict[str, Any]:
        return {"several": self.several, "max_pixels": self.max_pixels}

    def provenance(self) -> dict[str, str]:
        return {"source": self.source, "several_images": self.several}

    def jobs(self, wanted: set[int]) -> Iterator[list[tuple[int, str, list[Path]]]]:
        for position, item_id in enumerate(self.item_ids):
            if position in wanted:
                yield [(position, item_id, self.files[item_id])]

    def prepare(self, encoder: Encoder, job: Sequence[tuple[int, str, list[Path]]]) -> list[Prepared]:
        items = []
        for position, item_id, files in job:
            item = Prepared(position, item_id)
            for file in files:
                try:
                    item.inputs.append(encoder.prepare_image(decode(file, self.max_pixels)[0]))
                except Unusable as error:
                    item.problems.append({"item_id": item_id, "file": file.name, "reason": str(error)})
                if self.several == "first" and item.inputs:
                    break
            items.append(item)
        return items


def _stamp(file: Path) -> list[Any]:
    """Name and size; for a local file also when it changed. A downloaded one is named by its content."""
    try:
        status = file.stat()
    except OSError:
        return [file.name, None]
    return [file.name, status.st_size] + ([] if len(file.stem) == 64 else [status.st_mtime_ns])


INPUTS = {"image": Images, "text": Texts}
