"""Features on their way to a file: small shards that survive a kill, joined at the end without holding them all.

A shard ``000017.safetensors`` holds the vectors of the items 17 * S to 18 * S - 1 (those that could be encoded) and, as
metadata, their ids, what was skipped, why, and a digest of what all of them were made from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_prism.errors import PRISMError
from recbole_prism.features import FeatureFile
from recbole_prism.prepare.files import atomic_write, fingerprint, remove_leftovers

TYPES = {"float16": "F16", "float32": "F32"}
_HEADER_LIMIT = 100_000_000  # bytes; what safetensors accepts


class Shards:
    """The shards of one modality of one dataset, for one fingerprint of encoder and options."""

    def __init__(self, folder: Path, item_ids: Sequence[str], stamps: Sequence[Any], size: int, dtype: str):
        """stamps: of each item, what its vector is made from."""
        self.folder, self.item_ids, self.size, self.dtype = folder, item_ids, size, dtype
        self.n_items = len(item_ids)
        ends = range(0, self.n_items, size)
        self.digests = [fingerprint([item_ids[n : n + size], stamps[n : n + size]]) for n in ends]
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)

    def __len__(self) -> int:
        return -(-self.n_items // self.size)

    def path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.safetensors"

    def todo(self) -> list[int]:
        """Numbers of the shards that are not there in full; one that is damaged, or of other inputs, is removed."""
        missing = []
        for number in range(len(self)):
            try:
                with self._open(number) as file:
                    if file.metadata()["digest"] != self.digests[number]:
                        raise ValueError("made from other inputs")
                self.read(number)
            except Exception:  # whatever a damaged file makes the reader raise
                self.path(number).unlink(missing_ok=True)
                missing.append(number)
        return missing

    def write(self, number: int, vectors: dict[str, np.ndarray], skipped: list[dict[str, str]]) -> None:
        """vectors: item id -> float32 [d].

        Raises:
            PRISMError: a number does not fit the type of the file.
        """
        from safetensors.numpy import save

        matrix = np.stack(list(vectors.values())) if vectors else np.zeros((0, 0), np.float32)
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(matrix.astype(self.dtype))
        if not np.isfinite(stored).all():
            raise PRISMError(f"features up to {np.abs(matrix).max():.3g} do not fit {self.dtype}; use --dtype float32")
        metadata = {
            "item_ids": json.dumps(list(vectors)),
            "skipped": json.dumps(skipped),
            "digest": self.digests[number],
        }
        with atomic_write(self.path(number), "wb") as stream:
            stream.write(save({"features": stored}, metadata=metadata))

    def read(self, number: int) -> tuple[list[str], list[dict[str, str]], np.ndarray]:
        """(item ids, skipped, features). Raises what safetensors raises for a file that is not whole."""
        with self._open(number) as file:
            metadata = file.metadata()
            features = file.get_tensor("features")
            return json.loads(metadata["item_ids"]), json.loads(metadata["skipped"]), features

    def _open(self, number: int) -> Any:
        from safetensors import safe_open

        return safe_open(self.path(number), framework="np")

    def take_over(self, made: FeatureFile, skipped: list[dict[str, str]], digests: list[str]) -> None:
        """Fill missing shards whose digest is that of a finished file of the same encoder and options."""
        row_of = {item_id: row for row, item_id in enumerate(made.item_ids)}
        for number in self.todo():
            if number < len(digests) and digests[number] == self.digests[number]:
                ids = dict.fromkeys(self.item_ids[number * self.size : (number + 1) * self.size])
                vectors = {item_id: made.features[row_of[item_id]] for item_id in ids if item_id in row_of}
                self.write(number, vectors, [row for row in skipped if row["item_id"] in ids])

    def join(self, path: Path, metadata: dict[str, str]) -> tuple[int, int, list[dict[str, str]]]:
        """Write the feature file out of all shards; (rows, dimension, skipped). One shard is in memory at a time.

        Raises:
            PRISMError: no item at all could be encoded, or so many ids that the format cannot hold them.
        """
        item_ids: list[str] = []
        skipped: list[dict[str, str]] = []
        dimension = 0
        for number in range(len(self)):
            ids, left_out, features = self.read(number)
            item_ids += ids
            skipped += left_out
            dimension = features.shape[1] or dimension
        if not item_ids:
            reasons = sorted({row["reason"] for row in skipped})[:5]
            raise PRISMError(f"{path}: no item could be encoded; reasons: {reasons}")
        end = len(item_ids) * dimension * np.dtype(self.dtype).itemsize
        tensor = {"dtype": TYPES[self.dtype], "shape": [len(item_ids), dimension], "data_offsets": [0, end]}
        content = {"__metadata__": {**metadata, "item_ids": json.dumps(item_ids)}, "features": tensor}
        header = json.dumps(content, ensure_ascii=False).encode()
        header += b" " * (-len(header) % 8)
        if len(header) > _HEADER_LIMIT:
            raise PRISMError(f"{path}: the ids of {len(item_ids)} items are more than a safetensors header can hold")
        with atomic_write(path, "wb") as stream:
            stream.write(len(header).to_bytes(8, "little") + header)
            for block in self._blocks():
                stream.write(block)
        return len(item_ids), dimension, skipped

    def _blocks(self) -> Iterator[Any]:
        for number in range(len(self)):
            yield np.ascontiguousarray(self.read(number)[2]).tobytes()
