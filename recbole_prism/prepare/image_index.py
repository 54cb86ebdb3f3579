"""Which address's image lies in which file: lines appended as images arrive, so that a kill loses one at most."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from recbole_prism.prepare.files import atomic_write, remove_leftovers

_FILE = re.compile(r"([0-9a-f]{2})/\1[0-9a-f]{62}\.[a-z]{3,4}")


class ImageIndex:
    """``index.jsonl`` of one images folder. Only lines whose file exists in full count."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = folder / "index.jsonl"
        self._files: dict[str, str] = {}
        self._stream: IO[str] | None = None
        self._load()

    def _load(self) -> None:
        for row in _rows(self.path):
            url, file, size = row.get("url"), row.get("file"), row.get("bytes")
            if isinstance(url, str) and isinstance(file, str) and _FILE.fullmatch(file):
                with contextlib.suppress(OSError):
                    if (self.folder / file).stat().st_size == size:
                        self._files[url] = file

    def has(self, url: str) -> bool:
        return url in self._files

    def file(self, url: str) -> Path | None:
        """Where the image of an address lies, if it was fetched."""
        return self.folder / self._files[url] if url in self._files else None

    def repair(self) -> None:
        """Cut off a last line that a kill left half written, and remove half written images."""
        if self.path.is_file():
            with open(self.path, "rb+") as stream:
                end = stream.seek(0, os.SEEK_END)
                back = min(end, 1 << 16)
                stream.seek(end - back)
                tail = stream.read(back)
                if tail and not tail.endswith(b"\n"):
                    stream.truncate(end - back + tail.rfind(b"\n") + 1)
        for folder in [self.folder, *self.folder.glob("??")]:
            remove_leftovers(folder)

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Allow ``add``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8", newline="\n") as stream:
            self._stream = stream
            try:
                yield
            finally:
                self._stream = None

    def add(self, row: dict[str, Any]) -> None:
        self._stream.write(json.dumps(row) + "\n")
        self._stream.flush()
        self._files[row["url"]] = row["file"]

    def failures(self) -> Iterator[dict[str, Any]]:
        return (row for row in _rows(self.folder / "failures.jsonl") if isinstance(row.get("url"), str))

    def write_failures(self, rows: Iterable[dict[str, Any]]) -> None:
        with atomic_write(self.folder / "failures.jsonl") as stream:
            for row in rows:
                stream.write(json.dumps(row, ensure_ascii=True) + "\n")


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a JSON lines file; lines that are none are passed over."""
    if not path.is_file():
        return
    with open(path, encoding="utf-8", errors="replace") as stream:
        for line in stream:
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict):
                    yield row
