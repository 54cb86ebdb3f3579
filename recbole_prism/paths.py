"""Where our yaml files and embedded features lie: inside the installed package, or beside it in a clone."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def _folder(name: str) -> Path:
    installed = PACKAGE / name
    return installed if installed.is_dir() else PACKAGE.parent / name


PROPERTIES = _folder("properties")
DATASETS = _folder("dataset")
