"""The files that ``prepare`` writes: whether they may be replaced, and how they are, all of them together."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from recbole_prism.errors import PRISMError
from recbole_prism.prepare.files import DatasetFolder, describe_file, read_json, read_report, sha256, write_json

OUTPUTS = ("inter", "item", "texts.jsonl", "images.jsonl", "yaml")
_OURS = "ours.json"  # in the work folder: checksums of what a run that was killed while replacing may have left


def intact(folder: DatasetFolder, done: dict[str, Any]) -> bool:
    """Whether all files are there in the size that the report's section says."""
    outputs = done.get("outputs", {})
    return set(outputs) == set(OUTPUTS) and all(
        folder.file(suffix).is_file() and folder.file(suffix).stat().st_size == output["bytes"]
        for suffix, output in outputs.items()
    )


def spare(inputs: dict[str, Path], folder: DatasetFolder, force: bool) -> None:
    """Raises PRISMError if a file to be written is an input, or (unless ``force``) not as ``prepare`` left it."""
    files = {suffix: folder.file(suffix) for suffix in OUTPUTS}
    outputs = {path.resolve() for path in files.values()}
    for role, path in inputs.items():
        if Path(path).resolve() in outputs:
            raise PRISMError(
                f"{path}: would be overwritten, and it is the input ({role}); "
                "name the dataset otherwise, or move the file out of its folder"
            )
    ours = {} if force else _ours(folder)
    for suffix, path in files.items():
        if not force and path.exists() and sha256(path) not in ours.get(suffix, ()):
            raise PRISMError(
                f"{path}: would be overwritten, and is not as prepare left it; name the dataset otherwise, "
                "move the file out of its folder, or replace it by --force"
            )


def replace(folder: DatasetFolder, made: DatasetFolder) -> dict[str, dict[str, Any]]:
    """Move the files out of the folder where they were ``made``, and describe them for the report.

    The report's old section goes first: a run that is killed here leaves none that does not fit the files.
    """
    described = {suffix: describe_file(made.file(suffix)) for suffix in OUTPUTS}
    ours = _ours(folder)
    for suffix, file in described.items():
        ours[suffix] = [*ours.get(suffix, ()), file["sha256"]]
    write_json(folder.work("prepare") / _OURS, ours)
    report = read_report(folder)
    if report.pop("prepare", None):
        write_json(folder.report, report)
    for suffix in OUTPUTS:
        os.replace(made.file(suffix), folder.file(suffix))
    return {suffix: {**file, "file": str(folder.file(suffix))} for suffix, file in described.items()}


def outdated_features(folder: DatasetFolder) -> list[str]:
    """Names of the feature files that `encode` made from other texts or images than are there now."""
    from safetensors import SafetensorError, safe_open

    found = []
    for path in sorted(folder.path.glob(f"{folder.name}.*.safetensors")):
        with contextlib.suppress(SafetensorError, OSError), safe_open(path, framework="np") as file:
            if is_outdated(folder, (file.metadata() or {}).get("source", "")):
                found.append(path.name)
    return found


def is_outdated(folder: DatasetFolder, source: str) -> bool:
    """Whether a feature file's ``source``, "FILE sha256:DIGEST", is not what FILE holds now."""
    name, _, digest = source.partition(" sha256:")
    path = folder.path / Path(name).name
    return bool(digest) and path.is_file() and sha256(path) != digest


def _ours(folder: DatasetFolder) -> dict[str, list[str]]:
    """suffix -> checksums of the files that ``prepare`` made: by the report, and by a run that was killed."""
    kept = folder.work("prepare") / _OURS
    ours = read_json(kept) if kept.is_file() else {}
    for suffix, file in read_report(folder).get("prepare", {}).get("outputs", {}).items():
        ours[suffix] = [*ours.get(suffix, ()), file["sha256"]]
    return ours
