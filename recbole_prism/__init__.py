"""RecBole-PRISM: multimodal sequential recommendation for RecBole.

``import recbole_prism`` makes RecBole know ``PRISM_SASRec`` and the other models of ``recbole_prism.register.MODELS``.
"""

from __future__ import annotations

import importlib
import os
import sys

from recbole_prism.errors import PRISMError
from recbole_prism.version import __version__

_LAZY = {  # public name: module
    "MODELS": "recbole_prism.models.table",
    "FUSIONS": "recbole_prism.fusion",
    "PRISMMixin": "recbole_prism.mixin",
    "PRISMTrainer": "recbole_prism.training.trainer",
    "plug": "recbole_prism.models.factory",
    "read_features": "recbole_prism.features",
    "write_features": "recbole_prism.features",
    "register": "recbole_prism.register",
}
__all__ = ["PRISMError", "__version__", *sorted(_LAZY)]


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module 'recbole_prism' has no attribute {name!r}")
    module = importlib.import_module(_LAZY[name])
    globals()[name] = getattr(module, name)
    return globals()[name]


def _started_as_command() -> bool:
    """Our own command line registers when a command needs it, so that --help does not wait for torch."""
    command = os.path.splitext(os.path.basename(sys.argv[0] if sys.argv else ""))[0]
    return command in ("recbole-prism", "run_recbole_prism") or sys.orig_argv[1:3] == ["-m", "recbole_prism"]


if not _started_as_command():
    from recbole_prism.register import register

    register()
