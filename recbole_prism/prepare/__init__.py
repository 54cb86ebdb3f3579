"""From raw data to a trainable multimodal dataset: ``prepare``, ``images``, ``encode`` and ``inspect``.

Importing this package is cheap: the table below names modules, and the functions are loaded when first asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

# verb -> (help line, module with add_arguments(parser) and main(args) -> exit status)
COMMANDS = {
    "prepare": ("raw data to RecBole's atomic files, texts and image addresses", "recbole_prism.prepare.prepare"),
    "images": ("download what NAME.images.jsonl names, resumable", "recbole_prism.prepare.images"),
    "encode": ("image and text features, resumable", "recbole_prism.prepare.encode"),
    "inspect": ("what a dataset holds; nearest items by features", "recbole_prism.prepare.inspection"),
}

_FUNCTIONS = {
    "prepare_dataset": "recbole_prism.prepare.prepare",
    "download_images": "recbole_prism.prepare.images",
    "encode_dataset": "recbole_prism.prepare.encode",
    "inspect_dataset": "recbole_prism.prepare.inspection",
}

__all__ = ["COMMANDS", *_FUNCTIONS]


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
