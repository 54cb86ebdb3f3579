"""Streams of lines and JSON objects out of raw files; what cannot be read is counted, never guessed."""

from __future__ import annotations

import ast
import hashlib
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recbole_prism.errors import PRISMError

MAX_LINE = 64 << 20  # bytes
MAX_LITERAL = 1 << 20  # bytes: Python's own parser needs about a hundred times the text's size
_CHUNK = 1 << 18
_NO_FIELD = object()


class BadLines:
    """Counts of unusable lines by file and reason, with the first few line numbers of each."""

    def __init__(self, tolerated: float = 0.01):
        """tolerated: share of a file's lines that may be bad (ten lines are always let pass)."""
        self.tolerated = tolerated
        self.counts: Counter[tuple[str, str]] = Counter()
        self.first: dict[tuple[str, str], list[int]] = {}

    def add(self, path: Path, line: int, reason: str) -> None:
        key = (path.name, reason)
        self.counts[key] += 1
        lines = self.first.setdefault(key, [])
        if len(lines) < 5:
            lines.append(line)

    def check(self, path: Path, n_lines: int) -> None:
        """Raises PRISMError if all of a file, or more than is tolerated, was bad."""
        ours = {key: count for key, count in self.counts.items() if key[0] == path.name and "(kept)" not in key[1]}
        n_bad = sum(ours.values())
        if n_bad and (n_bad == n_lines or (n_bad > 10 and n_bad > self.tolerated * n_lines)):
            worst = max(ours, key=lambda key: ours[key])
            raise PRISMError(
                f"{path}: {n_bad} of {n_lines} lines are unusable, most often: {worst[1]} (first: line "
                f"{self.first[worst][0]}); check that the source and the file match, or raise --max-bad-lines"
            )

    def summary(self) -> list[dict[str, Any]]:
        return [
            {"file": name, "reason": reason, "lines": count, "first_lines": self.first[name, reason]}
            for (name, reason), count in sorted(self.counts.items())
        ]


class RawFile:
    """A plain or gzip file read once, in blocks of lines; ``checksum`` (sha256 of the file) is known at the end."""

    def __init__(self, path: str | Path, progress: Any = None):
        """progress: an object with ``update(n_bytes)`` and ``close()``, such as a tqdm bar over the file's size.

        Raises:
            PRISMError: no such file.
        """
        self.path = Path(path)
        if not self.path.is_file():
            raise PRISMError(f"{self.path}: no such file")
        self.progress = progress
        self.checksum: str | None = None
        self.n_lines = 0

    def _raw_chunks(self) -> Iterator[bytes]:
        digest = hashlib.sha256()
        with open(self.path, "rb", buffering=0) as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                yield chunk
                if self.progress is not None:
                    self.progress.update(len(chunk))
        self.checksum = digest.hexdigest()
        if self.progress is not None:
            self.progress.close()

    def pass_over(self) -> None:
        """Read the file for its checksum only."""
        for _ in self._raw_chunks():
            pass

    def chunks(self) -> Iterator[bytes]:
        """Decompressed bytes; never more than a few megabytes at a time, whatever the compression ratio.

        Raises:
            PRISMError: the gzip data are damaged or end early.
        """
        inflate = None
        started = False
        for chunk in self._raw_chunks():
            if not started:
                started = True
                inflate = zlib.decompressobj(31) if chunk[:2] == b"\x1f\x8b" else None
            if inflate is None:
                yield chunk
                continue
            while chunk:
                if inflate.eof:  # the next member of the file, or padding
                    chunk = chunk.lstrip(b"\0")
                    if not chunk:
                        break
                    inflate = zlib.decompressobj(31)
                try:
                    data = inflate.decompress(chunk, 1 << 22)
                except zlib.error as error:
                    raise PRISMError(f"{self.path}: damaged gzip data ({error}); get the file again") from error
                if data:
                    yield data
                chunk = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
        if inflate is not None and not inflate.eof:
            raise PRISMError(f"{self.path}: the gzip data end early; get the file again")

    def blocks(self) -> Iterator[list[bytes]]:
        """Lists of lines without their newline; the byte order mark is dropped, blank lines stay.

        Raises:
            PRISMError: damaged gzip data, or a line longer than MAX_LINE.
        """
        rest = b""
        beginning: bytes | None = b""  # until the byte order mark is there in full, or cannot be
        for chunk in self.chunks():
            if beginning is not None:
                beginning += chunk
                if len(beginning) < 3:
                    continue
                chunk, beginning = beginning.removeprefix(b"\xef\xbb\xbf"), None
            lines = chunk.split(b"\n")
            lines[0] = rest + lines[0]
            rest = lines.pop()
            if len(rest) > MAX_LINE:
                raise PRISMError(f"{self.path}: line {self.n_lines + len(lines) + 1} is longer than 64 MiB")
            yield lines
            self.n_lines += len(lines)
        lines = (beginning or rest).split(b"\n")  # the last line has no newline
        if not lines[-1]:
            lines.pop()
        if lines:
            yield lines
            self.n_lines += len(lines)


def decode(line: bytes, path: Path, number: int, bad: BadLines, encoding: str = "utf-8") -> str:
    """Text of a line; a line that is not UTF-8 is read as Windows-1252/Latin-1, and counted."""
    try:
        return line.decode(encoding)
    except UnicodeDecodeError:
        bad.add(path, number, f"not {encoding}, read as windows-1252 (kept)")
        try:
            return line.decode("cp1252")
        except UnicodeDecodeError:
            return line.decode("latin-1")


def parse_object(line: bytes, path: Path, number: int, bad: BadLines, literal: bool = False) -> dict[str, Any] | None:
    """One line as JSON or (``literal``) as a Python literal; None, and counted, if it is no object."""
    import orjson

    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        text = decode(line, path, number, bad)
        try:
            row = orjson.loads(text.encode("utf-8", "replace"))
        except orjson.JSONDecodeError:
            row = _literal(text) if literal else _NO_FIELD
    if isinstance(row, dict):
        return row
    bad.add(path, number, "not a JSON object" + (" or Python literal" if literal else ""))
    return None


def _literal(text: str) -> Any:
    if len(text) > MAX_LITERAL:
        return _NO_FIELD
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return _NO_FIELD


def parse_lines(
    lines: list[bytes], before: int, path: Path, bad: BadLines, literal: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of the usable ones of these lines, which follow ``before`` others; blank ones pass."""
    import orjson

    loads = orjson.loads
    for number, line in enumerate(lines, before + 1):
        try:
            row = loads(line)
        except orjson.JSONDecodeError:
            if not line.strip():
                continue
            row = parse_object(line, path, number, bad, literal)
        if type(row) is dict:
            yield number, row
        elif row is not None:
            bad.add(path, number, "not a JSON object")


def objects(raw: RawFile, bad: BadLines, literal: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every usable line; raises PRISMError when too many are not (see BadLines)."""
    for lines in raw.blocks():
        yield from parse_lines(lines, raw.n_lines, raw.path, bad, literal)
    bad.check(raw.path, raw.n_lines)


def text_lines(raw: RawFile, bad: BadLines, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """(line number, text without line ending); blank lines are left out."""
    number = 0
    for lines in raw.blocks():
        for line in lines:
            number += 1
            if line.strip():
                yield number, decode(line, raw.path, number, bad, encoding).rstrip("\r")
