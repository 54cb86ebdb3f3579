"""Recommend from trained models, in Python (``Recommender``) and on the command line.

Importing this package is cheap: functions are loaded when first asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

# verb -> (help line, module with add_arguments(parser) and main(args) -> exit status)
COMMANDS = {
    "recommend": ("top-k items for users or for a sequence of items", "recbole_prism.recommend.command"),
    "explain": ("expert weights and deletion tests, for one history or over users", "recbole_prism.explain"),
    "export": ("a checkpoint as a bundle without dataset or pickle", "recbole_prism.recommend.export"),
}

_PUBLIC = {
    "Recommendation": "recbole_prism.recommend.recommender",
    "Recommender": "recbole_prism.recommend.recommender",
    "explain": "recbole_prism.recommend.deletion",
    "export_bundle": "recbole_prism.recommend.bundle",
    "survey": "recbole_prism.recommend.population",
}

__all__ = ["COMMANDS", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
