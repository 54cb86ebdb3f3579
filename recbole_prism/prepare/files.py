"""The folder of one dataset, whole-or-nothing writing, checksums and the report every command adds to."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import threading
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from recbole_prism.errors import PRISMError
from recbole_prism.version import __version__

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MODALITY = re.compile(r"[a-z][a-z0-9_]{0,31}")


class DatasetFolder:
    """``DATA_PATH/NAME``: every file that the commands write for one dataset lies below it.

    Raises:
        PRISMError: the name could leave the folder or is no RecBole dataset name.
    """

    def __init__(self, name: str, data_path: str | Path = "dataset"):
        if not _NAME.fullmatch(name):
            raise PRISMError(f"dataset name {name!r}: use letters, digits, '.', '_' and '-', not starting with a dot")
        self.name = name
        self.path = Path(data_path) / name

    def file(self, suffix: str) -> Path:
        """``NAME.SUFFIX`` inside the folder."""
        return self.path / f"{self.name}.{suffix}"

    def existing(self, suffix: str, made_by: str) -> Path:
        """The same, for a file that an earlier step must have written."""
        path = self.file(suffix)
        if not path.is_file():
            raise PRISMError(f"{path}: no such file; {made_by}")
        return path

    @property
    def report(self) -> Path:
        return self.file("report.json")

    @property
    def images(self) -> Path:
        return self.path / "images"

    def work(self, step: str) -> Path:
        """Where a step keeps what it needs to resume; removed when the step is done."""
        return self.path / f".{step}"


@contextlib.contextmanager
def atomic_write(path: Path, mode: str = "w", sync: bool = True) -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` and rename it into place at the end; an exception leaves ``path`` alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{threading.get_ident()}.{os.getpid()}.part")
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with open(temporary, mode, **text) as stream:
            yield stream
            if sync:
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Temporary files of a killed run of ours; those of a process that is still alive stay."""
    for path in folder.glob(".*.part"):
        owner = path.name.split(".")[-2]
        if owner.isdigit() and not _alive(int(owner)):
            path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def write_json(path: Path, content: Any) -> None:
    with atomic_write(path) as stream:
        json.dump(content, stream, indent=1, ensure_ascii=False, sort_keys=True)
        stream.write("\n")


def read_json(path: Path) -> Any:
    """Raises PRISMError if the file is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PRISMError(f"{path}: not JSON ({error}); delete it and run the step again") from error


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def describe_file(path: Path, checksum: str | None = None) -> dict[str, Any]:
    """Name, bytes and sha256, for the report."""
    return {"file": str(path), "bytes": path.stat().st_size, "sha256": checksum or sha256(path)}


def identity(path: Path) -> tuple[str, int, int]:
    """What tells that a file has changed, without reading it."""
    status = path.stat()
    return os.path.abspath(path), status.st_size, status.st_mtime_ns


def fingerprint(content: Any) -> str:
    """Twelve hexadecimal digits that change when any option or input changes."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]


def versions(*packages: str) -> dict[str, str]:
    found = {"recbole-prism": __version__, "python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def utc_now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def read_report(folder: DatasetFolder) -> dict[str, Any]:
    return read_json(folder.report) if folder.report.is_file() else {}


def add_to_report(folder: DatasetFolder, step: str, content: dict[str, Any]) -> None:
    """Replace the section of ``step`` in ``NAME.report.json``; the other steps' sections stay."""
    report = read_report(folder)
    report["dataset"] = folder.name
    report[step] = {"date": utc_now(), **content}
    write_json(folder.report, report)


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON lines file that we wrote.

    Raises:
        PRISMError: a line is no JSON object, or has no ``item_id`` string.
    """
    with open(path, encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise PRISMError(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(row, dict) or not isinstance(row.get("item_id"), str) or not row["item_id"]:
                raise PRISMError(f"{path}, line {number}: an object with a string 'item_id' is needed")
            yield row
